"""Start, stop, pause, nesting, attempts and exceptions: every call at every moment has one clear meaning."""

import json
import os
import shutil
import threading
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

import numguard
from numguard.errors import GuardStateError, UsageError
from numguard.records import read_run
from numguard.testing import faulty_kernel


def one_step(guard: Any, model: nn.Module) -> None:
    loss = model(torch.ones(2, 4)).sum()
    loss.backward()
    guard.step(loss)


def events(run_dir: Path) -> list[dict[str, Any]]:
    lines = [line for file in sorted((run_dir / "events").iterdir()) for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def kinds(run_dir: Path) -> list[str]:
    return [event.get("event") or event.get("kind") or "" for event in events(run_dir)]


@pytest.mark.parametrize("call", ["step", "micro_step", "arm"])
def test_a_call_outside_the_block_is_refused(call: str) -> None:
    guard = numguard.guard()
    for _ in range(2):
        with pytest.raises(GuardStateError, match=f"guard.{call}.* outside"):
            getattr(guard, call)(1)
        with guard:
            guard.step(1.0)


@pytest.mark.parametrize("call", ["step", "micro_step", "arm"])
def test_a_call_from_another_thread_is_refused(call: str) -> None:
    refused: list[BaseException] = []

    def work(guard: Any) -> None:
        try:
            getattr(guard, call)(1)
        except GuardStateError as error:
            refused.append(error)

    with numguard.guard() as guard:
        thread = threading.Thread(target=work, args=(guard,))
        thread.start()
        thread.join()
        guard.step(1.0)
    assert len(refused) == 1
    assert "another thread" in str(refused[0])


def test_a_guard_in_each_thread() -> None:
    results: list[int] = []

    def work() -> None:
        model = nn.Linear(4, 4)
        with numguard.guard(model, budget=None) as guard:
            for _ in range(3):
                one_step(guard, model)
        results.append(guard.coverage.num_checks)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert len(set(results)) == 1
    assert results[0] > 0


@pytest.mark.parametrize(
    "loss",
    [
        torch.ones(2),
        torch.ones(()) * 1j,
        torch.ones((), device="meta"),
        torch.nested.nested_tensor([torch.ones(1)], layout=torch.jagged),
        "1.0",
        True,
    ],
    ids=["several", "complex", "meta", "nested", "text", "bool"],
)
@pytest.mark.parametrize("method", ["step", "micro_step"])
def test_a_loss_that_is_no_number_is_refused_and_nothing_is_lost(loss: Any, method: str) -> None:
    with numguard.guard(nn.Linear(2, 2)) as guard:
        guard.step(torch.ones(()))
        with pytest.raises(UsageError):
            getattr(guard, method)(loss)
        guard.step(torch.ones(1))
    assert guard.coverage.num_steps == 2


@pytest.mark.parametrize("number", [-1, 1.5, "3", True, 2**63])
def test_a_step_number_that_is_none_is_refused(number: Any) -> None:
    with numguard.guard() as guard, pytest.raises(UsageError, match="step="):
        guard.step(1.0, step=number)


def test_a_users_exception_is_unchanged_and_the_log_is_closed(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    error = RuntimeError("mine")

    def program() -> None:
        with numguard.guard(model, run_dir=tmp_path, budget=None) as guard:
            one_step(guard, model)
            raise error

    with pytest.raises(RuntimeError) as caught:
        program()
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert _get_current_dispatch_mode() is None
    assert model._compiled_call_impl is None
    stop = [event for event in events(tmp_path) if "stop" in (event.get("event"), event.get("kind"))]
    assert len(stop) == 1
    assert "RuntimeError" in json.dumps(stop)
    assert len(read_run(tmp_path).starts) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_inside_an_operator_passes(error: type[BaseException]) -> None:
    class Breaking(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.sum()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            raise error

    guard = numguard.guard(budget=None)
    with pytest.raises(error), guard:
        Breaking.apply(torch.ones(3, requires_grad=True)).backward()
    assert _get_current_dispatch_mode() is None
    assert [finding.message for finding in guard.findings] == []


def test_an_operator_that_raises_does_so_unchanged() -> None:
    with numguard.guard(budget=None) as guard:
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            torch.ones(2, 3) @ torch.ones(4, 5)
        guard.step(torch.ones(3).sum())
    assert [finding.message for finding in guard.findings] == []


def test_start_and_stop_may_be_called_by_hand() -> None:
    guard = numguard.guard(nn.Linear(2, 2))
    guard.stop()
    guard.start()
    with pytest.raises(GuardStateError, match="twice"):
        guard.start()
    guard.step(1.0)
    guard.stop()
    guard.stop()
    assert guard.coverage.num_steps == 1
    guard.start()
    guard.step(1.0)
    guard.stop()
    assert guard.state_dict()["step"] == 2


@pytest.mark.parametrize("word", ["off", "OFF", "0", "false"])
def test_switched_off_it_does_nothing_at_all(word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMGUARD", word)
    model = nn.Linear(4, 4)
    guard = numguard.guard(model, run_dir=tmp_path / "run", budget=None)
    with guard as g, g.pause():
        assert _get_current_dispatch_mode() is None
        assert model._compiled_call_impl is None
        one_step(g, model)
        g.micro_step(1.0)
        g.arm(3)
    guard.step("anything")  # type: ignore[arg-type]
    guard.start().start().stop()
    assert (guard.findings, guard.coverage.num_steps, guard.overhead.num_steps) == ((), 0, 0)
    assert "switched off" in guard.report()
    assert not (tmp_path / "run").exists()


def test_a_pause_looks_away_and_may_be_nested() -> None:
    model = nn.Linear(4, 4)
    with numguard.guard(model, budget=None) as guard:
        one_step(guard, model)
        seen = guard.coverage.num_calls_seen
        with guard.pause(), guard.pause():
            model(torch.ones(2, 4))
        with guard.pause():
            with guard.pause():
                model(torch.ones(2, 4))
            model(torch.ones(2, 4))
            assert _get_current_dispatch_mode() is None
        assert guard.coverage.num_calls_seen == seen
        guard.step(1.0)
        one_step(guard, model)
        assert guard.coverage.num_calls_seen > seen
    assert guard.overhead.elapsed_seconds > 0.0


def test_a_nested_guard_suspends_the_outer_one() -> None:
    model, inner_model = nn.Linear(4, 4), nn.Linear(4, 4)
    with numguard.guard(model, budget=None) as outer:
        one_step(outer, model)
        before = outer.coverage
        with numguard.guard(inner_model, budget=None) as inner:
            one_step(inner, inner_model)
            outer.step(1.0)
        assert inner.coverage.num_checks > 0
        assert outer.coverage.num_calls_seen == before.num_calls_seen
        assert outer.coverage.num_steps == before.num_steps
        outer.step(1.0)
        one_step(outer, model)
    assert outer.coverage.num_calls_seen > before.num_calls_seen
    assert [f.message for f in (*outer.findings, *inner.findings)] == []


def test_steps_under_a_nested_guard_are_not_held_against_the_outer_one() -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with numguard.guard(model, optimizer) as outer:
        with numguard.guard(model, optimizer) as inner:
            for _ in range(60):
                model(torch.ones(2, 4)).sum().backward()
                optimizer.step()
                inner.step(1.0)
        outer.step(1.0)
    assert [f.message for f in (*outer.findings, *inner.findings)] == []


def test_guards_may_be_stopped_in_any_order() -> None:
    first, second = numguard.guard(budget=None), numguard.guard(budget=None)
    first.start()
    second.start()
    first.stop()
    second.step(torch.ones(3).sum())
    second.stop()
    third = numguard.guard(budget=None).start()
    third.step(torch.ones(3).sum())
    third.stop()
    assert _get_current_dispatch_mode() is None
    assert second.coverage.num_steps == third.coverage.num_steps == 1


def test_a_state_goes_on_where_it_was_and_a_second_start_is_a_second_attempt(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    with numguard.guard(model, run_dir=tmp_path, budget=None) as guard:
        for _ in range(3):
            one_step(guard, model)
    state = json.loads(json.dumps(guard.state_dict()))
    again = numguard.guard(model, run_dir=tmp_path, budget=None)
    again.load_state_dict(state)
    with again:
        with pytest.raises(GuardStateError):
            again.load_state_dict(state)
        one_step(again, model)
    assert again.state_dict()["step"] == 4
    records = read_run(tmp_path)
    assert sorted(start.attempt for start in records.starts) == [0, 1]
    assert [finding.message for finding in records.findings] == []


@pytest.mark.parametrize("state", [None, {}, {"schema": 99, "step": 1}, {"schema": 1}, {"schema": 1, "step": -1}])
def test_a_state_of_something_else_is_refused(state: Any) -> None:
    with pytest.raises(UsageError):
        numguard.guard().load_state_dict(state)


def test_accumulated_losses_are_averaged() -> None:
    with numguard.guard() as guard:
        for part in (torch.tensor(1.0), 2.0, torch.tensor(6.0)):
            guard.micro_step(part)
        guard.step()
    (curve,) = guard._run.log.records().curves
    assert curve.points == ((0, 3.0),)


@pytest.mark.parametrize("budget", [0.01, None])
def test_a_directory_that_cannot_be_written_costs_events_only(
    budget: float | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    model = nn.Linear(4, 4)
    with numguard.guard(model, run_dir=tmp_path / "file" / "run", budget=budget) as guard:
        for _ in range(30):
            one_step(guard, model)
    degraded = [finding for finding in guard.findings if finding.evidence.get("stage") == "log"]
    assert len(degraded) == 1
    assert guard._run.log.num_dropped >= 2
    assert guard.coverage.num_steps == 30
    assert len([record for record in caplog.records if "cannot write" in record.getMessage()]) == 1
    assert "log" in guard.report()


def test_a_directory_that_is_removed_in_the_middle_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, run_dir = nn.Linear(4, 4), tmp_path / "run"
    with numguard.guard(model, run_dir=run_dir, budget=None) as guard:
        for step in range(200):
            one_step(guard, model)
            if step == 20:
                shutil.rmtree(run_dir)
    (degraded,) = guard.findings
    assert (degraded.kind, degraded.evidence["stage"]) == ("degraded", "log")
    assert "removed" in degraded.message
    assert guard.coverage.num_steps == 200
    assert len([record for record in caplog.records if "cannot write" in record.getMessage()]) == 1
    records = read_run(run_dir)
    assert [finding.kind for finding in records.findings] == ["degraded"], "what came after it is there again"
    (dropped,) = [happening for happening in records.happenings if happening.event == "dropped"]
    assert dropped.fields["count"] == guard._run.log.num_dropped > 0


def test_a_report_after_the_end_loses_nothing_and_says_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(4, 4)
    with numguard.guard(model, run_dir=tmp_path, budget=None) as guard:
        for _ in range(5):
            one_step(guard, model)
    first, again = guard.report(), guard.report()
    assert first == again
    assert "GO ON: no error and no warning" in first
    assert "as promised" not in first
    assert guard._run.log.num_dropped == 0
    assert [record.getMessage() for record in caplog.records] == []


def test_a_disk_that_fills_up_costs_events_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, full, write = nn.Linear(4, 4), [False], os.write

    def writing(descriptor: int, data: bytes) -> int:
        if full[0] and len(data) > 40:
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", writing)
    with numguard.guard(model, run_dir=tmp_path, budget=None) as guard:
        one_step(guard, model)
        full[0] = True
        for _ in range(70):
            one_step(guard, model)
        full[0] = False
    assert {finding.evidence.get("stage") for finding in guard.findings} == {"log"}
    assert "No space left" in guard.findings[0].message
    assert any(happening.event == "dropped" for happening in read_run(tmp_path).happenings)


@pytest.mark.parametrize("away", ["pause", "nested", "nested in a pause"])
def test_the_rest_of_a_step_is_looked_at_after_looking_away(away: str) -> None:
    model, inner = nn.Linear(4, 4), nn.Linear(4, 4)
    with numguard.guard(model, budget=None) as guard:
        one_step(guard, model)
        with guard.pause() if away != "nested" else nullcontext():
            if away != "pause":
                with numguard.guard(inner, budget=None) as nested:
                    one_step(nested, inner)
                    inner(torch.ones(2, 4))
                assert nested.coverage.num_checks > 0
            assert (_get_current_dispatch_mode() is None) == (away != "nested")
        seen = guard.coverage.num_checks
        one_step(guard, model)
        assert guard.coverage.num_checks > seen
    assert _get_current_dispatch_mode() is None
    assert guard.coverage.num_armed_steps == guard.coverage.num_steps == 2
    assert guard.findings == ()


def test_a_guard_that_ends_in_its_own_pause_leaves_nothing_behind() -> None:
    model = nn.Linear(4, 4)
    guard = numguard.guard(model, budget=None).start()
    one_step(guard, model)
    with guard.pause():
        guard.stop()
    assert _get_current_dispatch_mode() is None
    assert model._compiled_call_impl is None


@pytest.mark.parametrize("num_told", [0, 2])
def test_a_loop_that_does_not_tell_of_its_steps_hears_of_it_at_the_end(num_told: int) -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with numguard.guard(model, optimizer) as guard:
        for step in range(6):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            if step < num_told:
                guard.step()
    said = [finding.message for finding in guard.findings if finding.kind == "degraded"]
    assert len(said) == (num_told == 0)
    assert all("6 steps of an optimizer passed" in text for text in said)


def test_many_steps_of_the_only_optimizer_for_each_of_the_guard_are_said_once() -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with numguard.guard(model, optimizer) as guard:
        for step in range(100):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            if step % 3 == 2:
                guard.step()
    assert [finding.kind for finding in guard.findings] == ["degraded"]


def test_what_on_finding_raises_does_not_hide_the_exception_of_the_loop() -> None:
    def refuse(finding: numguard.Finding) -> None:
        raise KeyError("refused")

    model = nn.Linear(4, 4)
    mine = RuntimeError("mine")

    def loop() -> None:
        with (
            numguard.guard(model, budget=None, on_finding=refuse),
            faulty_kernel("aten::addmm", lambda call: call.results[0].add_(1.0)),
        ):
            model(torch.ones(2, 4))
            raise mine

    with pytest.raises(RuntimeError, match=r"^mine") as caught:
        loop()
    assert caught.value is mine
    assert any("refused" in note for note in mine.__notes__)


@pytest.mark.parametrize(
    "given", [np.float32(2.5), np.array(2.5), np.array([2.5]), Fraction(5, 2), torch.tensor([[2.5]])], ids=repr
)
def test_one_number_is_a_loss_in_whatever_it_comes(given: Any) -> None:
    with numguard.guard() as guard:
        guard.step(given, step=np.int64(3), lr=given, tokens=np.int64(7), grad_norm=given)
        guard.micro_step(given)
        guard.step()
    assert guard.state_dict()["step"] == 5
    assert guard.findings == ()


@pytest.mark.parametrize("name", ["lr", "tokens", "grad_norm", "loss_scale"])
@pytest.mark.parametrize("given", ["much", [1.0], torch.ones(2), np.ones(2), True], ids=repr)
def test_what_is_no_number_is_refused_by_its_name(name: str, given: Any) -> None:
    with numguard.guard() as guard:
        with pytest.raises(UsageError, match=f"a {name} of"):
            guard.step(1.0, **{name: given})
        with pytest.raises(UsageError, match=r"micro_step.* a loss of"):
            guard.micro_step(given)
    assert guard.coverage.num_steps == 0
