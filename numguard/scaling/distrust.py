"""What a fit says against itself."""

import numpy as np

from numguard.scaling.descent import Descent
from numguard.scaling.influence import Influence
from numguard.scaling.law import FloatArray, quantities
from numguard.scaling.optima import Optimum
from numguard.scaling.problem import Problem

_MOST_MOVED = 1.0  # bootstrap standard errors by which outliers may move a quantity unmentioned
_LEAST_AGREEING = 0.05
_MOST_FAILED = 0.05
_LEAST_SPAN = 1.2  # natural logarithms of size: less than 3.3 times tells no power from a straight line
_MOST_LISTED = 8


def reasons_for_distrust(
    problem: Problem, optimum: Optimum, drawn: Descent, spread: FloatArray, influence: Influence
) -> tuple[str, ...]:
    """Return the warnings of a fit, one sentence each.

    Parameters
    ----------
    problem, optimum
        The fit.
    drawn
        The optima of its resamples.
    spread
        ``[quantities]``, bootstrap standard errors.
    influence
        What leaving out observations does.
    """
    candidates = (
        _outliers(problem, optimum, spread, influence),
        _saturated(problem),
        _span(problem),
        _single_curve(problem),
        _side_valleys(optimum),
        _unresolved(problem, optimum, drawn, spread),
    )
    return tuple(warning for warning in candidates if warning)


def _outliers(problem: Problem, optimum: Optimum, spread: FloatArray, influence: Influence) -> str:
    if not influence.outliers:
        return ""
    before = problem.law.values(optimum.theta[None])[0]
    moved = np.abs(influence.without_outliers - before) / np.where(spread > 0, spread, np.inf)
    most = int(np.argmax(moved))
    if moved[most] < _MOST_MOVED:
        return ""
    names = quantities(problem.law)
    changes = ", ".join(
        f"{names[int(k)]} from {before[k]:.4g} to {influence.without_outliers[k]:.4g}"
        for k in np.nonzero(moved >= _MOST_MOVED)[0]
    )
    rows = [str(row) for row in influence.outliers[:_MOST_LISTED]]
    listed = ", ".join(rows) + (", …" if len(influence.outliers) > _MOST_LISTED else "")
    return (
        f"{len(influence.outliers)} of {problem.num_observed} observations (rows {listed}) lie more than 6 robust "
        f"standard deviations off and carry the fit: without them {changes}; find out what is different about them"
    )


def _saturated(problem: Problem) -> str:
    spare = problem.num_observed - len(problem.law.parameters)
    if spare >= 2:
        return ""
    return (
        f"{problem.num_observed} observations for {len(problem.law.parameters)} parameters leave "
        f"{spare} to judge the fit by; add runs"
    )


def _span(problem: Problem) -> str:
    size = problem.design.size[problem.weight > 0]
    if np.ptp(size) >= _LEAST_SPAN:
        return ""
    return (
        f"the largest run is only {np.exp(np.ptp(size)):.2g} times the smallest; the exponent of a power law needs "
        "runs that span at least a factor of 10"
    )


def _single_curve(problem: Problem) -> str:
    curve = problem.design.curve
    if curve is None or len(np.unique(curve)) > 1:
        return ""
    return (
        "one curve was fitted, so nothing shows how far the law is off on another schedule; fit runs of two schedules "
        "or more, told apart by the column curve=…"
    )


def _side_valleys(optimum: Optimum) -> str:
    if optimum.agreeing >= _LEAST_AGREEING:
        return ""
    return (
        f"only {optimum.agreeing:.0%} of the best starts reach the optimum: the objective has side valleys, so a refit "
        "on slightly other data may land elsewhere"
    )


def _unresolved(problem: Problem, optimum: Optimum, drawn: Descent, spread: FloatArray) -> str:
    failed = float((~drawn.converged).mean())
    if failed > _MOST_FAILED:
        return f"{failed:.0%} of the bootstrap resamples have no optimum that descent reaches; intervals are too narrow"
    values = np.abs(problem.law.values(optimum.theta[None])[0])
    loose = [
        name for name, value, error in zip(quantities(problem.law), values, spread, strict=True) if not error <= value
    ]
    if not loose:
        return ""
    return f"the data do not determine {', '.join(loose)}: the standard error exceeds the value"
