"""Vector norms: silent on every correct call of any order, alone and in lists, awake for a lost block."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch

from numguard.checks import REGISTRY
from numguard.checks.check import Probe
from numguard.checks.examination import examine, perform
from numguard.numerics.error_bounds.norm_bounds import PowerNorm, power_norm_bound
from numguard.numerics.error_bounds.reduction_bounds import count_growth
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.comparison import Comparison, NotCovered, output_at
from numguard.shadow.routes import NUMPY, ONES, PAIRWISE, REDUCTION
from tests.checks.random_calls import FLOATS, random_calls, watching
from tests.checks.watched_calls import run_samples

aten = torch.ops.aten
ROUTES = (NUMPY, PAIRWISE, ONES, REDUCTION)
ORDERS = (2.0, 2.0, 1.0, 0.0, math.inf, -math.inf, 3.0, 0.5, 1.3, -1.0, 4.7)


def compared(name: str, overload: Any, *args: Any, route: Arithmetic = NUMPY, **probing: float) -> list[Comparison]:
    probe = Probe(arithmetic=route, **probing)
    call, captured = perform(REGISTRY[name], overload, args, {}, probe)
    results = examine(REGISTRY[name], call, captured, probe)
    assert not any(verdict.wrong for _, verdict in results)
    return [comparison for comparison, _ in results]


@pytest.mark.parametrize("route", [NUMPY, PAIRWISE], ids=lambda route: route.name)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ["linalg.vector_norm", "norm"])
def test_samples_of_pytorch_raise_no_alarm(name: str, dtype: torch.dtype, route: Arithmetic) -> None:
    watch = watching("vector_norm", "sum", probe=Probe(arithmetic=route))
    run_samples(name, dtype, watch, most=200)
    assert watch.wrong == []
    assert watch.checked["aten::linalg_vector_norm"] >= 42


@pytest.mark.parametrize("seed", [0, 1])
def test_random_layouts_and_numbers_raise_no_alarm(seed: int) -> None:
    watch = watching("vector_norm", "foreach_norm")
    for draws, x, _ in random_calls(seed, 300):
        watch.probe = Probe(arithmetic=draws.choose.choice(ROUTES), limit=draws.choose.choice([1e9, 500.0]))
        order = draws.choose.choice(ORDERS)
        with watch:
            aten.linalg_vector_norm(x, order, draws.dims(x), draws.choose.random() < 0.3)
            aten._foreach_norm.Scalar([x, draws.tensor(x.dtype), draws.tensor(x.dtype)], max(order, 0.0))
    assert watch.wrong == []
    assert watch.num_judged > 3 * watch.num_indeterminate > 0


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_shadows_are_as_exact_as_they_claim(route: Arithmetic) -> None:
    for count in (1, 2, 17, 100, 999):
        x = torch.randn(count, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        x *= 10.0 ** torch.linspace(-5.0, 5.0, count, dtype=torch.float64)
        (comparison,) = compared("vector_norm", aten.linalg_vector_norm.default, x, route=route)
        assert isinstance(comparison.shadow_error, torch.Tensor)
        exact = Fraction(comparison.exact.item())
        own = Fraction(comparison.shadow_error.item()) + Fraction(4, 2**53) * exact
        square = sum(Fraction(value) ** 2 for value in x.tolist())
        assert (exact - own) ** 2 <= square <= (exact + own) ** 2


@pytest.mark.parametrize("order", [0.5, 1.3, 3.0, -2.0])
def test_bounds_hold_for_perturbed_powers(order: float) -> None:
    """Round every power, the exponents and the additions the wrong way: the norm stays inside its bound."""
    unit = 2.0**-24
    x = torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    total, logarithms = (x**order).sum(), (x**order * x.log().abs()).sum()
    norm = total ** (1.0 / order)
    bound = power_norm_bound(norm, PowerNorm(total, order, 50, 49 * unit, logarithms), unit, 2.0**-126, 3.4e38)
    for sign in (-1.0, 1.0):
        rounded = order * (1.0 + sign * unit)
        powers = x**rounded * (1.0 + 2.0 * sign * unit)
        wrong = (powers.sum() * (1.0 + 49 * sign * unit)) ** ((1.0 - sign * unit) / order) * (1.0 + 2 * sign * unit)
        assert float((wrong - norm).abs()) <= float(bound)
    assert float(bound) <= 200 * unit * float(norm) / min(1.0, abs(order)) ** 2


def test_counts_are_exact_as_long_as_the_accumulator_is() -> None:
    assert count_growth(2**24, 2.0**-24) == 0.0
    assert count_growth(2**24 + 1, 2.0**-24) == 1.0
    assert count_growth(torch.tensor([8.0, 2.0**25], dtype=torch.float64), 2.0**-24).tolist() == [0.0, 2.0 - 2.0**-24]  # type: ignore[union-attr]


def test_a_list_is_compared_tensor_by_tensor() -> None:
    tensors = [
        torch.randn(5, 3),
        torch.randn(()),
        torch.zeros(0),
        torch.randn(7).bfloat16(),
        torch.randn(2, 2).double(),
    ]
    comparisons = compared("foreach_norm", aten._foreach_norm.Scalar, tensors)
    names = [
        output_at(comparison.output, comparison.segments, index)
        for comparison in comparisons
        for index in range(comparison.computed.numel())
    ]
    assert sorted(names) == [f"result[{number}]" for number in range(5)]
    call, captured = perform(
        REGISTRY["foreach_norm"], aten._foreach_norm.Scalar, (tensors,), {}, Probe(arithmetic=NUMPY)
    )
    call.output[1].mul_(1.01)
    found = examine(REGISTRY["foreach_norm"], call, captured, Probe(arithmetic=NUMPY))
    worst = [
        output_at(comparison.output, comparison.segments, int(verdict.worst_index))
        for comparison, verdict in found
        if verdict.wrong
    ]
    assert worst == ["result[1]"]


def test_a_sample_of_a_list_reaches_every_tensor() -> None:
    tensors, seen = [torch.randn(100) for _ in range(12)], set()
    for offset in range(24):
        (comparison,) = compared("foreach_norm", aten._foreach_norm.Scalar, tensors, limit=700.0, offset=offset / 24)
        assert comparison.computed.numel() <= 4
        seen |= {
            output_at(comparison.output, comparison.segments, index) for index in range(comparison.computed.numel())
        }
    assert len(seen) == 12


def test_gradient_clipping_raises_no_alarm() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.GELU(), torch.nn.Linear(64, 16))
    model(torch.randn(8, 16)).square().sum().backward()
    watch = watching("vector_norm", "foreach_norm")
    with watch:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, norm_type=math.inf, foreach=True)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
    assert watch.wrong == []
    assert not watch.inaccurate
    assert watch.checked["aten::_foreach_norm.Scalar"] == 2
    assert watch.checked["aten::linalg_vector_norm"] >= 7


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_sequential_addition_is_a_warning_and_not_an_error(order: float) -> None:
    """torch 2.13.0 adds the terms of a norm one after the other; a repaired build must pass."""
    x = torch.full((300_000,), 0.1)
    watch = watching("vector_norm")
    with watch:
        norm = torch.linalg.vector_norm(x, order)
    exact = float(x[0].double()) * 300_000 ** (1.0 / order)
    assert watch.wrong == []
    assert bool(watch.inaccurate) is (abs(float(norm) - exact) > 1e-5 * exact)


def test_orders_that_are_no_numbers_are_not_covered() -> None:
    with pytest.raises(NotCovered, match="complex numbers"):
        compared("vector_norm", aten.linalg_vector_norm.default, torch.ones(3, dtype=torch.complex64))
