"""Find the optimum from the whole grid of starts, and again for every resample or held-out part."""

from dataclasses import dataclass

import numpy as np

from numguard.scaling.descent import Descent, descend
from numguard.scaling.law import FloatArray
from numguard.scaling.problem import Problem

_FIRST_STEPS = 12
_NUM_FINALISTS = 64
_NUM_PER_RESAMPLE = 2
_MOST_KEPT = 512
_PERFECT = 0.5e-12  # the Huber loss of a residual of 1e-6: runs without scatter leave no more than rounding


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimum:
    """The best vector, and where all starts of the grid had come to.

    Parameters
    ----------
    theta
        ``[parameters]``.
    objective
        Its objective.
    agreeing
        Share of the finalists that ended at this objective to one part in a million.
    basins
        ``[vectors, parameters]``, distinct end points, best first: the starts for resamples.
    """

    theta: FloatArray
    objective: float
    agreeing: float
    basins: FloatArray


def search(problem: Problem) -> Optimum:
    """Return the optimum over the law's full grid of starts.

    Notes
    -----
    Every start descends for 12 steps; the 64 best of all go on until nothing is gained any more. No start is left out:
    grids that are thinned stop in side valleys of this objective.
    """
    grid = problem.law.starts(problem.design, problem.target)
    ground = descend(problem, grid, num_steps=_FIRST_STEPS, tolerance=1e-5)
    order = np.argsort(ground.objective, kind="stable")
    final = descend(problem, ground.theta[order[:_NUM_FINALISTS]])
    best = int(np.argmin(final.objective))
    lowest = float(final.objective[best])
    kept = order[:: max(1, len(order) // _MOST_KEPT)]
    return Optimum(
        theta=final.theta[best],
        objective=lowest,
        agreeing=float((final.objective <= lowest * (1 + 1e-6) + _PERFECT * problem.num_observed).mean()),
        basins=np.concatenate([final.theta[[best]], final.theta, ground.theta[kept]]),
    )


def search_again(problem: Problem, optimum: Optimum, weights: FloatArray) -> Descent:
    """Return the optimum under each row of ``weights [resamples, rows]``.

    Notes
    -----
    A resample only weighs the same residuals anew, so one matrix product gives the objective of every end point under
    every resample; each then descends from the overall optimum and from the best end point that it has itself.
    """
    with np.errstate(all="ignore"):
        residuals = problem.residuals(optimum.basins)
        size = np.abs(residuals)
        inside = np.minimum(size, problem.delta)
        losses = np.nan_to_num(inside * (size - 0.5 * inside), nan=1e30, posinf=1e30)
    scores = losses @ weights.T
    chosen = np.argsort(scores[1:], axis=0, kind="stable")[: _NUM_PER_RESAMPLE - 1] + 1
    chosen = np.concatenate([np.zeros((1, len(weights)), dtype=chosen.dtype), chosen])
    num_each = len(chosen)
    starts = optimum.basins[chosen.T.reshape(-1)]
    reached = descend(problem, starts, weights=np.repeat(weights, num_each, axis=0), tolerance=1e-10)
    by_resample = reached.objective.reshape(-1, num_each)
    best = by_resample.argmin(axis=1) + np.arange(len(weights)) * num_each
    return Descent(theta=reached.theta[best], objective=reached.objective[best], converged=reached.converged[best])
