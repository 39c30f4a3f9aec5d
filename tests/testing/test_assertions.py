"""The assertion passes what is accurate, fails what is not with the figures that prove it, and never runs empty."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn import functional

from numguard.errors import UsageError
from numguard.numerics import dot_condition_number, sum_condition_number
from numguard.testing import KernelCall, assert_accurate, faulty_kernel, strategies

quick = settings(max_examples=40, deadline=None, derandomize=True)
X = torch.randn(6, 40, generator=torch.Generator().manual_seed(3))
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _one_pass_variance(x: Tensor) -> Tensor:
    return (x * x).mean(-1) - x.mean(-1) ** 2


def _variance(x: Tensor) -> Tensor:
    return x.var(-1, correction=0)


def _message(*args: Any, **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_accurate(*args, **options)
    return str(caught.value)


# -- every operator against its own shadow


@quick
@given(strategies.floating_tensors(), strategies.ill_conditioned_sums(), strategies.ill_conditioned_dots())
def test_operators_of_this_build_are_accurate(x: Tensor, terms: Tensor, factors: tuple[Tensor, Tensor]) -> None:
    assert_accurate(lambda x: (x.softmax(-1), x.logsumexp(0), x.mean(), x.cumsum(-1)), x)
    assert_accurate(torch.sum, terms)
    assert_accurate(torch.dot, *factors)


def test_the_backward_pass_is_judged_too() -> None:
    def loss(x: Tensor) -> None:
        functional.layer_norm(x, (40,)).square().mean().backward()

    assert_accurate(loss, X.clone().requires_grad_())
    with faulty_kernel("aten::native_layer_norm_backward", lambda call: call.results[0][2].add_(0.1)):
        assert "aten::native_layer_norm_backward" in _message(loss, X.clone().requires_grad_())


def test_a_wrong_operator_is_described_by_its_worst_element() -> None:
    def spoil(call: KernelCall) -> None:
        call.results[0][4] += 0.25

    x = X.bfloat16()
    exact = x[4].double().sum().item()
    with faulty_kernel("aten::sum.dim_IntList", spoil, when=lambda arguments: arguments["self"].dtype == x.dtype):
        wrong = x.sum(1)
        text = _message(lambda x: x.sum(1), x)
    assert "aten::sum.dim_IntList: 1 of 6 elements are wrong. The worst, at index (4,):" in text
    assert re.search(rf"computed +{wrong[4].item()!r} \(torch.bfloat16\)", text)
    assert float(re.search(r"exact +(\S+)", text)[1]) == pytest.approx(exact, rel=2**-50)  # type: ignore[index]
    condition = float(re.search(r"condition number +(\S+)", text)[1])  # type: ignore[index]
    assert condition == pytest.approx(sum_condition_number(x[4]).item(), rel=1e-5)
    assert re.search(r"forward error +\S+ = \S+ ulps", text)
    assert re.search(r"error bound +\S+, exceeded \S+ times \(check 'sum'", text)


def test_the_index_is_that_of_the_result_where_the_check_looks_at_rows() -> None:
    with faulty_kernel("aten::_softmax", lambda call: call.results[0][1, 7].add_(0.5)):
        text = _message(lambda x: x.softmax(0), X)
    assert "1 of 240 elements are wrong. The worst, at index (1, 7):" in text


def test_products_know_their_condition_number() -> None:
    a, b = X[:3], X[3:].T.contiguous()

    def spoil(call: KernelCall) -> None:
        call.results[0][2, 1] += 1.0

    with faulty_kernel("aten::mm", spoil, when=lambda arguments: arguments["self"].dtype == X.dtype):
        text = _message(torch.mm, a, b)
    expected = dot_condition_number(a[2], b[:, 1]).item()
    assert float(re.search(r"condition number +(\S+)", text)[1]) == pytest.approx(expected, rel=1e-5)  # type: ignore[index]


# -- against a reference


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "fn",
    [torch.exp, torch.tanh, torch.sigmoid, functional.silu, torch.sin, torch.erf, _variance],
    ids=lambda f: f.__name__,
)
def test_stable_functions_meet_the_derived_bound(fn: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    assert_accurate(fn, X.to(dtype), reference=fn)


@quick
@given(strategies.floating_tensors(shape=(3, 20), kinds=["cancelling", "constant", "lognormal", "ramp"]))
def test_a_stable_norm_meets_the_derived_bound_on_hostile_tensors(x: Tensor) -> None:
    assert_accurate(lambda x: torch.linalg.vector_norm(x, dim=-1), x, reference=lambda x: x.square().sum(-1).sqrt())


def test_one_pass_variance_is_found_where_the_data_make_it_wrong() -> None:
    text = _message(_one_pass_variance, X + 1e4, reference=_variance)
    assert "_one_pass_variance is inaccurate." in text
    assert re.search(r"error bound +\S+, exceeded \S+ times \(derived, for a stable algorithm of \d+ operators\)", text)
    assert float(re.search(r"condition number +(\S+)", text)[1]) > 1e4  # type: ignore[index]
    assert_accurate(_variance, X + 1e4, reference=_variance)
    assert_accurate(_one_pass_variance, X, reference=_variance)


def test_a_given_bound_is_taken_at_its_word() -> None:
    def off_by(error: float) -> Callable[[Tensor], Tensor]:
        return lambda x: x + error

    x = torch.full((3,), 1.0)
    assert_accurate(off_by(0.25), x, reference=x, error_bound=0.25)
    assert "(error_bound=)" in _message(off_by(0.25), x, reference=x, error_bound=0.249)
    assert_accurate(off_by(0.25), x, reference=x, error_bound=torch.tensor([0.25, 0.3, 0.25]))
    assert "1 of 3" in _message(off_by(0.25), x, reference=x, error_bound=torch.tensor([0.25, 0.2, 0.25]))


def test_a_function_is_its_own_reference_in_float64() -> None:
    assert_accurate(_variance, X + 1e4, error_bound=1e-2)
    assert "exceeded" in _message(_one_pass_variance, X + 1e4, error_bound=1e-2)


def test_structures_integers_and_numbers_are_compared() -> None:
    def fn(x: Tensor) -> dict[str, Any]:
        return {"place": x.argmax(-1), "all": (x.exp(), 7)}

    assert_accurate(fn, X, reference=fn)
    text = _message(fn, X, reference=lambda x: {"place": x.argmax(-1) + 1, "all": (x.exp(), 8)})
    assert "result['place']: 6 of 6 elements are wrong" in text
    assert "result['all'][1]: 1 of 1 elements are wrong" in text
    assert "result['all'][0]" not in text
    assert "no floating-point result" in text


def test_nonfinite_values_must_appear() -> None:
    x = torch.tensor([1.0, torch.nan, torch.inf])
    assert_accurate(torch.exp, x, error_bound=1e-6)
    assert "2 of 3" in _message(lambda x: x.nan_to_num(1.0, 1.0).exp(), x, reference=torch.exp, error_bound=1e-6)
    assert "1 of 1" in _message(lambda x: x * torch.nan, x[:1], reference=x[:1], error_bound=1e30)


def test_arguments_that_the_function_writes_to_are_copied_before() -> None:
    assert_accurate(lambda x: x.mul_(2.0), X.clone(), reference=lambda x: x * 2.0)


def test_other_shapes_fail() -> None:
    assert "[(6,)], the reference [(6, 1)]" in _message(_variance, X, reference=lambda x: _variance(x)[:, None])


# -- nothing runs empty


@pytest.mark.parametrize(
    ("fn", "options", "message"),
    [
        (torch.exp, {}, "judged nothing: it calls no operator that a check covers; give reference="),
        (lambda x: x.to(torch.complex64).sum(), {}, "judged nothing: sum: complex tensor"),
        (torch.exp, {"reference": X.exp()}, "give error_bound= too"),
        (torch.exp, {"reference": lambda x: torch.from_numpy(x.numpy())}, "give error_bound= too"),
        (torch.exp, {"reference": lambda x: x.float().exp()}, "reference= returned torch.float32"),
        (lambda x: x.float(), {"error_bound": 1.0}, "fn= returned torch.float32"),
        (torch.exp, {"error_bound": -1.0}, "give numbers of at least 0"),
        (torch.exp, {"error_bound": torch.nan}, "give numbers of at least 0"),
        (torch.exp, {"error_bound": "small"}, "give numbers of at least 0"),
        (lambda x: None, {"error_bound": 1.0}, "nothing to compare"),
        (lambda x: x + 1j, {"error_bound": 1.0}, "is complex"),
        (lambda x: x.repeat(99, 9), {"reference": lambda x: x.repeat(99, 9)}, "derivatives; give error_bound="),
    ],
)
def test_what_cannot_fail_is_refused(fn: Callable[[Tensor], Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        assert_accurate(fn, X, **options)


def test_exceptions_of_the_function_pass_through() -> None:
    with pytest.raises(ZeroDivisionError):
        assert_accurate(lambda x: 1 / 0, X)
