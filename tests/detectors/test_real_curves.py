"""Real logs, where they are at hand: a sample of the campaign whose figures stand in ``docs/detectors.md``."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.campaigns.detectors_data import DATA, algoperf, calibration_workloads, curves
from benchmarks.campaigns.detectors_scoring import Monitored, num_episodes, poisson_upper
from numguard.detectors import CALIBRATIONS, LossMonitor, ReferenceRun

pytestmark = pytest.mark.skipif(
    not (DATA / "build_nanogpt").is_dir(), reason=f"no loss curves in {DATA}; NUMGUARD_CURVES names another place"
)


def test_the_gradient_norm_of_the_104b_log_speaks_one_step_before_the_loss() -> None:
    monitor, found = LossMonitor(), []
    with (DATA / "bigscience" / "tr8-104B-wide__chronicles_loglines.csv").open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            found += monitor.update(int(row["step"]), float(row["loss"]), grad_norm=float(row["grad_norm"]))
    assert 11447 in [finding.first_caught_step for finding in found if finding.evidence["detector"] == "gradient_lead"]
    assert 11446 not in [finding.first_caught_step for finding in found]


def test_scored_orders_stay_within_the_stated_rate() -> None:
    """Two runs of each scored order; the whole of them is counted in the campaign."""
    episodes, num_rows, taken = 0, 0, dict[str, int]()
    for curve in sorted(curves(), key=lambda curve: -len(curve.losses)):
        if curve.calibrates or taken.get(curve.order, 0) >= 2:
            continue
        taken[curve.order] = taken.get(curve.order, 0) + 1
        monitored = Monitored()
        alarms = [row for row, (step, loss, channels) in enumerate(curve.rows()) if monitored(step, loss, channels)]
        episodes += num_episodes([row for row in alarms if row >= curve.first_scored])
        num_rows += len(curve.losses) - curve.first_scored
    calibration = CALIBRATIONS["log-trend"]
    assert calibration is not None
    assert num_rows > 100_000
    assert 1e4 * episodes / num_rows <= calibration.high
    assert poisson_upper(episodes, num_rows / 1e4) < 2.0


def test_a_slow_drift_is_found_against_a_run_on_the_same_batches() -> None:
    same = [curve for curve in curves() if "ValueEmbed" in curve.name][:8]
    delays = []
    for curve, other in zip(same[::2], same[1::2], strict=True):
        reference = ReferenceRun.of(other.steps.tolist(), other.losses.tolist())
        losses = curve.losses.copy()
        losses[1000:] += 1e-4 * np.arange(len(losses) - 1000)
        monitored = Monitored(reference=reference)
        rows = replace(curve, losses=losses).rows()
        alarms = [row for row, (step, loss, channels) in enumerate(rows) if monitored(step, loss, channels)]
        delays.append(next(row for row in alarms if row >= 1000) - 1000)
    # Four pairs at one place; the median over all pairs and places stands in the campaign.
    assert np.median(delays) <= 100


def test_real_divergences_are_hit() -> None:
    runs = algoperf()
    events = [run for run in runs if run.event is not None][::6]
    hits = 0
    for run in events:
        monitored, alarms = Monitored(), []
        for row, (step, loss, norm) in enumerate(run.rows):
            if loss is not None and monitored(step, loss, {} if norm is None else {"grad_norm": norm}):
                alarms.append(row)
        assert run.event is not None
        hits += any(abs(row - run.event) <= 25 for row in alarms)
    assert hits >= 0.85 * len(events)


def test_calibration_and_scoring_share_nothing() -> None:
    every = curves()
    assert {curve.order for curve in every if curve.calibrates}.isdisjoint(
        curve.order for curve in every if not curve.calibrates
    )
    runs = algoperf()
    assert 0 < len(calibration_workloads(runs)) < len({run.workload for run in runs})
