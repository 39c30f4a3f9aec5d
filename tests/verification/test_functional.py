"""Instrumented reductions: torch's bits, faults found, and a guard that keeps what it counts in order."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import numguard
from numguard import FindingError, functional
from numguard.testing import KernelCall, faulty_kernel
from tests.session.small_net import digest
from tests.verification.reductions import CALLS, numbers

SUM = "aten::sum.dim_IntList"


def _add_one(call: KernelCall) -> None:
    call.results[0].add_(1.0)


@pytest.fixture(autouse=True)
def _own_inquiry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(functional._inquiries, "inquiry", raising=False)


def _bits(function: Any, arguments: Any, dtype: torch.dtype) -> tuple[str, str]:
    x = numbers(dtype).requires_grad_()
    args, kwargs = arguments(x)
    result: Tensor = function(*args, **kwargs)
    result.backward(torch.ones_like(result))
    return digest([result]), digest([x.grad])


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", [*CALLS])
def test_values_and_gradients_are_torchs(name: str, dtype: torch.dtype, guarded: bool) -> None:
    ours, theirs, arguments = CALLS[name]
    bare = _bits(theirs, arguments, dtype)
    if not guarded:
        assert _bits(ours, arguments, dtype) == bare
        return
    with numguard.guard() as guard:
        assert _bits(ours, arguments, dtype) == bare
    assert guard.coverage.num_checks > 0
    assert [finding for finding in guard.findings if finding.severity == "error"] == []


def test_every_function_is_listed_and_documented() -> None:
    assert sorted([*CALLS, "all_reduce", "strict"]) == functional.__all__
    for name, (ours, _, _) in CALLS.items():
        assert ours.__name__ == name
        assert ours.__doc__ is not None
        assert "Notes\n-----" in ours.__doc__


def test_strict_raises_each_time_and_the_log_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.ones(2, 3)
    with faulty_kernel(SUM, _add_one), caplog.at_level(logging.WARNING, "numguard"):
        for _ in range(3):
            with functional.strict(), pytest.raises(FindingError, match="returned 4 where 3 is right"):
                functional.sum(x, 1)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    with functional.strict():
        assert functional.sum(x, 1).tolist() == [3.0, 3.0]


def test_without_strict_the_result_is_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    with faulty_kernel(SUM, _add_one), caplog.at_level(logging.WARNING, "numguard"):
        totals = [functional.sum(torch.ones(2, 3), 1).tolist() for _ in range(4)]
    assert totals == 4 * [[4.0, 4.0]]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("budget", [0.01, None])
def test_a_guard_gets_the_finding_in_any_step(budget: float | None) -> None:
    with faulty_kernel(SUM, _add_one, when=lambda arguments: bad[0]), numguard.guard(budget=budget) as guard:
        for step in range(12):
            bad[0] = step == 9
            functional.sum(torch.ones(5, 7), 1)
            bad[0] = False
            guard.step(1.0)
    (finding,) = [finding for finding in guard.findings if finding.kind == "wrong_result"]
    assert (finding.severity, finding.op) == ("error", SUM)
    assert (finding.first_caught_step, finding.last_clean_step) == (9, 8)
    assert (finding.count, finding.checked) == (1, 10)


bad = [False]


def test_a_guard_raises_at_the_end_of_the_step() -> None:
    with numguard.guard(on_finding="raise") as guard:
        for _ in range(30):
            guard.step(torch.ones(()))
        with faulty_kernel(SUM, _add_one):
            assert functional.sum(torch.ones(2, 3), 1).tolist() == [4.0, 4.0]
        with pytest.raises(FindingError, match="returned 4 where 3 is right"):
            guard.step(torch.ones(()))


def test_checks_on_demand_do_not_count_as_calls_of_armed_steps() -> None:
    with numguard.guard(budget=0.01) as guard:
        for _ in range(30):
            functional.sum(torch.ones(5, 7), 1)
            guard.step(1.0)
        run = guard._run
        assert run is not None
        assert {site.calls_in_step for site in run.sites} <= {0, 1}
        assert all(site.calls_per_step <= 1.0 for site in run.sites)
        assert len(run.inspector.attribution._forward) <= 1
    (site,) = [site for site in guard.coverage.sites if site.op == SUM]
    assert site.checked == site.seen == 30
    assert guard.overhead.own_seconds > 0.0


def test_a_guard_that_looks_away_sees_nothing() -> None:
    with numguard.guard() as guard, guard.pause():
        functional.sum(torch.ones(5, 7), 1)
    assert guard.coverage.num_checks == 0


def test_switched_off_and_inside_other_modes_it_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty_kernel(SUM, _add_one), functional.strict():
        with FlopCounterMode(display=False):
            assert functional.sum(torch.ones(2, 3), 1).tolist() == [4.0, 4.0]
        monkeypatch.setenv("NUMGUARD", "off")
        assert functional.sum(torch.ones(2, 3), 1).tolist() == [4.0, 4.0]


def test_inside_verify_it_is_examined_once() -> None:
    with faulty_kernel(SUM, _add_one), functional.strict():
        verdict = numguard.verify(functional.sum, torch.ones(2, 3), 1)
    assert [finding.kind for finding in verdict.findings] == ["wrong_result"]


def test_exceptions_of_torch_pass_through() -> None:
    with pytest.raises(IndexError, match="Dimension out of range"):
        functional.sum(torch.ones(3), 5)
    with numguard.guard(), pytest.raises(IndexError, match="Dimension out of range"):
        functional.sum(torch.ones(3), 5)
    assert functional.sum(torch.ones(3)).item() == 3.0


def test_compiled_code_is_not_broken_up() -> None:
    @torch.compile(backend="eager", fullgraph=True)
    def both(x: Tensor) -> Tensor:
        return functional.softmax(x, -1) + _same(x)

    x = numbers(torch.float32)
    assert torch.equal(both(x), torch.softmax(x, -1) + x)


@numguard.shadowed(reference=lambda x: x + 1.0, error_bound=0.0)
def _same(x: Tensor) -> Tensor:
    return x.clone()


def test_traced_code_only_pretends() -> None:
    with FakeTensorMode(), functional.strict():
        assert isinstance(functional.sum(torch.ones(2, 3), 1), FakeTensor)
        assert isinstance(_same(torch.ones(2)), FakeTensor)


def test_transformed_code_has_torchs_values() -> None:
    x = numbers(torch.float64)
    with functional.strict():
        assert torch.equal(torch.func.vmap(functional.logsumexp, in_dims=(0, None))(x, 0), torch.logsumexp(x, 1))
        assert torch.equal(torch.func.grad(functional.sum)(x), torch.ones_like(x))
