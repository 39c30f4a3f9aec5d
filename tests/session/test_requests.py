"""What is asked of a guard while it runs: bursts, several optimizers, what to do about a finding, accepted ones."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import numguard
from numguard.errors import FindingError, UsageError
from numguard.finding import Finding
from numguard.session.triggers import Triggers


@pytest.fixture
def wrong_sum() -> Iterator[None]:
    """Put a wrong kernel under sums of 33 elements."""
    library = torch.library.Library("aten", "IMPL")

    def kernel(keyset: Any, x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        right = torch.ops.aten.sum.dim_IntList.redispatch(keyset, x, [], False, dtype=dtype)
        return right + 1 if x.numel() == 33 else right

    library.impl("sum", kernel, "CPU", with_keyset=True)
    yield
    library._destroy()


def train(guard: Any, model: nn.Module, steps: int, optimizers: list[Any] | None = None) -> None:
    for _ in range(steps):
        loss = model(torch.ones(2, 4)).sum()
        loss.backward()
        for optimizer in optimizers or ():
            optimizer.step()
            optimizer.zero_grad()
        guard.step(loss)


def num_bursts(guard: Any) -> list[str]:
    return [str(event.fields["reason"]) for event in guard._run.log.records().happenings if event.event == "burst"]


def test_a_burst_checks_every_call_of_the_next_steps() -> None:
    model = nn.Linear(4, 4)
    with numguard.guard(model, budget=0.001) as guard:
        train(guard, model, 3)
        assert guard.coverage.num_checks == 0
        guard.arm(2)
        train(guard, model, 5)
        seen = guard.coverage
    assert seen.num_armed_steps == 2
    assert seen.num_checks == seen.num_calls_seen > 0
    assert guard.overhead.burst_seconds > 0.0
    assert num_bursts(guard) == ["g.arm"]


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "5"])
def test_a_burst_of_no_steps_is_refused(steps: Any) -> None:
    with numguard.guard() as guard, pytest.raises(UsageError, match="at least 1"):
        guard.arm(steps)


def test_a_signal_asks_for_a_burst_and_is_given_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    model = nn.Linear(4, 4)
    with numguard.guard(model, budget=0.001) as guard:
        train(guard, model, 2)
        os.kill(os.getpid(), signal.SIGUSR1)
        train(guard, model, 60)
        assert guard.coverage.num_armed_steps == 5
    assert num_bursts(guard) == ["SIGUSR1"]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_handler_of_the_users_is_left_alone() -> None:
    def theirs(number: int, frame: Any) -> None:
        del number, frame

    before = signal.signal(signal.SIGUSR1, theirs)
    try:
        with numguard.guard():
            assert signal.getsignal(signal.SIGUSR1) is theirs
        assert signal.getsignal(signal.SIGUSR1) is theirs
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        with numguard.guard():
            signal.signal(signal.SIGUSR1, theirs)
        assert signal.getsignal(signal.SIGUSR1) is theirs
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize(("text", "steps"), [("3", 3), ("", 5), ("many", 5), ("0", 1), ("99999999", 1000)])
def test_a_file_asks_for_a_burst(text: str, steps: int, tmp_path: Path) -> None:
    guard = numguard.guard(run_dir=tmp_path, budget=0.001)
    with guard:
        (tmp_path / "arm").write_text(text)
        guard.step(1.0)
        assert not (tmp_path / "arm").exists()
        assert guard._run.arming.burst_left + 1 == steps


@pytest.mark.parametrize("known", [True, False])
def test_several_optimizers_and_many_steps_of_each(known: bool) -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(60)))
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.01) for part in model]
    with numguard.guard(model, optimizers if known else None, budget=None) as guard:
        train(guard, model, 3, optimizers)
    assert [finding.message for finding in guard.findings] == []


def test_optimizer_steps_without_a_step_of_the_guard_are_said_once() -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with numguard.guard(model, optimizer) as guard:
        for _ in range(3):
            for _ in range(100):
                optimizer.step()
            guard.step(1.0)
    (finding,) = guard.findings
    assert finding.evidence["stage"] == "steps"
    assert "g.step" in finding.message + finding.advice


@pytest.mark.usefixtures("wrong_sum")
def test_a_finding_is_raised_where_that_was_asked_for() -> None:
    with numguard.guard(budget=None, on_finding="raise") as guard:
        torch.ones(33).sum()
        with pytest.raises(FindingError) as raised:
            guard.step(1.0)
    assert raised.value.finding == guard.findings[0]
    assert guard.findings[0].severity == "error"
    assert guard.findings[0].confirmed == "re-executed"


@pytest.mark.usefixtures("wrong_sum")
def test_a_users_error_goes_before_a_finding() -> None:
    def program() -> None:
        with numguard.guard(budget=None, on_finding="raise"):
            torch.ones(33).sum()
            raise KeyError("mine")

    with pytest.raises(KeyError) as raised:
        program()
    assert any("wrong_result" in note for note in raised.value.__notes__)


@pytest.mark.usefixtures("wrong_sum")
def test_a_function_is_told_each_finding_once() -> None:
    told: list[Finding] = []
    with numguard.guard(budget=None, on_finding=told.append) as guard:
        for _ in range(4):
            torch.ones(33).sum()
            guard.step(1.0)
    assert [finding.op for finding in told] == ["aten::sum"]
    assert guard.findings[0].count == 4


@pytest.mark.usefixtures("wrong_sum")
def test_an_accepted_finding_is_counted_and_not_reported(tmp_path: Path) -> None:
    with numguard.guard(budget=None) as guard:
        torch.ones(33).sum()
        guard.step(1.0)
    name = guard.findings[0].fingerprint
    (tmp_path / "accepted.toml").write_text(f'[[accepted]]\nfingerprint = "{name}"\nreason = "known"\n')
    with numguard.guard(budget=None, accept=tmp_path / "accepted.toml", on_finding="raise") as again:
        torch.ones(33).sum()
        again.step(1.0)
    assert again.findings == ()
    assert again._run.casebook.num_accepted[name] == 1


@pytest.mark.parametrize(
    ("text", "steps"), [("3", 3), ("", 5), ("many", 5), ("-2", 5), ("\u00b2", 5), ("9" * 12, 1000)]
)
def test_the_file_asks_for_as_many_steps_as_it_says(tmp_path: Path, text: str, steps: int) -> None:
    (tmp_path / "arm").write_text(text)
    triggers = Triggers(tmp_path)
    assert triggers.asked() == (steps, "RUN/arm")
    assert not (tmp_path / "arm").exists()
    assert triggers.asked() is None
