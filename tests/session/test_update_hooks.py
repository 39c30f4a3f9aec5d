"""Optimizer steps are counted in a batch as they are one by one."""

import torch

from numguard.session.provenance import Provenance
from numguard.session.update_hooks import UpdateHooks


def counted(num_updates: int, num_rested: int, *, at_end: bool = False, told: bool = True) -> str | None:
    """Return the complaint after so many updates, between which the guard rested."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.0)
    failures: list[object] = []
    provenance = Provenance(
        None,
        [optimizer],
        budget=0.01,
        step=lambda: 0,
        step_seconds=lambda: 0.01,
        charge=lambda _: None,
        enter=lambda *_, **__: failures.append("entered"),
        fault=lambda *given: failures.append(given),
    )
    calls: list[str] = []
    count = UpdateHooks([optimizer], lambda: calls.append("before"), lambda: calls.append("after"), provenance)
    provenance.start()
    count.start()
    count.is_armed = True
    for _ in range(num_updates):
        optimizer.step()
    count.num_untold = num_rested
    if told:
        count.stepped()
    count.stop()
    provenance.stop()
    assert calls == ["before", "after"] * num_updates
    assert failures == []
    assert provenance.num_steps == num_updates
    return count.complaint(at_end=at_end)


def test_one_update_a_step_is_as_it_should_be() -> None:
    assert counted(33, 32) is None
    assert counted(33, 33, at_end=True, told=False) is None


def test_many_updates_without_a_step_are_told() -> None:
    said = counted(80, 32)
    assert said is not None
    assert said.startswith("48 steps of an optimizer passed")
    assert counted(2, 0, at_end=True, told=False) is not None
