"""What is normal: the scale of a row, and the range in which a loss may go on by its own past."""

import math

import numpy as np
import pytest

from numguard.detectors import LossMonitor
from numguard.detectors.frozen_window import scale_of
from numguard.detectors.log_trend import BLOCK, LogTrend
from tests.detectors.made_curves import Array, batch_noise, said


def _scale(values: Array) -> float:
    return scale_of(sorted(np.abs(values).tolist()))


def test_the_scale_of_normal_rows_is_their_standard_deviation() -> None:
    values = np.random.default_rng(0).normal(0.0, 2.0, 40_000)
    # 40,000 rows: standard error of the scale below 0.5 %.
    assert _scale(values) == pytest.approx(2.0, rel=0.015)


def test_heavier_tails_make_the_scale_wider_than_the_median_says() -> None:
    values = np.random.default_rng(1).standard_t(2, 40_000)
    by_median = float(np.median(np.abs(values))) / 0.6745
    assert _scale(values) > 1.1 * by_median


def test_wild_rows_hardly_move_the_scale() -> None:
    values = np.random.default_rng(2).normal(0.0, 1.0, 500)
    values[::25] = 1e6
    # 4 % of the rows count as three standard deviations each: sqrt(1 + 0.04 * 9), and a little by the median itself.
    assert _scale(values) < 1.3


def test_rows_that_do_not_differ_have_no_scale() -> None:
    assert _scale(np.zeros(9)) == 0.0


def _scores(losses: Array, noise: float = 0.04) -> list[tuple[float, float]]:
    trend, scores = LogTrend(), []
    for step, loss in enumerate(losses.tolist()):
        if trend.add(float(step), loss):
            found = trend.close_block(noise)
            if found is not None:
                scores.append(found)
    return scores


@pytest.mark.parametrize("power", [0.0, 0.3, 0.7, 1.0])
def test_curves_between_a_line_in_the_logarithm_and_a_power_law_stay_inside(power: float) -> None:
    steps = np.arange(1000, 6000)
    losses = -0.4 * np.log(steps) if power == 0.0 else 400.0**power * steps**-power
    trend, worst = LogTrend(), -math.inf
    for step, loss in zip(steps.tolist(), losses.tolist(), strict=True):
        if trend.add(float(step), loss) and (found := trend.close_block(0.04)) is not None:
            worst = max(worst, *found)
    # The trend counts steps from 1, the curve from 0, and a block's mean lies a little above the curve.
    assert worst <= 0.01


def test_a_young_curve_does_not_hide_a_drift() -> None:
    losses = 3.0 + 400.0 / (np.arange(4000) + 200.0) + batch_noise(4000)
    drifting = losses.copy()
    drifting[3000:] += 2e-4 * np.arange(1000)
    assert said(LossMonitor(), losses) == []
    found = said(LossMonitor(), drifting)
    assert [finding.kind for finding in found][:1] == ["loss_shift"]
    assert found[0].evidence["direction"] == "up"


def test_a_forecast_from_few_blocks_is_wider() -> None:
    losses = 3.0 + np.zeros(200 * BLOCK)
    losses[12 * BLOCK : 13 * BLOCK] = losses[150 * BLOCK : 151 * BLOCK] = 3.1
    scores = _scores(losses)
    first, second = sorted(above for above, _ in scores)[-2:]
    assert 0.0 < first < 0.9 * second


def test_a_loss_that_stops_falling_is_not_said_to_rise() -> None:
    rows = np.arange(4000)
    losses = 3.0 - 5e-4 * np.minimum(rows, 3000) + batch_noise(4000)
    assert [finding for finding in said(LossMonitor(), losses[:3200]) if finding.kind == "loss_shift"] == []
    losses[3000:] += 0.12
    found = said(LossMonitor(), losses[:3200])
    assert found
    assert found[0].evidence["direction"] == "up"
