"""One call: right ones pass, planted faults do not, and what cannot be judged is said."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import numguard
from numguard.numerics.adversarial_data import ill_conditioned_sum
from numguard.session.nesting import innermost
from numguard.testing import KernelCall, faulty_kernel
from tests.verification.reductions import CALLS, numbers

aten = torch.ops.aten
SUM = "aten::sum.dim_IntList"


def _add_one(call: KernelCall) -> None:
    call.results[0].add_(1.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", [*CALLS])
def test_right_results_are_within_their_bounds(name: str, dtype: torch.dtype) -> None:
    _, function, arguments = CALLS[name]
    args, kwargs = arguments(numbers(dtype))
    verdict = numguard.verify(function, *args, **kwargs)
    assert verdict.ok
    assert verdict.num_elements > verdict.num_indeterminate
    assert 0.0 <= verdict.ratio <= 1.0
    assert verdict.forward_error == abs(verdict.value - verdict.shadow_value)
    assert verdict.forward_error <= verdict.error_bound


@pytest.mark.parametrize("op", [torch.sum, aten.sum, aten.sum.dim_IntList], ids=["function", "packet", "overload"])
def test_a_wrong_sum_is_an_error_with_its_numbers(op: Any) -> None:
    x = torch.arange(12.0).reshape(3, 4)
    with faulty_kernel(SUM, _add_one):
        verdict = numguard.verify(op, x, [1])
    (finding,) = verdict.findings
    assert (verdict.ok, verdict.forward_error, verdict.value) == (False, 1.0, verdict.shadow_value + 1.0)
    assert verdict.ratio == verdict.forward_error / verdict.error_bound > 1000.0
    assert (finding.kind, finding.severity, finding.proof, finding.confirmed) == (
        "wrong_result",
        "error",
        "bound",
        "re-executed",
    )
    assert finding.location is not None
    assert "test_verify.py" in finding.location
    assert finding.first_caught_step is finding.last_clean_step is None
    assert "checkpoint" not in finding.advice
    assert verdict.op == SUM


def test_the_worst_of_several_operators_is_the_one_that_is_reported() -> None:
    x, target = numbers(torch.float32), torch.zeros(6, dtype=torch.int64)
    with faulty_kernel("aten::nll_loss_forward", _add_one):
        verdict = numguard.verify(F.cross_entropy, x, target)
    assert not verdict.ok
    assert verdict.op == "aten::nll_loss_forward"
    assert verdict.condition_number is None


def test_the_shadow_is_the_exact_sum_up_to_its_own_rounding() -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(501, generator=generator, dtype=torch.float32)
    exact = sum(Fraction(value) for value in x.tolist())
    mass = sum(abs(Fraction(value)) for value in x.tolist())
    verdict = numguard.verify(torch.sum, x)
    assert verdict.value == torch.sum(x).item()
    # 500 float64 additions, each with a relative error of at most 2**-53 (Higham, ASNA 2nd ed., section 4.2).
    assert abs(Fraction(verdict.shadow_value) - exact) <= 500 * mass / 2**53
    assert verdict.condition_number == pytest.approx(float(mass / abs(exact)), rel=2.0**-50)


@pytest.mark.parametrize("condition_number", [1e4, 1e8])
def test_an_ill_conditioned_sum_is_right_and_said_to_be_ill_conditioned(condition_number: float) -> None:
    x = ill_conditioned_sum(200, condition_number, seed=3)
    exact = sum(Fraction(value) for value in x.tolist())
    verdict = numguard.verify(torch.sum, x)
    assert verdict.ok
    mass = sum(abs(Fraction(value)) for value in x.tolist())
    # Compensated sums err by u |s| + 2 h**2 u**2 sum|x| with h = 8 levels: relative to s, 2**-53 + 2**-99 * 1e8.
    assert verdict.condition_number == pytest.approx(float(mass / abs(exact)), rel=2.0**-50)


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (torch.mean, (torch.tensor([3.0, -1.0]),), 2.0),
        (torch.nansum, (torch.tensor([3.0, math.nan, -1.0]),), 2.0),
        (torch.sum, (torch.tensor([[1.0, 1.0], [3.0, -1.0]]), 1), 2.0),
        (torch.sum, (torch.tensor([1.0, -1.0]),), math.inf),
        (torch.linalg.vector_norm, (torch.tensor([3.0, 4.0]),), 1.0),
        (torch.dot, (torch.tensor([3.0, 1.0]), torch.tensor([1.0, -1.0])), 4.0),
        (torch.mv, (torch.tensor([[1.0, 1.0], [3.0, -1.0]]), torch.tensor([1.0, 1.0])), 4.0),
        (torch.matmul, (torch.tensor([[[3.0, -1.0]], [[1.0, 1.0]]]), torch.ones(2, 2, 1)), 4.0),
        (torch.softmax, (torch.zeros(3), 0), 0.0),
        (torch.cumsum, (torch.ones(3), 0), None),
    ],
)
def test_condition_numbers(function: Any, args: tuple[Any, ...], expected: float | None) -> None:
    assert numguard.verify(function, *args).condition_number == expected


def test_the_arguments_stay_as_they_are() -> None:
    base = torch.arange(24.0)
    strided = base.as_strided((2, 3), (1, 4), 1)
    before, state = base.clone(), torch.get_rng_state()
    assert numguard.verify(aten.cumsum_.default, strided, 1).ok
    assert numguard.verify(torch.Tensor.cumsum_, strided, 1).ok
    assert numguard.verify(torch.sum, strided, 1, out=torch.empty(2)).ok
    assert numguard.verify(lambda x: torch.sum(F.dropout(x)), strided).ok
    assert base.tolist() == before.tolist()
    assert torch.get_rng_state().tolist() == state.tolist()


def test_copies_have_the_layout_of_the_arguments_and_share_memory_as_they_do() -> None:
    base, seen = torch.arange(24.0), []
    expanded = base[:1].expand(5)

    def spy(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        seen.append((a.stride(), a.storage_offset(), b.stride(), a.data_ptr() - b.data_ptr(), c.stride()))
        assert a.data_ptr() != base.data_ptr()
        return a.sum() + b.sum()

    assert numguard.verify(spy, base[4::2], base[2:], expanded).ok
    assert seen == [((2,), 4, (1,), 8, (0,))]


def test_a_leaf_that_requires_grad_can_be_written_to() -> None:
    leaf = torch.ones(3, requires_grad=True)
    assert numguard.verify(torch.Tensor.cumsum_, leaf * 2.0, 0).ok


def test_exceptions_of_the_call_pass_through() -> None:
    with pytest.raises(IndexError, match="Dimension out of range"):
        numguard.verify(torch.sum, torch.ones(3), 5)


@pytest.mark.parametrize(
    ("op", "args", "message"),
    [
        (torch.sin, (torch.ones(2),), r"it ran aten::sin, for which there is no check.* sum, mean, nansum,"),
        (torch.sum, (torch.ones(2, dtype=torch.complex64),), "could not be judged .sum: complex tensor"),
        (torch.nn.LayerNorm(2), (torch.ones(2),), "give the function that it calls"),
        ("aten::sum", (torch.ones(2),), "cannot be called; give torch.sum"),
    ],
)
def test_what_cannot_be_judged_is_said(op: Any, args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(numguard.UsageError, match=message):
        numguard.verify(op, *args)


def test_operators_without_a_verdict_are_named() -> None:
    verdict = numguard.verify(lambda x: torch.sum(torch.sin(x)), torch.ones(3))
    assert verdict.not_covered == ("aten::sin: no verdict",)


def test_a_guard_neither_sees_nor_counts_the_call() -> None:
    with numguard.guard(budget=None) as guard:
        seen = guard.coverage.num_calls_seen
        with faulty_kernel(SUM, _add_one):
            assert not numguard.verify(torch.sum, torch.ones(3)).ok
        assert guard.coverage.num_calls_seen == seen
        torch.sum(torch.ones(3))
        assert guard.coverage.num_calls_seen == seen + 1
        guard.step(1.0)
    assert [finding.kind for finding in guard.findings] == []
    assert innermost() is None


def test_a_failure_of_numguard_is_no_clean_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numguard.interception.inspection.evaluate_on_host", lambda comparison: 1 / 0)
    verdict = numguard.verify(torch.sum, torch.ones(3))
    assert not verdict.ok
    assert [finding.kind for finding in verdict.findings] == ["degraded"]
    assert math.isnan(verdict.ratio)
