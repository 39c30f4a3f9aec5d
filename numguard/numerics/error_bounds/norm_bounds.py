"""Deterministic bounds on vector norms of order p other than two, from sums of powers in float64.

The Euclidean norm has its own formula in :mod:`numguard.numerics.error_bounds.summation_bounds`; maxima and minima of
absolute values are exact.
"""

from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from numguard.numerics.error_bounds.reduction_bounds import guarded
from numguard.numerics.error_bounds.summation_bounds import Quantity

#: Relative error of one power, in units of u: vectorised powers are documented to 1 ulp (2 u), scalar ones to less.
POWER: Final = 4.0


class PowerNorm(NamedTuple):
    """What is known of the sums of powers behind norms of order p.

    Attributes
    ----------
    total
        ``S = sum |x|**p``, float64.
    order
        p, neither zero nor infinite.
    num_terms
        Elements per norm.
    growth
        Relative error of adding the powers.
    logarithms
        ``sum |x|**p * |ln|x||``: what a rounded p does to the sum. None where p is exact in the accumulator.
    """

    total: Tensor
    order: float
    num_terms: Quantity
    growth: Quantity
    logarithms: Tensor | None = None


def power_norm_bound(norm: Tensor, powers: PowerNorm, unit_roundoff: float, smallest: float, largest: float) -> Tensor:
    """Return a bound on the error of ``S**(1/p)``.

    Parameters
    ----------
    norm
        Exact norms, float64.
    powers
        The sums behind them.
    unit_roundoff, smallest, largest
        u, smallest normal and largest number of the accumulator.

    Notes
    -----
    The computed sum lies in ``S (1 -+ d) -+ n * smallest`` with ``d`` the error of the powers, of their exponent and
    of the additions; the root is monotonic, so its ends bound the norm, beside the error of the root itself and of
    its rounded exponent, ``u |ln S| / |p|``.
    """
    total, order = powers.total, powers.order
    spread = (powers.growth + POWER * unit_roundoff * (1.0 + powers.growth)) * total
    if powers.logarithms is not None:
        spread = spread + (1.0 + powers.growth) * 2.0 * abs(order) * unit_roundoff * powers.logarithms
    spread = spread + powers.num_terms * smallest
    upper, lower = total + spread, (total - spread).clamp(min=0.0)
    moved = torch.maximum((upper ** (1.0 / order) - norm).abs(), (lower ** (1.0 / order) - norm).abs())
    root = (POWER + 2.0 * total.clamp(min=smallest).log().abs() / abs(order)) * unit_roundoff
    bound = guarded(moved + root * (norm + moved), upper, largest)
    if order >= 0.0:
        return bound
    # A sum that is lost to underflow has an infinite root; one of an element of zero is infinite, the norm then zero.
    return torch.where(lower > 0.0, bound, torch.inf)


def is_exact_order(order: float, dtype: torch.dtype) -> bool:
    """Return whether p is a number of ``dtype``, float32 or float64."""
    return dtype == torch.float64 or float(np.float32(order)) == order
