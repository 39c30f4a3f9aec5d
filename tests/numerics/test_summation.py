import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from numguard.numerics import (
    DATA_KINDS,
    compensated_sum,
    compensated_sum_bound,
    dot2,
    dot2_bound,
    double_double_add,
    double_double_sum,
    exact_dot,
    exact_sum,
    ill_conditioned_dot,
    ill_conditioned_sum,
    pairwise_height,
    pairwise_sum,
)
from numguard.testing import assert_accurate, strategies

U = 2.0**-53
finite = st.floats(-1e100, 1e100, allow_subnormal=True)
conditions = st.sampled_from([1e1, 1e5, 1e10, 1e16, 1e20, 1e25, 1e30])


def rational_sum(values: list[float]) -> Fraction:
    return sum(map(Fraction, values), Fraction(0))


def sums_beyond_their_bounds(x: torch.Tensor) -> list[str]:
    """Return which of the ways to sum break their bound on ``x``."""
    values = x.tolist()
    value, mass = rational_sum(values), rational_sum([abs(v) for v in values])
    height = pairwise_height(len(values))
    high, low = double_double_sum(x)
    total = compensated_sum(x)
    bound = compensated_sum_bound(total, exact_sum(x.abs()), len(values))
    both = Fraction(high.item()) + Fraction(low.item())
    within = {
        "pairwise": abs(Fraction(pairwise_sum(x).item()) - value) <= Fraction(height * U) * mass,
        "double-double, normalised": abs(low.item()) <= U * abs(high.item()),
        "double-double": abs(both - value) <= Fraction(3.01 * height * U**2) * mass,
        "compensated": abs(Fraction(total.item()) - value) <= Fraction(bound.item()),
        "exact": exact_sum(x).item() == float(value),
    }
    return [name for name, kept in within.items() if not kept]


@given(values=st.lists(finite, min_size=1, max_size=40))
def test_sums_of_any_numbers_meet_their_bounds(values: list[float]) -> None:
    assert sums_beyond_their_bounds(torch.tensor(values, dtype=torch.float64)) == []


@given(condition=conditions, seed=st.integers(0, 1000), num_terms=st.integers(40, 120))
def test_ill_conditioned_sums_meet_their_bounds(condition: float, seed: int, num_terms: int) -> None:
    assert sums_beyond_their_bounds(ill_conditioned_sum(num_terms, condition, seed=seed)) == []


@pytest.mark.parametrize("kind", sorted(DATA_KINDS))
@pytest.mark.parametrize("num_terms", [1, 2, 7, 500])
def test_sums_of_every_kind_of_data_meet_their_bounds(kind: str, num_terms: int) -> None:
    for seed in range(3):
        assert sums_beyond_their_bounds(DATA_KINDS[kind](num_terms, seed=seed)) == []


