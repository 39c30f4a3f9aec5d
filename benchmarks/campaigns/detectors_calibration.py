"""Fix the thresholds: the least ones at which the calibration runs stay within the budget.

Usage::

    python -m benchmarks.campaigns.detectors_calibration

Prints the table of :data:`numguard.detectors.alarm_budget.THRESHOLDS`. No scored run is read.
"""

import math
from collections.abc import Iterator
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
#: A threshold that nothing crosses: what is wanted are the peaks of the sums.
FAR: Final = 1e9
#: Tests of the level. An alarm makes the bank learn the level anew and so changes the other tests' sums: while one
#: threshold after the other is tried out, that would count for them. Their thresholds are read off the sums instead.
SUMS: Final = tuple(test for test, span in TESTS.items() if span[0] == "loss_shift")
#: Alarms within so many rows are one episode.
EPISODE: Final = 50


def _episodes(monitored: Monitored, alarms: dict[str, list[int]], row: int) -> None:
    for test in monitored.tests:
        rows = alarms.setdefault(test, [])
        if not rows or row - rows[-1] > EPISODE:
            rows.append(row)
    monitored.tests.clear()


Rows = Iterator[tuple[int, float, dict[str, float]]]


def _logs(runs: list[Curve], clean: list[Run]) -> Iterator[tuple[int, int, Rows]]:
    """Yield the first row that counts, the number of rows and the rows of each calibration run."""
    for curve in runs:
        yield curve.first_scored, len(curve.losses), curve.rows()
    for run in clean:
        yield (
            0,
            len(run.rows),
            (
                (step, math.nan if loss is None else loss, {} if norm is None else {"grad_norm": norm})
                for step, loss, norm in run.rows
            ),
        )


def _count(levels: dict[str, float], runs: list[Curve], clean: list[Run]) -> dict[str, int]:
    totals = dict.fromkeys(TESTS, 0)
    budget = AlarmBudget(levels=levels)
    for first, _, rows in _logs(runs, clean):
        monitored, alarms = Monitored(budget), {}
        for row, (step, loss, channels) in enumerate(rows):
            if math.isfinite(loss):
                monitored(step, loss, channels)
            if row < first:
                monitored.tests.clear()
            _episodes(monitored, alarms, row)
        for test, places in alarms.items():
            totals[test] += len(places)
    return totals


def _least(allowed: int, runs: list[Curve], clean: list[Run]) -> dict[str, float]:
    """Return the least thresholds with no more than so many episodes each, by bisection of all tests at once."""
    tests = [test for test in TESTS if test not in SUMS]
    low, high = ({test: TESTS[test][side] for test in tests} for side in (1, 2))
    for _ in range(ROUNDS):
        middle = {test: (low[test] + high[test]) / 2.0 for test in tests}
        totals = _count({**middle, **dict.fromkeys(SUMS, FAR)}, runs, clean)
        for test in tests:
            side = low if totals[test] > allowed else high
            side[test] = middle[test]
    return high


def _sums(runs: list[Curve], clean: list[Run]) -> dict[str, list[np.ndarray]]:
    """Return the sums of the level's tests in every run, row by row, where no alarm starts them again."""
    found: dict[str, list[np.ndarray]] = {test: [] for test in SUMS}
    for first, _, rows in _logs(runs, clean):
        monitored = Monitored(AlarmBudget(levels=dict.fromkeys(SUMS, FAR)))
        totals = []
        for row, (step, loss, channels) in enumerate(rows):
            if math.isfinite(loss):
                monitored(step, loss, channels)
                shift = monitored.monitor._tracks[""].bank.shift
                if row >= first:
                    totals.append((shift.rise.total, shift.fall.total, shift.slow_rise.total, shift.slow_fall.total))
        for test, series in zip(SUMS, np.array(totals).reshape(-1, len(SUMS)).T, strict=True):
            found[test].append(series)
    return found


def _least_of_sums(series: list[np.ndarray], allowed: int) -> float:
    """Return the least threshold that sums cross in no more than so many episodes."""
    low, high = 0.0, max((float(run.max()) for run in series if len(run)), default=0.0)
    for _ in range(4 * ROUNDS):
        middle = (low + high) / 2.0
        crossed = [np.flatnonzero(run > middle) for run in series]
        num_episodes = sum(int(len(rows) > 0) + int(np.sum(np.diff(rows) > EPISODE)) for rows in crossed)
        low, high = (middle, high) if num_episodes > allowed else (low, middle)
    return high


def calibrate(runs: list[Curve], clean: list[Run]) -> tuple[dict[str, tuple[float, float]], int]:
    """Return level and increase per e-fold of every threshold without a reference, and the rows behind them.

    Notes
    -----
    A test's part of the budget is less than one episode on the calibration runs, and the least threshold without any
    episode has an expected number of about 0.7 on as many new rows (the median of a Poisson count is 0 up to a mean of
    0.69, and 2 up to 2.67). Rates fall exponentially in these thresholds, so two points give the slope, and the level
    is carried on to the part of the budget.
    """
    sums, num_rows = _sums(runs, clean), sum(max(0, num - first) for first, num, _ in _logs(runs, clean))
    none, two = (
        {**_least(allowed, runs, clean), **{test: _least_of_sums(sums[test], allowed) for test in SUMS}}
        for allowed in (0, 2)
    )
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
            monitored = Monitored(AlarmBudget(levels=dict.fromkeys(TESTS, FAR)), reference)
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
