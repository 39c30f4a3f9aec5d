"""The accelerator's protocol on a double of one: verdicts arrive steps later, and nothing waits for them."""

import gc
import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from numguard.interception.inspection import Inspector
from numguard.interception.mailbox import CudaParcel, RingMailbox
from numguard.session.guarded_loop import Guard
from numguard.session.options import GuardOptions
from tests.session.late_courier import Courier, NoNumpy, NoWaiting
from tests.session.small_net import Net, batch

DELAY = 3  # steps


def wrong_sums(steps: set[int], now: list[int]) -> Any:
    """Return a library that makes ``aten::sum`` wrong, for tensors of 77 elements, in some steps."""
    library = torch.library.Library("aten", "IMPL")

    def kernel(keyset: Any, x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        right = torch.ops.aten.sum.dim_IntList.redispatch(keyset, x, [], False, dtype=dtype)
        return right * 2 if x.numel() == 77 and now[0] in steps else right

    library.impl("sum", kernel, "CPU", with_keyset=True)
    return library


def run(
    num_steps: int = 12,
    *,
    wrong: set[int] = frozenset(),  # type: ignore[assignment]
    watch: Any = None,
    delay: int = DELAY,
    budget: float | None = None,
    poison: int | None = None,
) -> tuple[Guard, Courier, list[int]]:
    """Train, and return the guard, its courier and how many findings were known after each step."""
    torch.manual_seed(0)
    model, now, known = Net(), [0], []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    courier = Courier(delay)
    guard = Guard(GuardOptions(budget=budget), model=model, optimizers=[optimizer], send=courier)
    library = wrong_sums(wrong, now) if wrong else None
    try:
        with watch or nullcontext(), guard:
            for step in range(num_steps):
                now[0] = step
                logits = model(batch(step))
                extra = torch.linspace(0, 1, 77).sum()
                loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch(step).roll(1, 1).flatten())
                if step == poison:
                    loss = loss * torch.log(torch.zeros(()) - 1.0)
                (loss + 0.0 * extra).backward()
                optimizer.step()
                optimizer.zero_grad()
                guard.step(loss)
                courier.now += 1
                known.append(len([f for f in guard.findings if f.kind != "degraded"]))
    finally:
        if library is not None:
            library._destroy()
    return guard, courier, known


def test_nothing_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    depth, theirs = [0], [None]
    numpy = NoNumpy(monkeypatch, lambda: depth[0] == 0)
    watch = NoWaiting(lambda func: depth[0] == 0 or func is theirs[0])

    def entered(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def inside(self: Any, *args: Any, **kwargs: Any) -> Any:
            planted = "numguard_selftest" in str(args[0])  # its tensors are in host memory
            theirs[0] = args[0]
            depth[0] += not planted
            try:
                return original(self, *args, **kwargs)
            finally:
                depth[0] -= not planted

        monkeypatch.setattr(owner, name, inside)

    entered(Inspector, "observe")
    entered(Guard, "step")
    guard, courier, _ = run(watch=watch)
    assert {*watch.violations, *numpy.violations} == set()
    assert guard.coverage.num_checks > 200
    assert [finding.message for finding in guard.findings] == []
    assert courier.num_sent >= 12


def test_a_wrong_result_is_found_when_its_verdict_arrives() -> None:
    guard, _, known = run(wrong={4})
    found = [finding for finding in guard.findings if finding.op == "aten::sum"]
    assert len(found) == 1
    assert found[0].first_caught_step == 4
    assert found[0].last_clean_step == 3
    assert found[0].kind == "wrong_result"
    # The double has the processor's own bounds; on an accelerator they are assumed so far, and this is a warning.
    assert (found[0].severity, found[0].model, found[0].confirmed) == ("error", "calibrated", "second-shadow")
    assert known.index(1) >= 4 + DELAY


def test_verdicts_keep_their_order_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[int] = []
    original = Inspector._deliver

    def deliver(self: Any, judged: Any, numbers: Any) -> None:
        assert judged.inspection.args == ()
        orders.append(judged.order)
        original(self, judged, numbers)

    monkeypatch.setattr(Inspector, "_deliver", deliver)
    guard, _, _ = run(delay=5)
    assert orders == list(range(1, len(orders) + 1))
    assert len(orders) == guard.overhead.num_checks


def test_a_full_ring_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numguard.interception.mailbox.MOST_PARCELS", 1)
    monkeypatch.setattr(RingMailbox.__init__, "__defaults__", (CudaParcel, 512))
    guard, _, _ = run(delay=100)
    degraded = [finding for finding in guard.findings if finding.kind == "degraded"]
    assert "verdict" in {finding.evidence["stage"] for finding in degraded}
    assert guard._run.mailbox.num_dropped > 0


def test_a_verdict_that_never_arrives_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RingMailbox, "_deliver", staticmethod(lambda *_: None))
    guard, _, _ = run()
    assert "verdict" in {f.evidence["stage"] for f in guard.findings if f.kind == "degraded"}


def test_no_tensor_of_the_users_is_kept() -> None:
    courier, model = Courier(10**6), Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = Guard(GuardOptions(budget=None), model=model, optimizers=[optimizer], send=courier)
    alive: list[weakref.ref[Tensor]] = []
    with guard:
        for step in range(2):
            hidden = model.embed(batch(step))
            logits = model.head(hidden)
            loss = logits.float().square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            guard.step(loss)
            alive += [weakref.ref(part) for part in (hidden, logits, loss)]
            del hidden, logits, loss
        gc.collect()
        assert [ref() is None for ref in alive] == [True] * 6
        assert guard.overhead.num_checks > guard._run.inspector.num_judged  # the verdicts are still on their way
    assert guard.overhead.num_checks == guard._run.inspector.num_judged


@pytest.mark.parametrize("budget", [None, 0.5])
def test_a_nonfinite_loss_is_located_when_its_flags_arrive(budget: float | None) -> None:
    guard, _, _ = run(poison=5, budget=budget)
    found = [finding for finding in guard.findings if finding.kind == "nonfinite"]
    assert found[0].first_caught_step == 5
    assert found[0].op == ("aten::log" if budget is None else "")


def test_losses_that_arrive_late_are_recorded() -> None:
    guard, courier, _ = run(8)
    assert courier.num_waits >= 1  # at the end, and there only
    (curve,) = guard._run.log.records().curves
    assert [step for step, _ in curve.points] == list(range(8))