@given(seed=st.integers(0, 10**6), cancel=st.booleans())
def test_double_double_addition_is_accurate_even_where_the_high_parts_cancel(seed: int, cancel: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    a_high, b_high, a_share, b_share = torch.randn(4, dtype=torch.float64, generator=generator)
    b_high = -a_high if cancel else b_high
    a_low, b_low = a_high * a_share.sigmoid() * U, b_high * b_share.sigmoid() * U
    high, low = double_double_add(a_high, a_low, b_high, b_low)
    exact = rational_sum([v.item() for v in (a_high, a_low, b_high, b_low)])
    assert abs(Fraction(high.item()) + Fraction(low.item()) - exact) <= Fraction(3.01 * U**2) * abs(exact)


def test_a_compensated_sum_recovers_what_a_plain_sum_loses() -> None:
    x = torch.tensor([1e16, 1.0, -1e16, 0.5], dtype=torch.float64).repeat(1000)
    assert compensated_sum(x).item() == 1500.0
    x = ill_conditioned_sum(200, 1e14, seed=3)
    value = float(rational_sum(x.tolist()))
    assert abs(compensated_sum(x).item() - value) <= 2 * U * abs(value)
    assert abs(pairwise_sum(x).item() - value) > 1e-4 * abs(value)  # 1e14 * u = 1e-2: two digits at most survive


@given(condition=conditions, seed=st.integers(0, 1000), num_terms=st.integers(40, 120))
def test_ill_conditioned_dots_meet_their_bounds(condition: float, seed: int, num_terms: int) -> None:
    x, y = ill_conditioned_dot(num_terms, max(condition, 4.0), seed=seed)
    terms = [Fraction(a) * Fraction(b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    value, mass = sum(terms, Fraction(0)), sum(map(abs, terms), Fraction(0))
    total = dot2(x, y)
    bound = dot2_bound(total, torch.tensor(float(mass), dtype=torch.float64), num_terms)
    assert abs(Fraction(total.item()) - value) <= Fraction(bound.item())
    assert exact_dot(x, y).item() == float(value)


@given(pairs=st.lists(st.tuples(finite, finite), min_size=1, max_size=20))
def test_dots_of_any_numbers_meet_their_bounds(pairs: list[tuple[float, float]]) -> None:
    x, y = torch.tensor(pairs, dtype=torch.float64).T
    terms = [Fraction(a) * Fraction(b) for a, b in pairs]
    value, mass = sum(terms, Fraction(0)), sum(map(abs, terms), Fraction(0))
    total = dot2(x, y)
    bound = dot2_bound(total, torch.tensor(float(mass), dtype=torch.float64), len(pairs))
    assert abs(Fraction(total.item()) - value) <= Fraction(bound.item())
    assert exact_dot(x, y).item() == float(value)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_each_function_reduces_the_dimension_it_is_told(dim: int) -> None:
    x = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    expected = x.double().sum(dim)
    assert torch.equal(pairwise_sum(x, dim), expected)
    assert torch.equal(compensated_sum(x, dim), expected)
    assert torch.equal(double_double_sum(x, dim)[0], expected)
    assert torch.equal(exact_sum(x, dim), expected)
    assert torch.equal(dot2(x, torch.ones_like(x), dim), expected)
    assert torch.equal(exact_dot(x, torch.ones_like(x), dim), expected)


def test_factors_broadcast() -> None:
    x, y = torch.arange(6.0).reshape(2, 3), torch.tensor([1.0, 10.0, 100.0])
    assert dot2(x, y).tolist() == [210.0, 543.0]
    assert exact_dot(x, y).tolist() == [210.0, 543.0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], 0.0),
        ([math.inf, 1.0], math.inf),
        ([-math.inf, 1.0], -math.inf),
        ([math.inf, -math.inf], math.nan),
        ([math.nan, 1.0], math.nan),
        ([math.nan, math.inf], math.nan),
        ([1.5e308, 1.5e308], math.inf),
        ([-1.5e308, -1.5e308], -math.inf),
    ],
)
def test_values_that_are_not_finite(values: list[float], expected: float) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    for result in (pairwise_sum(x), compensated_sum(x), exact_sum(x), exact_dot(x, torch.ones_like(x))):
        assert result.isnan() if math.isnan(expected) else result.item() == expected


def test_an_exact_sum_survives_partial_sums_that_overflow() -> None:
    x = torch.tensor([1.5e308, 1.5e308, -1.5e308, -1.5e308, 1.0], dtype=torch.float64)
    assert exact_sum(x).item() == 1.0
    assert exact_dot(x, torch.ones_like(x)).item() == 1.0


def test_zero_times_infinity_is_not_a_number() -> None:
    assert exact_dot(torch.tensor([0.0, 1.0]), torch.tensor([math.inf, 1.0])).isnan()
    assert exact_dot(torch.tensor([2.0, 1.0]), torch.tensor([-math.inf, 1.0])).item() == -math.inf


@given(strategies.ill_conditioned_sums(dtype=torch.float64), strategies.ill_conditioned_dots(dtype=torch.float64))
def test_compensated_results_are_within_their_bounds_whatever_the_condition(
    x: torch.Tensor, factors: tuple[torch.Tensor, torch.Tensor]
) -> None:
    right, mass = exact_sum(x), exact_sum(x.abs())
    assert_accurate(compensated_sum, x, reference=right, error_bound=compensated_sum_bound(right, mass, x.numel()))
    right, mass = exact_dot(*factors), exact_dot(*(factor.abs() for factor in factors))
    bound = dot2_bound(right, mass, factors[0].numel())
    assert_accurate(dot2, *factors, reference=right, error_bound=bound)
