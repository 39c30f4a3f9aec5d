"""Which observations carry a fit: every block left out once, and outliers left out together."""

from dataclasses import dataclass

import numpy as np

from numguard.scaling.law import FloatArray, IntArray
from numguard.scaling.optima import Optimum, search_again
from numguard.scaling.problem import Problem

OUTLIER_SCORE = 6.0
_MOST_BLOCKS = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Influence:
    """What leaving out observations does to a fit.

    Parameters
    ----------
    rows
        ``[observations]``, the row of each in what was handed in.
    block
        ``[observations]``, the number of its block.
    shift
        ``[blocks, quantities]``, the change of each parameter and derived quantity when a block is left out, in
        bootstrap standard errors.
    score
        ``[observations]``, residuals in robust standard deviations (1.4826 times their median absolute value).
    outliers
        Row numbers whose score exceeds 6: of normal errors one in 500 million does.
    without_outliers
        ``[quantities]``, the fit when all outliers are left out together; the fit itself where there are none.
    """

    rows: IntArray
    block: IntArray
    shift: FloatArray
    score: FloatArray
    outliers: tuple[int, ...]
    without_outliers: FloatArray


def influence_of(problem: Problem, optimum: Optimum, standard_errors: FloatArray) -> Influence:
    """Return the influence of every block on a fit.

    Parameters
    ----------
    problem, optimum
        The fit.
    standard_errors
        ``[quantities]``, the unit of the shifts.

    Notes
    -----
    Refits, not the influence function: with a sum of Huber losses whose ``delta`` is far below the noise, leaving out
    one point moves the optimum along an L1 vertex path that no derivative describes.
    """
    member = np.unique(problem.design.block, return_inverse=True)[1]
    num_blocks = int(member.max()) + 1
    residuals = problem.residuals(optimum.theta[None])[0]
    counted = problem.weight > 0
    spread = max(1.4826 * float(np.median(np.abs(residuals[counted]))), problem.delta)
    score = np.where(counted, residuals / spread, 0.0)
    outliers = np.nonzero(np.abs(score) > OUTLIER_SCORE)[0]
    left_out = np.arange(min(num_blocks, _MOST_BLOCKS))
    weights = np.where(member[None, :] == left_out[:, None], 0.0, problem.weight)
    weights = np.concatenate([weights, problem.weight[None].copy()])
    weights[-1, outliers] = 0.0
    values = problem.law.values(search_again(problem, optimum, weights).theta)
    central = problem.law.values(optimum.theta[None])[0]
    unit = np.where(standard_errors > 0, standard_errors, np.inf)
    return Influence(
        rows=problem.row,
        block=member.astype(np.int64),
        shift=(values[:-1] - central) / unit,
        score=score,
        outliers=tuple(int(row) for row in problem.row[outliers]),
        without_outliers=values[-1],
    )
