"""False alarms, delays and real events: the loss monitor beside the rules that others ship.

Usage::

    python -m benchmarks.campaigns.detectors            # writes docs/detectors.md
    python -m benchmarks.campaigns.detectors --quick    # a sample, printed

Needs the curves of :mod:`benchmarks.campaigns.detectors_data`; thresholds come from
:mod:`benchmarks.campaigns.detectors_calibration`, which reads none of the runs that are scored here.
"""

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.campaigns.detectors_data import (
    DATA,
    FAULTS,
    REFERENCE_FAULTS,
    Curve,
    algoperf,
    calibration_workloads,
    curves,
)
from benchmarks.campaigns.detectors_page import Scores, page, section
from benchmarks.campaigns.detectors_rules import Rule
from benchmarks.campaigns.detectors_scoring import OURS, Count, Monitored, everyone, score_curve, score_events
from numguard.detectors import LossMonitor, ReferenceRun

PAGE = Path(__file__).parents[2] / "docs" / "detectors.md"
NUM_FAULTS = 48
FAULTS_PER_PAIR = 3


def without_reference(every: list[Curve], all_reduced: bool, num_faults: int) -> dict[str, Count]:
    """Score all rules on the runs of scored orders; faults go into those that are long enough."""
    runs = [curve for curve in every if not curve.calibrates and curve.all_reduced == all_reduced]
    longest = max(fault.horizon for fault in FAULTS)
    long = [curve for curve in runs if len(curve.losses) > 2 * longest]
    counts: dict[str, Count] = {}
    for curve in runs:
        share = -(-num_faults // len(long)) if curve in long else 0
        score_curve(curve, FAULTS, share, counts, everyone)
    return counts


def with_reference(every: list[Curve], num_faults: int) -> Count:
    """Score the monitor on pairs of runs that differ by seed and hardware only."""
    same = sorted((curve for curve in every if "ValueEmbed" in curve.name), key=lambda curve: curve.name)
    counts: dict[str, Count] = {}
    for curve, other in zip(same[::2], same[1::2], strict=True):
        reference = ReferenceRun.of(other.steps.tolist(), other.losses.tolist())
        score_pair(curve, num_faults, counts, lambda reference=reference: {OURS: Monitored(reference=reference)})
    return counts[OURS]


def score_pair(curve: Curve, num_faults: int, counts: dict[str, Count], make: Callable[[], dict[str, Rule]]) -> None:
    """Score one pair; faults begin from row 700 on."""
    score_curve(curve, REFERENCE_FAULTS, num_faults, counts, make, first=700)


def ahead_of_the_loss() -> list[tuple[int, float, float, str]]:
    """Return step, loss, gradient norm and findings of the 104B log lines around step 11,447."""
    monitor, lines = LossMonitor(), []
    with (DATA / "bigscience" / "tr8-104B-wide__chronicles_loglines.csv").open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            step, loss, norm = int(row["step"]), float(row["loss"]), float(row["grad_norm"])
            found = monitor.update(step, loss, grad_norm=norm, lr=float(row["lr"]), loss_scale=float(row["loss_scale"]))
            said = "; ".join(f"`{finding.kind}`: {finding.message.split(',')[0]}" for finding in found)
            lines.append((step, loss, norm, said))
    return [line for line in lines if 11_446 <= line[0] <= 11_448]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer faults; print instead of writing the page")
    quick = parser.parse_args().quick
    began = time.perf_counter()
    every, runs = curves(), algoperf()
    num_faults = 6 if quick else NUM_FAULTS
    scored = frozenset(run.workload for run in runs) - calibration_workloads(runs)
    scores = Scores(
        all_reduced=without_reference(every, True, num_faults),
        one_rank=without_reference(every, False, num_faults),
        reference=with_reference(every, 1 if quick else FAULTS_PER_PAIR),
        events=score_events(runs, scored),
        scored_workloads=tuple(sorted(scored)),
        lines=ahead_of_the_loss(),
        orders=tuple(sorted({curve.order for curve in every if not curve.calibrates})),
        calibration_orders=tuple(sorted({curve.order for curve in every if curve.calibrates})),
    )
    cost = section(PAGE.read_text(encoding="utf-8"), "Cost") if PAGE.exists() else ""
    text = page(scores, seconds=time.perf_counter() - began, cost=cost)
    if quick:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
