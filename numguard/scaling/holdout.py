"""Roll-outs: fit the smaller runs, predict the larger ones that are already there, and keep the errors."""

from dataclasses import dataclass

import numpy as np

from numguard.scaling.law import FloatArray
from numguard.scaling.optima import Optimum, search_again
from numguard.scaling.problem import Problem

_CUTS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # shares of the distinct sizes that are fitted


@dataclass(frozen=True, kw_only=True, slots=True)
class Holdout:
    """Errors of predictions of observations that were left out because they are larger than all that was fitted.

    Parameters
    ----------
    row
        ``[errors]``, row of the data.
    distance
        ``[errors]``, natural logarithm of its size over the largest fitted size.
    error
        ``[errors]``, predicted minus observed, in natural logarithms of the value.
    cut
        ``[errors]``, natural logarithm of the largest fitted size.
    """

    row: FloatArray
    distance: FloatArray
    error: FloatArray
    cut: FloatArray

    @property
    def median_error(self) -> float:
        """The median of absolute errors, as a share of the value; NaN without any."""
        return float(np.expm1(np.median(np.abs(self.error)))) if len(self.error) else float("nan")


def roll_out(problem: Problem, optimum: Optimum) -> Holdout:
    """Return the errors of roll-outs that fit the smallest 40, 50, … 90 % of the sizes.

    A roll-out needs one more observation than the law has parameters; smaller ones are left out.
    """
    counted = problem.weight > 0
    size = problem.design.size
    distinct = np.unique(np.round(size[counted], 9))
    cuts = sorted({float(distinct[int(np.ceil(share * len(distinct))) - 1]) for share in _CUTS})
    needed = len(problem.law.parameters) + 1
    fitted = [counted & (size <= cut + 1e-9) for cut in cuts]
    usable = [number for number, rows in enumerate(fitted) if rows.sum() >= needed and (counted & ~rows).any()]
    if not usable:
        empty = np.zeros(0)
        return Holdout(row=empty, distance=empty, error=empty, cut=empty)
    weights = np.stack([np.where(fitted[number], problem.weight, 0.0) for number in usable])
    residuals = problem.residuals(search_again(problem, optimum, weights).theta)
    parts = []
    for number, own in zip(usable, residuals, strict=True):
        rows = np.nonzero(counted & ~fitted[number])[0]
        distance = size[rows] - cuts[number]
        parts.append(np.stack([problem.row[rows], distance, -own[rows], np.full(len(rows), cuts[number])]))
    row, distance, error, cut = np.concatenate(parts, axis=1)
    return Holdout(row=row, distance=distance, error=error, cut=cut)


def error_between_curves(problem: Problem, optimum: Optimum) -> float:
    """Return the root mean square error, in logarithms, with which all other curves predict each curve.

    It is 0 where rows are not of curves, and where there is one curve or the others are too few to fit.
    """
    curve = problem.design.curve
    counted = problem.weight > 0
    if curve is None:
        return 0.0
    names = np.unique(curve[counted])
    left_out = [curve == name for name in names]
    if len(names) < 2 or min((counted & ~own).sum() for own in left_out) <= len(optimum.theta):
        return 0.0
    weights = np.stack([np.where(own, 0.0, problem.weight) for own in left_out])
    residuals = problem.residuals(search_again(problem, optimum, weights).theta)
    squares = [np.mean(row[own & counted] ** 2) for row, own in zip(residuals, left_out, strict=True)]
    return float(np.sqrt(np.mean(squares)))
