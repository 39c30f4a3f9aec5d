"""Rounding bounds of distances between rows, computed from differences or from inner products.

All tensors are float64; every result bounds ``|computed - exact|`` before output rounding.
"""

from typing import Final

import torch
from torch import Tensor

from numguard.numerics.error_bounds.exponential_bounds import bounded_while
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.numerics.error_bounds.moment_bounds import root_bound

ROOT_ROUNDINGS: Final = 4.0  # of pow and its root beside what they are applied to


def distance_bound(distance: Tensor, power: float, num_terms: int, dtype: torch.dtype) -> Tensor:
    """Return the bound of ``(sum |a - b|^p)^(1/p)`` formed from the differences.

    Parameters
    ----------
    distance
        Exact distances r.
    power
        p: positive, or infinite for the largest difference; 0 counts the differences.
    num_terms
        Length n of the rows.

    Notes
    -----
    Every term has a relative error of ``(p + 4) u`` (u of the difference, p times; pow within 2 ulp), their sum
    ``(n - 1) u`` more; the root divides the relative error by p. Powers that underflow may vanish.
    """
    unit, tiny = UNIT_ROUNDOFF[dtype], torch.finfo(dtype).smallest_normal
    if power == 0.0:
        return torch.zeros_like(distance)
    if power == float("inf"):
        return 2.0 * unit * distance
    plain = ((num_terms + power + 6.0) / min(power, 1.0) / max(power, 1.0) + ROOT_ROUNDINGS) * unit
    # pow(s, 1 / p) with a rounded exponent moves by u |ln s|.
    logarithm = power * distance.clamp(min=1e-300).log().abs()
    relative = plain + 2.0 * unit * logarithm / power
    lost = (num_terms * tiny) ** (1.0 / max(power, 1.0)) if power >= 1.0 else float("inf")
    bound = 1.01 * relative * distance + torch.where(distance**power < 1e3 * num_terms * tiny, lost, 0.0)
    return bounded_while(4.0 * distance**power, dtype, bound)


def product_distance_bound(distance: Tensor, squares: Tensor, num_terms: int, dtype: torch.dtype) -> Tensor:
    """Return the bound of ``sqrt(max(|a|^2 + |b|^2 - 2 a b, 0))``, as fast implementations form it.

    Parameters
    ----------
    squares
        ``|a|^2 + |b|^2``.

    Notes
    -----
    The three inner products err by ``(n + 4) u`` of at most twice ``squares``; the difference cancels for close points,
    and the root turns its error d into ``min(d / r, sqrt d)``.
    """
    unit, tiny = UNIT_ROUNDOFF[dtype], torch.finfo(dtype).smallest_normal
    spread = 2.0 * (num_terms + 6.0) * unit * squares + 4.0 * num_terms * tiny
    bound = root_bound(distance * distance, spread) + 2.0 * unit * distance
    return bounded_while(4.0 * squares, dtype, bound)
