"""Mean and variance of a row in registers, and how far those of a correct implementation may be from them."""

import triton
import triton.language as tl

from numguard_kernels.rows import plain_sum, row_sum, tree_height
from numguard_kernels.two_float import UNIT_ROUNDOFF_FP32

_U = tl.constexpr(UNIT_ROUNDOFF_FP32)


@triton.jit
def moments(x, valid, num_columns, eps, CENTERED: tl.constexpr):
    """Return the centered row, its mean, and the reciprocal of its standard deviation, by the shadow's sums."""
    if CENTERED:
        mean = row_sum(x) / num_columns
        centered = tl.where(valid, x - mean, 0.0)
    else:
        mean = 0.0
        centered = x
    variance = row_sum(centered * centered) / num_columns
    return centered, mean, variance, 1.0 / tl.sqrt(variance + eps)


@triton.jit
def plain_moments(x, valid, num_columns, eps, CENTERED: tl.constexpr):
    """Return the centered row and the reciprocal of its standard deviation, as any kernel forms them."""
    if CENTERED:
        centered = tl.where(valid, x - plain_sum(x) / num_columns, 0.0)
    else:
        centered = x
    return centered, tl.rsqrt(plain_sum(centered * centered) / num_columns + eps)


@triton.jit
def moment_errors(x, mean, variance, deviation, num_columns, eps, growth, CENTERED: tl.constexpr):
    """Return the errors of :func:`errors_of_moments` for a row in registers."""
    if CENTERED:
        magnitude = plain_sum(tl.abs(x)) / num_columns
    else:
        magnitude = 0.0
    return errors_of_moments(magnitude, mean, variance, deviation, eps, growth, 0.0, 0.0, CENTERED)


@triton.jit
def errors_of_moments(magnitude, mean, variance, deviation, eps, growth, own_shift, own_spread, CENTERED: tl.constexpr):
    """Return the constant part of the error of a normalized element, and the relative error of the deviation.

    ``magnitude`` is ``mean|x|``; ``own_shift`` and ``own_spread`` are errors of the shadow's mean and variance beyond
    those that ``growth`` covers.

    Notes
    -----
    With ``g = growth`` for both sides' sums: the mean is off by ``g mean|x|``, the variance V by
    ``g (2 V + 2 sqrt(V (V + mean**2))) + g**2 (V + mean**2) + 4 u V`` in two passes as well as by updating formulas
    (Chan, Golub, LeVeque, The American Statistician 37, 1983), and a relative error t of ``V + eps`` becomes
    ``t / 2 (1 - t)**-1.5`` of its inverse root.
    """
    largest = variance + own_spread
    if CENTERED:
        shift = growth * magnitude + 8.0 * _U * tl.abs(mean) + own_shift
        second = largest + mean * mean
    else:
        shift = 0.0
        second = largest
    spread = growth * (2.0 * largest + 2.0 * tl.sqrt(largest * second)) + growth * growth * second
    half = 0.5 * (spread + 4.0 * _U * largest + own_spread) / (variance + eps)
    return deviation * shift, half * (1.0 + 5.0 * half)


def growth_of(num_columns: int) -> float:
    """Return the relative error of the sums of a row: a tree of known height, and the shadow's blocks."""
    return (tree_height(num_columns) + 12.0) * UNIT_ROUNDOFF_FP32
