"""Units in the last place: the gap at a value, the distance between two values, and an error measured in gaps."""

from typing import Final

import torch
from torch import Tensor

from numguard.errors import UsageError
from numguard.numerics.formats import FP64, format_of

_INTEGERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def ulp(x: Tensor | float, dtype: torch.dtype) -> Tensor:
    """Return the gap between ``|x|`` and the next larger number of a format, were the exponent not to end.

    Parameters
    ----------
    x
        Values of any floating dtype, which need not be numbers of ``dtype``.
    dtype
        The format whose gaps are measured.

    Returns
    -------
    Tensor
        float64, the shape of ``x``: ``2**(max(e, emin) - p + 1)`` for ``2**e <= |x| < 2**(e + 1)``. Beyond the largest
        finite number the gap below that number; NaN at NaN, infinite at an infinity.

    Raises
    ------
    UsageError
        Where ``dtype`` is not a floating-point dtype with known rounding.

    Notes
    -----
    Exact. The definition is that of Higham, ASNA 2nd ed., section 2.1; at a power of two it is the gap above.
    """
    target = format_of(dtype)
    wide = torch.as_tensor(x).to(torch.float64)
    exponent = torch.frexp(wide.nan_to_num(0.0, 0.0, 0.0)).exponent.to(torch.int64) - 1
    exponent = torch.where(wide == 0, target.min_exponent, exponent)
    exponent = exponent.clamp(target.min_exponent, target.max_exponent)
    gap = _power_of_two(exponent - (target.precision - 1 if target.has_subnormals else 0))
    return torch.where(torch.isfinite(wide), gap, wide.abs())


def ulp_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return how many representable numbers lie between two tensors, plus one where they differ.

    Parameters
    ----------
    a, b
        Tensors of one floating-point dtype whose shapes broadcast.

    Returns
    -------
    Tensor
        float64, exact up to ``2**53``. ``+0`` and ``-0`` are one number. An infinity is the neighbour of the largest
        finite number. Two NaN, of whatever payload, are at distance 0; NaN and a number at infinite distance.

    Raises
    ------
    UsageError
        Where the dtypes differ or are not floating-point dtypes with known rounding.
    """
    if a.dtype != b.dtype:
        raise UsageError(f"ulp_distance got {a.dtype} and {b.dtype}; convert both to the dtype whose ulps count")
    format_of(a.dtype)
    first, second = _ordinal(a), _ordinal(b)
    # Of equal sign: the integer difference is exact. Of different sign it may leave int64; the sum of both does not.
    same_side = (first < 0) == (second < 0)
    inside = torch.where(same_side, first - second, 0).abs().to(torch.float64)
    across = first.abs().to(torch.float64) + second.abs().to(torch.float64)
    distance = torch.where(same_side, inside, across)
    nan_a, nan_b = _isnan(a), _isnan(b)
    return torch.where(nan_a & nan_b, 0.0, torch.where(nan_a | nan_b, torch.inf, distance))


def forward_error_in_ulps(computed: Tensor, exact: Tensor) -> Tensor:
    """Return ``|computed - exact|`` in gaps of the dtype of ``computed`` at ``exact``.

    Parameters
    ----------
    computed
        Results in their own floating-point dtype.
    exact
        Exact values (or much better ones) in float64.

    Returns
    -------
    Tensor
        float64. At most 0.5 for a correctly rounded result in the range of the format. 0 where both are the same
        infinity or both NaN, or where an exact value beyond the overflow threshold became the infinity of its sign;
        infinite where only one of the two is finite otherwise.

    Raises
    ------
    UsageError
        Where the dtype of ``computed`` is not a floating-point dtype with known rounding.
    """
    target = format_of(computed.dtype)
    wide, value = computed.to(torch.float64), exact.to(torch.float64)
    error = (wide - value).abs() / ulp(value, computed.dtype)
    overflowed = torch.isinf(wide) & (value.abs() >= target.overflow_threshold) & (wide.sign() == value.sign())
    agree = (wide == value) | (wide.isnan() & value.isnan()) | overflowed
    return torch.where(agree, 0.0, torch.where(torch.isfinite(wide) & torch.isfinite(value), error, torch.inf))


def _power_of_two(exponent: Tensor) -> Tensor:
    """Assemble ``2**exponent`` from bits: ``torch.pow`` promises no exact powers."""
    normal = (exponent.clamp(min=FP64.min_exponent) + 1023) << 52
    subnormal = torch.ones_like(exponent) << (exponent + 1074).clamp(0, 52)
    return torch.where(exponent >= FP64.min_exponent, normal, subnormal).view(torch.float64)


def _ordinal(x: Tensor) -> Tensor:
    """Number the representable values in their order, both zeros 0."""
    bits = x.contiguous().view(_INTEGERS[x.dtype.itemsize]).to(torch.int64)
    if not format_of(x.dtype).is_signed:
        return bits
    if x.dtype.itemsize == 8:
        return torch.where(bits < 0, torch.iinfo(torch.int64).min - bits, bits)
    sign = 1 << (8 * x.dtype.itemsize - 1)
    unsigned = bits & (2 * sign - 1)
    return torch.where(unsigned >= sign, sign - unsigned, unsigned)


def _isnan(x: Tensor) -> Tensor:
    return torch.isnan(x if x.dtype.itemsize > 1 else x.to(torch.float32))
