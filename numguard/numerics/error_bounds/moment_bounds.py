"""Rounding bounds of variances, standard deviations and means of rows.

Notation as in :mod:`~numguard.numerics.error_bounds.normalisation_bounds`: V the variance of a row with divisor n. All
tensors are float64; every result bounds ``|computed - exact|`` before output rounding. u is the unit roundoff of
``dtype``, the format in which the operator adds.
"""

from typing import Final

import torch
from torch import Tensor

from numguard.numerics.error_bounds.exponential_bounds import bounded_while
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, smallest_rounding

MEAN_ROUNDINGS: Final = 4.0  # of a running mean or of a quotient, beside the sum


def mean_bound(mean: Tensor, mean_magnitude: Tensor, num_terms: int, height: int, dtype: torch.dtype) -> Tensor:
    """Return a bound on the error of means that are formed with ``height`` roundings per term.

    Parameters
    ----------
    mean, mean_magnitude
        Means of the values and of their absolute values.
    num_terms
        n.
    height
        h, roundings that a term passes through.

    Notes
    -----
    ``h u mean|x| + 4 u |mean|`` and one subnormal rounding a step (Higham, ASNA 2nd ed., section 4.2; a running mean
    has the same bound, Chan, Golub and LeVeque, 1983). Infinite where the sum may overflow.
    """
    unit = UNIT_ROUNDOFF[dtype]
    bound = height * unit * mean_magnitude + MEAN_ROUNDINGS * unit * mean.abs()
    bound = bound + (height + 1.0) * smallest_rounding(dtype)
    return bounded_while(4.0 * num_terms * mean_magnitude, dtype, bound)


def variance_bound(variance: Tensor, mean: Tensor, mean_error: Tensor, height: int, dtype: torch.dtype) -> Tensor:
    """Return a bound on the error of variances by Welford's updates, merged updates or two passes.

    Parameters
    ----------
    variance, mean
        V and mean of each row.
    mean_error
        Bound of the mean from which deviations are taken.
    height
        As in :func:`mean_bound`.

    Notes
    -----
    ``h u (2 V + 2 sqrt(V (V + mean^2))) + (h u)^2 (V + mean^2) + 4 u V + d mean^2`` and subnormal squares: the
    condition number of the variance is ``sqrt(1 + mean^2 / V)`` (Chan, Golub and LeVeque, "Algorithms for computing the
    sample variance", The American Statistician 37, 1983).
    """
    unit, tiny = UNIT_ROUNDOFF[dtype], torch.finfo(dtype).smallest_normal
    second, grown = variance + mean * mean, height * unit
    spread = 2.0 * grown * (variance + (variance * second).sqrt()) + grown**2 * second
    return spread + 4.0 * unit * variance + mean_error * mean_error + 2.0 * tiny


def one_pass_variance_bound(variance: Tensor, mean: Tensor, num_terms: int, dtype: torch.dtype) -> Tensor:
    """Return a bound on the error of ``mean(x^2) - mean(x)^2``: ``(4 n + 3) u (V + 2 mean^2) + 3 u mean^2``.

    Notes
    -----
    Each of the two means has a relative error of at most ``(n + 1) u`` of mean(x^2) = V + mean^2, the square of the
    mean twice that of mean^2; the difference cancels where mean^2 is large beside V.
    """
    unit, square = UNIT_ROUNDOFF[dtype], mean * mean
    tiny = torch.finfo(dtype).smallest_normal
    return (4.0 * num_terms + 3.0) * unit * (variance + 2.0 * square) + 3.0 * unit * square + 2.0 * tiny


def root_bound(value: Tensor, bound: Tensor) -> Tensor:
    """Return how far ``sqrt`` moves when ``value`` moves by ``bound``, without its own rounding.

    Notes
    -----
    ``|sqrt v' - sqrt v| = |v' - v| / (sqrt v' + sqrt v)``, largest for the smallest v'; where v' may reach zero it is
    at most ``sqrt(bound)``.
    """
    lowest = (value - bound).clamp(min=0.0).sqrt() + value.sqrt()
    return torch.where(lowest > 0, bound / lowest.clamp(min=1e-300), torch.inf).minimum(bound.sqrt())


def reciprocal_root_bound(variance_error: Tensor, shifted: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the relative bound of ``1 / sqrt(V + eps)``: ``1 / sqrt(1 - rho) - 1 + 4 u`` with rho = dV / (V + eps).

    Parameters
    ----------
    variance_error
        dV.
    shifted
        ``V + eps``.

    Notes
    -----
    From rho = 3/4 on nothing is promised: the bound is infinite.
    """
    share = variance_error / shifted
    return (
        torch.where(share < 0.75, (1.0 - share.clamp(max=0.75)).rsqrt() - 1.0, torch.inf) + 4.0 * UNIT_ROUNDOFF[dtype]
    )
