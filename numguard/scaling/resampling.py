"""Bootstrap resamples as weights, so that all of them are fitted in one computation."""

import numpy as np

from numguard.scaling.law import FloatArray
from numguard.scaling.problem import Problem


def bootstrap_weights(problem: Problem, num_resamples: int, seed: int) -> FloatArray:
    """Return ``[resamples, rows]``, random weights whose mean over resamples is the problem's own weight.

    Notes
    -----
    The Bayesian bootstrap (Rubin, Annals of Statistics 9, 1981): every block of rows gets an exponential weight in
    place of the multinomial count of Efron's, with the same mean, variance and correlation, so standard errors agree
    to order ``1/n``. No resample loses a block altogether, as counts do: of a handful of runs they leave some resamples
    with fewer distinct runs than parameters.
    """
    random = np.random.default_rng(seed)
    blocks, member = np.unique(problem.design.block, return_inverse=True)
    drawn = random.standard_exponential((num_resamples, len(blocks)))
    observed = np.zeros(len(blocks), dtype=bool)
    observed[member[problem.weight > 0]] = True
    drawn *= observed.sum() / drawn[:, observed].sum(axis=1, keepdims=True)
    return np.asarray(drawn[:, member] * problem.weight)
