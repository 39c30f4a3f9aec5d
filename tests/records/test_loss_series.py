"""A thinned curve keeps what an eye looks for: its ends and every extreme."""

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from numguard.records.loss_series import MOST_POINTS, LossSeries, thinned


def recorded(losses: list[float]) -> LossSeries:
    series = LossSeries(rank=0, attempt=0)
    for step, loss in enumerate(losses):
        series.add(step, loss, 0.1, armed=False)
    return series


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=400), st.integers(2, 50))
def test_thinning_keeps_the_lowest_and_the_highest(losses: list[float], limit: int) -> None:
    points = list(enumerate(losses))
    kept = thinned(points, limit)
    assert len(kept) <= limit
    assert set(kept) <= set(points)
    assert {min(losses), max(losses)} <= {loss for _, loss in kept}
    assert list(kept) == sorted(kept)


def test_one_spike_in_a_long_run_is_never_lost() -> None:
    noise = random.Random(3)
    for spike in (0, 1, 3_999, 4_000, 17_313, 49_999):
        losses = [2.0 + noise.uniform(-0.1, 0.1) for _ in range(50_000)]
        losses[spike] = 9.0
        curve = recorded(losses).curve()
        assert len(curve.points) <= MOST_POINTS
        assert (spike, 9.0) in curve.points
        assert (curve.num_steps, curve.first_step, curve.last_step) == (50_000, 0, 49_999)


def test_losses_that_are_not_finite_are_kept_apart() -> None:
    curve = recorded([1.0, math.nan, math.inf, 2.0]).curve()
    assert curve.points == ((0, 1.0), (3, 2.0))
    assert curve.nonfinite == ((1, "nan"), (2, "inf"))
    assert curve.num_nonfinite == 2
