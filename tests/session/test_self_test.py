"""A guard that is broken at any stage says so, and names the stage; a healthy one is silent."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import numguard
from numguard.interception.inspection import Inspector
from numguard.interception.mode import ArmedMode
from numguard.interception.suspicion import Jury
from numguard.records import EventLog
from numguard.session import run as run_module
from numguard.session.casebook import Casebook
from tests.session.small_net import Net, train

Patch = Callable[[pytest.MonkeyPatch], None]


def guarded(num_steps: int = 12, **options: Any) -> Any:
    """Train a little and return the guard."""
    _, guard = train(
        Net,
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
        num_steps=num_steps,
        guard=lambda *given: numguard.guard(*given, **{"budget": None, **options}),
    )
    return guard


def stages(guard: Any) -> set[str]:
    return {finding.evidence["stage"] for finding in guard.findings if finding.kind == "degraded"}


def replaced(owner: Any, name: str, function: Callable[..., Any]) -> Patch:
    return lambda patch: patch.setattr(owner, name, function)


def refuse(*_: Any, **__: Any) -> Any:
    raise ArithmeticError("broken on purpose")


def pass_on(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    return func(*args, **(kwargs or {}))


BROKEN: dict[str, tuple[str, Patch]] = {
    "mode sees nothing": ("interception", replaced(ArmedMode, "__torch_dispatch__", pass_on)),
    "attribution raises": ("interception", replaced(Inspector, "_begin", refuse)),
    "no call is wanted": ("check", replaced(Inspector, "_begin", lambda *_: None)),
    "verdict raises": ("check", replaced(Inspector, "_judge", refuse)),
    "verdict is dropped": ("verdict", replaced(Inspector, "_note", lambda *_: False)),
    "shadow says fine": ("confirmation", replaced(Jury, "hear", lambda *_: None)),
    "confirmation disagrees": ("confirmation", replaced(Jury, "_wrong", lambda *_: None)),
    "observation is lost": ("confirmation", replaced(Jury, "_send", lambda *_, **__: None)),
    "findings are lost": ("finding", replaced(Casebook, "_finding", refuse)),
    "log refuses": ("log", replaced(EventLog, "_append", refuse)),
    "session raises": ("session", replaced(run_module.Run, "end_step", refuse)),
}


@pytest.mark.parametrize("way", BROKEN)
def test_a_broken_stage_is_named(way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stage, patch = BROKEN[way]
    patch(monkeypatch)
    assert stage in stages(guarded(run_dir=tmp_path))


@pytest.mark.parametrize("way", BROKEN)
def test_a_stage_that_breaks_later_is_named_at_the_end(
    way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage, patch = BROKEN[way]
    guard = numguard.guard(torch.nn.Linear(2, 2), run_dir=tmp_path, budget=None)
    with guard:
        guard.step(1.0)
        assert guard.findings == ()
        patch(monkeypatch)
        guard.step(1.0)
    assert stage in stages(guard)


def test_a_swallowed_exception_is_one_finding_with_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Inspector._judge

    def sometimes(self: Any, inspection: Any, check: Any, *rest: Any) -> None:
        if check.name == "layer_norm":
            raise ArithmeticError("broken on purpose")
        broken(self, inspection, check, *rest)

    monkeypatch.setattr(Inspector, "_judge", sometimes)
    guard = guarded()
    degraded = [finding for finding in guard.findings if finding.kind == "degraded"]
    assert len(degraded) == 1
    assert "ArithmeticError" in degraded[0].message
    assert all(site.checked == 0 for site in guard.coverage.sites if "native_layer_norm." in site.op + ".")


def test_a_closed_sink_is_found(tmp_path: Path) -> None:
    guard = numguard.guard(torch.nn.Linear(2, 2), run_dir=tmp_path, budget=None)
    with guard:
        guard.step(torch.ones(3).sum())
        guard._run.log.close()
        guard.step(torch.ones(3).sum())
    assert stages(guard) == {"log"}


def test_the_planted_fault_stays_private(tmp_path: Path) -> None:
    guard = guarded(run_dir=tmp_path)
    assert guard.findings == ()
    assert all("numguard_selftest" not in site.op for site in guard.coverage.sites)
    assert "numguard_selftest" not in guard.report()


@pytest.mark.parametrize("budget", [None, 0.01, 0.5])
@pytest.mark.parametrize("checks", [None, "softmax"])
def test_a_healthy_guard_is_silent(budget: float | None, checks: str | None, tmp_path: Path) -> None:
    guard = guarded(40, run_dir=tmp_path, budget=budget, checks=checks)
    # Steps of a few milliseconds may be too short for one percent, and that is said.
    assert stages(guard) <= ({"schedule"} if budget == 0.01 else set())


def test_a_run_that_a_stage_broke_is_still_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-3)

    bare, _ = train(Net, make, num_steps=8)
    for owner, name in ((Inspector, "_judge"), (Inspector, "_begin"), (run_module.Run, "end_step")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            broken, guard = train(Net, make, num_steps=8, guard=lambda *given: numguard.guard(*given, budget=None))
        assert broken == bare
        assert stages(guard)
