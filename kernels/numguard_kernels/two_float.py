"""Sums and products together with their exact rounding errors, inside Triton kernels.

Exact in round-to-nearest where nothing overflows, subnormal numbers included, provided that the compiler neither
contracts a product with an addition nor reassociates: every launch passes ``enable_fp_fusion=False``, and the gates
of ``ahead_of_time`` count the additions that are left in the machine code.

A *two-float* number is an unevaluated pair ``high + low``. The blocked accumulation adds :data:`BLOCK_TERMS` terms
plainly and takes each such block in by one TwoSum, so that the error of a sum of n terms over t turns is at most
``((BLOCK_TERMS - 1) u + (t u)**2) sum|x|`` to first order, almost all of it from within the blocks (Higham, ASNA
2nd ed., section 4.2; Ogita, Rump, Oishi, SIAM J. Sci. Comput. 26, 2005, section 4).
"""

import math
from typing import Final

import triton
import triton.language as tl

from numguard_kernels.availability import is_interpreted

#: Terms that the blocked accumulation adds plainly before each TwoSum.
BLOCK_TERMS: Final = 8

_EMULATED = tl.constexpr(is_interpreted())
UNIT_ROUNDOFF_FP32: Final = 2.0**-24
UNIT_ROUNDOFF_FP64: Final = 2.0**-53


@triton.jit
def two_sum(a, b):
    """Return ``(s, e)`` with ``s = fl(a + b)`` and ``s + e = a + b`` (Knuth, TAOCP vol. 2, section 4.2.2)."""
    total = a + b
    rest = total - a
    return total, (a - (total - rest)) + (b - rest)


@triton.jit
def fast_two_sum(a, b):
    """Return what :func:`two_sum` does in three additions, given ``|a| >= |b|`` or ``a = 0`` (Dekker 1971)."""
    total = a + b
    return total, b - (total - a)


@triton.jit
def two_product(a, b):
    """Return ``(p, e)`` with ``p = fl(a * b)`` and ``p + e = a * b``, where ``e`` does not underflow."""
    product = a * b
    if _EMULATED:
        error = _error_of_product(a, b, product)
    else:
        # Triton's minus is a subtraction from zero; this becomes a sign of the operand on every release.
        error = tl.fma(a, b, product * -1.0)
    return product, error


@triton.jit
def _error_of_product(a, b, product):
    """The error of a product without a fused multiply-add, which Triton's emulation rounds twice (Dekker 1971)."""
    SPLIT: tl.constexpr = 134217729.0 if a.dtype == tl.float64 else 4097.0
    scaled_a, scaled_b = a * SPLIT, b * SPLIT
    high_a = scaled_a - (scaled_a - a)
    high_b = scaled_b - (scaled_b - b)
    low_a, low_b = a - high_a, b - high_b
    return ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b


@triton.jit
def take_in(high, low, block):
    """Add a plain number to a two-float accumulator: seven additions."""
    high, error = two_sum(high, block)
    return high, low + error


@triton.jit
def add_pairs(high_a, low_a, high_b, low_b):
    """Add two two-float accumulators; the combining function of ``tl.reduce((high, low), axis, add_pairs)``."""
    high, error = two_sum(high_a, high_b)
    return high, low_a + low_b + error


@triton.jit
def larger(a, b):
    """Return the larger number, or NaN where either is NaN, so that one NaN is never lost."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def smaller(a, b):
    """Return the smaller number, or NaN where either is NaN."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def largest_of(magnitudes, AXIS: tl.constexpr):
    """Return the largest along an axis, or NaN: the bits of magnitudes are in the order of their values."""
    BITS: tl.constexpr = tl.int64 if magnitudes.dtype == tl.float64 else tl.int32
    return tl.max(magnitudes.to(BITS, bitcast=True), AXIS).to(magnitudes.dtype, bitcast=True)


@triton.jit
def rounded_pair(high, low):
    """Return a two-float number in one float; where the sum is not finite, ``low`` is noise and left out."""
    return tl.where(tl.abs(high) < float("inf"), high + low, high)


def blocked_sum_error(
    turns: int, lanes: int, *, terms: int = BLOCK_TERMS, unit_roundoff: float = UNIT_ROUNDOFF_FP32
) -> float:
    """Return the factor f of ``|shadow - sum x| <= f * a``, with ``a`` the computed sum of magnitudes.

    Parameters
    ----------
    turns
        TwoSums that each accumulator went through.
    lanes
        Accumulators that were added to one another in a tree.
    terms
        Terms added plainly before each TwoSum.
    unit_roundoff
        Of the accumulating format.

    Notes
    -----
    A block of b terms costs at most ``(b - 1) u`` of its magnitudes. The low parts of a lane are t numbers of at most
    ``u`` times the running magnitude each, added in t - 1 roundings; the tree adds two roundings a level to numbers
    of the same kind: ``(t + 2 log2 lanes)**2 u**2`` in all, doubled for the products of these terms. ``a`` itself may
    be smaller than ``sum|x|`` by ``(b + t + log2 lanes) u`` of it (Higham, ASNA 2nd ed., sections 4.2 and 4.3).
    """
    height = turns + 2 * math.ceil(math.log2(max(2, lanes)))
    factor = (terms - 1) * unit_roundoff + 2.0 * (height * unit_roundoff) ** 2
    return factor / (1.0 - (terms + height) * unit_roundoff)
