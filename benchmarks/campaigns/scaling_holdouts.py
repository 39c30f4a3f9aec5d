"""Predictions 8 to 16 times further than the largest fitted run, over families of published runs: are they covered?

One prediction for each family: fitted are the runs up to the largest size that leaves runs 8 to 16 times larger, and
scored is the largest of those. The one constant of the band that was settled on data, the least error of the form, is
chosen for each source on the other sources alone: the smallest of a few values that covers nine tenths of each of them
on average. That the sources agree on it is the result; the constant that ships is the one that all of them together
choose.

Usage::

    python -m benchmarks.campaigns.scaling_holdouts --out docs/scaling_ground_truth.md
"""

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.campaigns import scaling_constants
from benchmarks.campaigns.scaling_families import FAMILIES, Family, families
from benchmarks.campaigns.scaling_page import page
from numguard import scaling
from numguard.scaling.columns import read_columns
from numguard.scaling.law import FloatArray
from numguard.scaling.prediction_bands import Uncertainty, band_half_widths

NEAREST, FARTHEST = 7.9, 16.2  # 8 and 16, and the rounding of published sizes
LEVEL = 0.9
CANDIDATES = (0.004, 0.006, 0.008, 0.010, 0.012, 0.015)
SHIPPED = 0.008
_LEAST_SPAN = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Holdout:
    """One prediction and what came.

    Parameters
    ----------
    family, source
        Whose.
    num_fitted
        Runs that were fitted.
    times
        How many times larger the predicted run is than the largest of these.
    error
        Predicted minus observed, in natural logarithms of the loss.
    half_widths
        Half the width of the 90 % interval for each of the candidates, likewise.
    latest
        Whether the fit is the family's largest that leaves a run to predict; earlier ones are told apart.
    """

    family: str
    source: str
    num_fitted: int
    times: float
    error: float
    half_widths: tuple[float, ...]
    latest: bool

    def covered(self, candidate: float) -> bool:
        return abs(self.error) <= self.half_widths[CANDIDATES.index(candidate)]


def cuts_of(family: Family) -> list[float]:
    """Return the sizes up to which a fit has twice as many runs as parameters and leaves a run 8 to 16 times larger."""
    num_parameters = len(family.law.parameters)
    found: list[float] = []
    for cut in np.unique(family.size):
        fitted = family.size <= cut
        further = (family.size >= NEAREST * cut) & (family.size <= FARTHEST * cut)
        enough = fitted.sum() >= 2 * num_parameters and len(np.unique(family.size[fitted])) > num_parameters
        if enough and further.any() and cut >= _LEAST_SPAN * family.size.min():
            found.append(float(cut))
    return found


def hold_out(family: Family, cut: float, *, latest: bool, num_bootstraps: int = 200) -> Holdout:
    """Return the prediction of the largest run at most 16 times above the cut, from the runs up to the cut."""
    fitted = family.size <= cut
    target = int(np.argmax(np.where(family.size <= FARTHEST * cut, family.size, 0.0)))
    runs: dict[str, Any] = {name: values[fitted] for name, values in family.columns.items()}
    result = scaling.fit(family.law, family.loss[fitted], num_bootstraps=num_bootstraps, **runs)
    design = family.law.design(
        read_columns(family.law, {name: values[target] for name, values in family.columns.items()})
    )
    with np.errstate(all="ignore"):
        centre = family.law.log_value(result.theta[None], design)[0]
        drawn = family.law.log_value(result.draws, design)
    distance = design.size - result.uncertainty.largest_size
    widths = [
        band_half_widths(_with(result.uncertainty, least), centre, drawn, distance, LEVEL) for least in CANDIDATES
    ]
    return Holdout(
        family=family.name,
        source=family.source,
        num_fitted=int(fitted.sum()),
        times=float(np.exp(distance[0])),
        error=float(centre[0] - np.log(family.loss[target])),
        half_widths=tuple(float(width[0]) for width in widths),
        latest=latest,
    )


def _with(uncertainty: Uncertainty, least: float) -> Uncertainty:
    """Return the band with another least error of the form beside what the roll-outs gave."""
    measured = np.sqrt(max(uncertainty.form_error**2 - SHIPPED**2, 0.0))
    return dataclasses.replace(uncertainty, form_error=float(np.hypot(measured, least)))


def hold_outs(found: Iterable[Family]) -> list[Holdout]:
    """Return every family's predictions, from fits that grow by a factor of 2 at least."""
    results = []
    for family in found:
        cuts = cuts_of(family)
        chosen: list[float] = []
        for cut in reversed(cuts):
            if not chosen or cut <= chosen[-1] / 2:
                chosen.append(cut)
        results += [hold_out(family, cut, latest=cut == chosen[0]) for cut in chosen]
    return results


def coverage_by_source(results: Sequence[Holdout], candidate: float) -> dict[str, float]:
    sources = dict.fromkeys(result.source for result in results)
    return {
        source: float(np.mean([own.covered(candidate) for own in results if own.source == source]))
        for source in sources
    }


def chosen_on(results: Sequence[Holdout]) -> float:
    """Return the smallest candidate that covers nine tenths of a source on average; the largest where none does."""
    for candidate in CANDIDATES:
        if np.mean(list(coverage_by_source(results, candidate).values())) >= LEVEL:
            return candidate
    return CANDIDATES[-1]


def clopper_pearson(num_covered: int, num: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share (Clopper and Pearson, Biometrika 26, 1934)."""
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, num_covered, num - num_covered + 1)) if num_covered else 0.0
    high = float(stats.beta.ppf(1 - tail, num_covered + 1, num - num_covered)) if num_covered < num else 1.0
    return low, high


def scored(results: Sequence[Holdout]) -> dict[str, tuple[float, list[Holdout]]]:
    """Return for each source the constant that the others chose, and its own predictions."""
    sources = dict.fromkeys(result.source for result in results)
    return {
        source: (
            chosen_on([other for other in results if other.source != source]),
            [own for own in results if own.source == source],
        )
        for source in sources
    }


def half_width(result: Holdout, candidate: float) -> FloatArray:
    return np.asarray(result.half_widths[CANDIDATES.index(candidate)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    results = hold_outs(families(FAMILIES))
    rows, totals = [], {True: [0, 0], False: [0, 0]}
    for source, (candidate, own) in scored(results).items():
        for latest in (True, False):
            part = [result for result in own if result.latest or not latest]
            totals[latest][0] += sum(result.covered(candidate) for result in part)
            totals[latest][1] += len(part)
        last = [result for result in own if result.latest]
        rows.append(
            (
                source,
                f"{candidate:.1%}",
                f"{sum(result.covered(candidate) for result in last)} of {len(last)}",
                f"{sum(result.covered(candidate) for result in own)} of {len(own)}",
                f"{np.expm1(np.median([abs(result.error) for result in own])):.1%}",
                f"{np.expm1(np.median([half_width(result, candidate) for result in own])):.1%}",
            )
        )
    intervals = {latest: clopper_pearson(*counts) for latest, counts in totals.items()}
    constants = [scaling_constants.HEADER, *scaling_constants.rows()]
    given.out.write_text(page(results, rows, totals, intervals, chosen_on(results), constants), encoding="utf-8")


if __name__ == "__main__":
    main()
