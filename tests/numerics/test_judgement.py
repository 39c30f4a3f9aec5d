import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from numguard.numerics import format_of, round_to_format
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, alarm_threshold, judge, smallest_rounding

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
sizes = st.floats(-60, 60).map(lambda exponent: 2.0**exponent)
values = st.builds(lambda sign, size: sign * size, st.sampled_from([-1.0, 1.0]), sizes) | st.just(0.0)


def wide(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def threshold(exact: float, forward: float, dtype: torch.dtype, shadow_error: float) -> Fraction:
    """Equation (1) in rational arithmetic."""
    value, unit = abs(Fraction(exact)), Fraction(UNIT_ROUNDOFF[dtype])
    own = Fraction(shadow_error) + 4 * Fraction(2) ** -53 * value
    accumulated = (1 + Fraction(2) ** -8) * Fraction(forward)
    return accumulated + unit * (value + accumulated + own) + Fraction(smallest_rounding(dtype)) + own


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(exact=values, forward=sizes | st.just(0.0), own=sizes | st.just(0.0))
def test_the_threshold_is_equation_1(dtype: torch.dtype, exact: float, forward: float, own: float) -> None:
    computed = alarm_threshold(wide(exact), forward, dtype, own).item()
    expected = threshold(exact, forward, dtype, own)
    assert abs(Fraction(computed) - expected) <= 12 * Fraction(2) ** -53 * expected  # a dozen roundings of float64


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(exact=values, share=st.floats(0.0, 1.0), up=st.booleans(), relative=st.floats(-50, -4))
def test_a_rounded_result_within_its_error_passes_and_2b_alarms(
    dtype: torch.dtype, exact: float, share: float, up: bool, relative: float
) -> None:
    target = format_of(dtype)
    exact = math.fmod(exact, target.max_finite / 8)
    forward = abs(exact) * 2.0**relative
    sign = 1 if up else -1
    correct = round_to_format(Fraction(exact) + sign * Fraction(share) * Fraction(forward), target)
    bound = threshold(exact, forward, dtype, 0.0)
    # The smallest representable number at least 2 B away.
    planted = Fraction(exact) + sign * 2 * bound
    wrong = Fraction(round_to_format(planted, target))
    while abs(wrong - Fraction(exact)) < 2 * bound:
        planted += sign * bound / 4
        wrong = Fraction(round_to_format(planted, target))
    computed = torch.tensor([correct, float(wrong)], dtype=torch.float64).to(dtype)
    assert computed.double().tolist() == [correct, float(wrong)]
    verdict = judge(computed, wide(exact, exact), wide(forward, forward))
    assert not verdict.indeterminate.any()
    assert verdict.ratio[0] <= 1
    assert verdict.ratio[1] >= 2 - 2.0**-40
    expected = float(abs(wrong - Fraction(exact)) / bound)
    assert verdict.ratio[1].item() == pytest.approx(expected, rel=2.0**-48)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_result_that_is_not_finite_and_may_not_be_is_infinitely_wrong(dtype: torch.dtype) -> None:
    computed = torch.tensor([math.nan, math.inf, -math.inf], dtype=dtype)
    verdict = judge(computed, wide(1.0, 1.0, 1.0), 0.0)
    assert verdict.ratio.tolist() == [math.inf] * 3
    assert not verdict.indeterminate.any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_is_said_where_a_correct_result_may_overflow(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    computed = torch.tensor([math.inf, largest, 1.0, 1.0, 1.0], dtype=dtype)
    exact = wide(largest, largest, math.inf, math.nan, 1.0)
    verdict = judge(computed, exact, wide(0.0, 0.0, 0.0, 0.0, math.inf))
    assert verdict.indeterminate.all()
    assert verdict.ratio.tolist() == [0.0] * 5
    assert not judge(computed[:1], wide(largest * 0.9), 0.0).indeterminate.any()
    assert judge(computed[:1], wide(largest * 0.9), 0.0).ratio.item() == math.inf


def test_a_lost_nan_or_infinity_is_wrong_where_it_must_show() -> None:
    computed = torch.tensor([1.0, 1.0, math.nan, math.inf])
    exact = wide(math.nan, math.inf, math.nan, math.inf)
    verdict = judge(computed, exact, 0.0, propagates_nonfinite=True)
    assert verdict.ratio.tolist() == [math.inf, math.inf, 0.0, 0.0]
    assert verdict.indeterminate.tolist() == [False, False, True, True]


def test_results_that_are_only_selected_must_be_equal() -> None:
    inf, nan = math.inf, math.nan
    computed = torch.tensor([1.0, 1.0, 0.0, inf, 1.0, -inf, nan, 3.0])
    exact = wide(1.0, 1.0 + 2.0**-40, -0.0, inf, inf, inf, 1.0, nan)
    verdict = judge(computed, exact, 0.0, rounds_output=False)
    assert verdict.ratio.tolist() == [0.0, inf, 0.0, 0.0, inf, inf, inf, 0.0]
    assert verdict.indeterminate.tolist() == [False] * 7 + [True]
    assert verdict.bound.tolist() == [0.0] * 8


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results_that_round_to_subnormal_numbers_or_zero_pass(dtype: torch.dtype) -> None:
    target = format_of(dtype)
    small = target.smallest_subnormal
    exact = wide(*(small * step / 8 for step in range(64))) if small / 8 > 0 else wide(*(small * k for k in range(64)))
    computed = torch.tensor([round_to_format(value, target) for value in exact.tolist()], dtype=torch.float64).to(dtype)
    assert (judge(computed, exact, 0.0).ratio <= 1).all()


def test_bounds_broadcast_and_the_shape_is_that_of_the_results() -> None:
    verdict = judge(torch.ones(3, 4), torch.ones(3, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    assert verdict.ratio.shape == verdict.bound.shape == verdict.indeterminate.shape == (3, 4)
