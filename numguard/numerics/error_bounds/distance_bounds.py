"""Rounding bounds of distances between rows, computed from differences or from inner products.

All tensors are float64; every result bounds ``|computed - exact|`` before output rounding.
"""

import math
from typing import Final, NamedTuple

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


class GradientReach(NamedTuple):
    """Extremes over the terms of a sum, float64: what decides whether a step of it may leave the range.

    Attributes
    ----------
    gap, incoming
        Largest ``|d_j| + r_j`` and largest ``|g_j|``.
    nearest
        Smallest distance that is not zero; infinite where none is.
    """

    gap: Tensor
    incoming: Tensor
    nearest: Tensor


def distance_gradient_bound(
    mass: Tensor, reach: GradientReach, power: float, num_terms: int, dtype: torch.dtype
) -> Tensor:
    """Return the bound of ``sum_j g_j sign(d_j) (|d_j| / r_j)^(p - 1)``, the gradient of distances r by one operand.

    Parameters
    ----------
    mass
        Sum of the magnitudes of the terms.
    reach
        Of the terms.
    power
        p: 1 or more, infinite, or 0.
    num_terms
        Terms n of a sum.

    Notes
    -----
    A term is ``d |d|^(p - 2) g / r^(p - 1)``: the difference errs by u, p - 1 times; two powers by 2 ulp each, whose
    exponents are exact for whole p and otherwise move them by ``u |ln|`` of their arguments; three products and
    quotients round once each. The sum adds ``(n - 1) u`` (Jeannerod and Rump, SIAM J. Matrix Anal. Appl. 34, 2013).
    A power or a product that underflows loses at most the smallest normal number, which is divided by
    ``r^(p - 1)``; where that may itself be subnormal, or a step may overflow, nothing is said.
    """
    unit, limits = UNIT_ROUNDOFF[dtype], torch.finfo(dtype)
    if power in (0.0, 1.0, float("inf")):
        return bounded_while(mass, dtype, (num_terms + 2.0) * unit * mass)
    largest_logarithm = math.log(limits.max) if power != int(power) else 0.0
    relative = (num_terms + 2.0 * power + 16.0 + 2.0 * largest_logarithm) * unit
    steps, tiny = max(power - 1.0, 1.0), float(limits.smallest_normal)
    divisor = reach.nearest**steps
    lost = num_terms * tiny * (1.0 + reach.gap * reach.incoming) / divisor
    bound = torch.where(divisor > 2.0 * tiny, 1.01 * relative * mass + lost, torch.inf)
    return bounded_while((1.0 + reach.gap) ** steps * (1.0 + reach.incoming) + mass, dtype, bound)
