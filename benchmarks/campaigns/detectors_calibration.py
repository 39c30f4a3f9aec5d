"""Fix the thresholds: the least ones at which the calibration runs stay within the budget.

Usage::

    python -m benchmarks.campaigns.detectors_calibration

Prints the table of :data:`numguard.detectors.alarm_budget.THRESHOLDS`. No scored run is read.
"""

import math
from typing import Final

import numpy as np

from benchmarks.campaigns.detectors_data import (
    REFERENCE_CALIBRATION,
    Curve,
    Run,
    algoperf,
    calibration_workloads,
    curves,
)
from benchmarks.campaigns.detectors_scoring import Monitored
from numguard.detectors import AlarmBudget, ReferenceRun
from numguard.detectors.alarm_budget import CALIBRATED_RATE, SHARES

#: Statistic that pays for each test, and the search range.
TESTS: Final = {
    "single": ("loss_spike", 5.0, 80.0),
    "three": ("loss_spike", 5.0, 8.6),
    "eight": ("loss_spike", 5.0, 14.0),
    "single_down": ("loss_spike", 5.0, 40.0),
    "three_down": ("loss_spike", 5.0, 8.6),
    "fast": ("loss_shift", 5.0, 80.0),
    "fast_down": ("loss_shift", 5.0, 80.0),
    "slow": ("loss_shift", 5.0, 120.0),
    "slow_down": ("loss_shift", 5.0, 120.0),
    "noise": ("loss_noise", 5.0, 80.0),
    "noise_down": ("loss_noise", 5.0, 80.0),
    "gradient": ("gradient_lead", 4.0, 60.0),
    "gradient_young": ("gradient_lead", 3.0, 20.0),
}
ROUNDS: Final = 9


def _episodes(monitored: Monitored, alarms: dict[str, list[int]], row: int) -> None:
    for test in monitored.tests:
        rows = alarms.setdefault(test, [])
        if not rows or row - rows[-1] > 50:
            rows.append(row)
    monitored.tests.clear()


def _count(levels: dict[str, float], runs: list[Curve], clean: list[Run]) -> tuple[dict[str, int], int]:
    totals, num_rows = dict.fromkeys(TESTS, 0), 0
    budget = AlarmBudget(levels=levels)
    for curve in runs:
        monitored, alarms = Monitored(budget), {}
        for row, (step, loss, channels) in enumerate(curve.rows()):
            if math.isfinite(loss):
                monitored(step, loss, channels)
            if row < curve.first_scored:
                monitored.tests.clear()
            _episodes(monitored, alarms, row)
        num_rows += max(0, len(curve.losses) - curve.first_scored)
        for test, rows in alarms.items():
            totals[test] += len(rows)
    for run in clean:
        monitored, alarms = Monitored(budget), {}
        for row, (step, loss, norm) in enumerate(run.rows):
            if loss is not None:
                monitored(step, loss, {} if norm is None else {"grad_norm": norm})
            _episodes(monitored, alarms, row)
        num_rows += len(run.rows)
        for test, rows in alarms.items():
            totals[test] += len(rows)
    return totals, num_rows


def _least(allowed: int, runs: list[Curve], clean: list[Run]) -> tuple[dict[str, float], int]:
    """Return the least thresholds with no more than so many episodes each, by bisection of all tests at once."""
    low, high = ({test: span[side] for test, span in TESTS.items()} for side in (1, 2))
    num_rows = 1
    for _ in range(ROUNDS):
        middle = {test: (low[test] + high[test]) / 2.0 for test in TESTS}
        totals, num_rows = _count(middle, runs, clean)
        for test in TESTS:
            side = low if totals[test] > allowed else high
            side[test] = middle[test]
    return high, num_rows


def calibrate(runs: list[Curve], clean: list[Run]) -> tuple[dict[str, tuple[float, float]], int]:
    """Return level and increase per e-fold of every threshold without a reference, and the rows behind them.

    Notes
    -----
    A test's part of the budget is less than one episode on the calibration runs, and the least threshold without any
    episode has an expected number of about 0.7 on as many new rows (the median of a Poisson count is 0 up to a mean of
    0.69, and 2 up to 2.67). Rates fall exponentially in these thresholds, so two points give the slope, and the level
    is carried on to the part of the budget.
    """
    none, num_rows = _least(0, runs, clean)
    two, _ = _least(2, runs, clean)
    num_tests = {share: sum(span[0] == share for span in TESTS.values()) for share in SHARES}
    levels = {}
    for test, (share, _, _) in TESTS.items():
        per_e_fold = max(0.1, (none[test] - two[test]) / math.log(2.67 / 0.69))
        allowed = CALIBRATED_RATE * SHARES[share] / num_tests[share] * num_rows
        levels[test] = (none[test] + per_e_fold * max(0.0, math.log(0.69 / allowed)), per_e_fold)
    return levels, num_rows


def calibrate_reference(runs: list[Curve]) -> tuple[float, float, int]:
    """Return the least thresholds of rise and fall at which pairs with the same recipe and batches give no alarm."""
    pool = [curve for curve in runs if any(part in curve.name for part in REFERENCE_CALIBRATION)]
    peak, num_rows = [0.0, 0.0], 0
    for index, curve in enumerate(pool):
        for other in pool[index + 1 :]:
            reference = ReferenceRun.of(other.steps.tolist(), other.losses.tolist())
            # Thresholds that nothing crosses: what is wanted are the peaks of the sums.
            far = dict.fromkeys(TESTS, 1e9)
            monitored = Monitored(AlarmBudget(levels=far), reference)
            for step, loss, channels in curve.rows():
                monitored(step, loss, channels)
                comparison = monitored.monitor._tracks[""].reference
                assert comparison is not None
                shift = comparison.bank.shift
                peak = [max(peak[0], shift.rise.total), max(peak[1], shift.fall.total)]
            num_rows += len(curve.losses)
    return peak[0], peak[1], num_rows


def main() -> None:
    every, runs = curves(), algoperf()
    wanted = calibration_workloads(runs)
    clean = [run for run in runs if run.event is None and run.workload in wanted]
    levels, num_rows = calibrate([curve for curve in every if curve.calibrates], clean)
    print(f"without a reference, {num_rows:,} rows:")
    for test, (level, per_e_fold) in levels.items():
        print(f"    {test}=({np.ceil(level * 10) / 10:.1f}, {per_e_fold:.1f}),", flush=True)
    rise, fall, num_rows = calibrate_reference(every)
    print(f"against a reference, {num_rows:,} rows: fast={np.ceil(rise):.0f}, fast_down={np.ceil(fall):.0f}")


if __name__ == "__main__":
    main()
