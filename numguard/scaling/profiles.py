"""Profile intervals: how far a parameter can go before the best fit of all others gets significantly worse."""

import numpy as np
from scipy import stats

from numguard.scaling.descent import descend
from numguard.scaling.law import FloatArray
from numguard.scaling.problem import Problem

_NUM_POINTS = 24
_FARTHEST = 8.0  # of the first pass, in scales of the parameter
_MOST_PASSES = 5


def likelihood_scale(problem: Problem, theta: FloatArray) -> float:
    """Return ``kappa`` such that twice a rise of the objective, over ``kappa``, is distributed as chi-squared.

    Notes
    -----
    For an M-estimator ``kappa = E psi^2 / E psi'`` (Huber and Ronchetti, *Robust Statistics*, 2nd ed., section 13.6 on
    the tau test; Heritier and Ronchetti, JASA 89, 1994). With ``delta`` far below the noise almost no residual lies
    where ``psi' = 1``, so ``E psi'`` is not their share but ``2 delta`` times the density of residuals at zero, taken
    from a window as wide as the rule of Hall and Sheather would have it (JRSS B 50, 1988).
    """
    counted = problem.weight > 0
    residuals = problem.residuals(theta[None])[0][counted]
    weight = problem.weight[counted]
    freedom = max(1, len(residuals) - len(theta))
    psi = np.clip(residuals, -problem.delta, problem.delta)
    spread = 1.4826 * float(np.median(np.abs(residuals)))
    window = max(problem.delta, spread * len(residuals) ** (-1 / 5))
    share = float((np.abs(residuals) <= window).mean()) * min(1.0, problem.delta / window)
    mean_square = float((weight**2 * psi**2).sum() / weight.sum()) * len(residuals) / freedom
    return float(mean_square / max(share, 1.0 / len(residuals) * min(1.0, problem.delta / window)))


def profile_interval(problem: Problem, theta: FloatArray, component: int, scale: float, level: float) -> FloatArray:
    """Return ``[low, high]`` of one component of ``theta``; infinite where the data set no end.

    Parameters
    ----------
    problem, theta
        The fit and its optimum.
    component
        Which component.
    scale
        Its rough standard error, for the spacing of the points.
    level
        Nominal coverage.

    Notes
    -----
    The quantile is Student's with the residual degrees of freedom, squared, in place of chi-squared with one.
    """
    freedom = max(1, problem.num_observed - len(theta))
    quantile = float(stats.t.ppf(0.5 + level / 2, freedom))
    allowed = quantile * np.sqrt(likelihood_scale(problem, theta))
    return np.asarray([_end(problem, theta, component, sign * max(scale, 1e-9), allowed) for sign in (-1.0, 1.0)])


def _end(problem: Problem, theta: FloatArray, component: int, unit: float, allowed: float) -> float:
    lowest = float(problem.objective(theta[None])[0])
    inner, farthest = 0.0, _FARTHEST
    for _ in range(_MOST_PASSES):
        offsets = inner + (farthest - inner) * np.arange(1, _NUM_POINTS + 1) / _NUM_POINTS
        starts = np.repeat(theta[None], len(offsets), axis=0)
        starts[:, component] += unit * offsets
        reached = descend(problem, starts, fixed=component, num_steps=100, tolerance=1e-9)
        # In the square root the profile of a well determined parameter is a straight line, so interpolation is exact.
        rise = np.sqrt(2.0 * np.maximum(reached.objective - lowest, 0.0))
        beyond = np.nonzero(rise > allowed)[0]
        if len(beyond):
            first = int(beyond[0])
            left = (offsets[first - 1], rise[first - 1]) if first else (inner, 0.0)
            share = (allowed - left[1]) / max(rise[first] - left[1], np.finfo(np.float64).tiny)
            if not np.isfinite(rise[first]):
                share = 0.0
            return float(theta[component] + unit * (left[0] + share * (offsets[first] - left[0])))
        inner, farthest = farthest, farthest * 4.0
    return float(np.copysign(np.inf, unit))
