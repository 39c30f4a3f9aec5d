"""What one pass over a tensor gathers, element by element: the device half of the tensor statistics.

``NEEDS`` is a set of the bits below, known at compile time: what is not named costs neither an instruction nor a
register.
"""

import triton
import triton.language as tl

from numguard_kernels.two_float import larger, smaller

SUM = tl.constexpr(1)
ABSOLUTE_SUM = tl.constexpr(2)
MAXIMUM = tl.constexpr(4)
MINIMUM_NONZERO = tl.constexpr(8)
NUM_NAN = tl.constexpr(16)
NUM_INF = tl.constexpr(32)
NUM_ZERO = tl.constexpr(64)
NUM_SUBNORMAL = tl.constexpr(128)
EXPONENTS = tl.constexpr(256)

#: Bins of the exponent histogram: the exponent field of the value as fp32.
NUM_BINS = tl.constexpr(256)


@triton.jit
def tallied(matches, ACROSS: tl.constexpr):
    """Return how many match, over the last axis, which lies within a thread, or elementwise."""
    count = matches.to(tl.int32)
    if ACROSS:
        count = tl.sum(count, 1)
    return count


@triton.jit
def observe(
    x,
    valid,
    maximum,
    least,
    nans,
    infs,
    zeros,
    subnormals,
    histogram_ptr,
    NEEDS: tl.constexpr,
    SMALLEST_NORMAL: tl.constexpr,
    MASKED: tl.constexpr,
    ACROSS: tl.constexpr,
):
    """Take a tile of values into everything but the sums; where ``MASKED``, invalid values are zero."""
    magnitude = tl.abs(x)
    if MAXIMUM & NEEDS:
        largest = magnitude
        if ACROSS:
            largest = tl.reduce(largest, 1, larger)
        maximum = larger(maximum, largest)
    if MINIMUM_NONZERO & NEEDS:
        smallest = tl.where(magnitude > 0, magnitude, float("inf"))
        if ACROSS:
            smallest = tl.reduce(smallest, 1, smaller)
        least = smaller(least, smallest)
    if NUM_NAN & NEEDS:
        nans += tallied(x != x, ACROSS)
    if NUM_INF & NEEDS:
        infs += tallied(magnitude == float("inf"), ACROSS)
    if NUM_ZERO & NEEDS:
        is_zero = (x == 0) & valid if MASKED else x == 0
        zeros += tallied(is_zero, ACROSS)
    if NUM_SUBNORMAL & NEEDS:
        is_subnormal = (magnitude > 0) & (magnitude < SMALLEST_NORMAL)
        subnormals += tallied(is_subnormal, ACROSS)
    if EXPONENTS & NEEDS:
        bins = (x.to(tl.float32).to(tl.int32, bitcast=True) >> 23) & 0xFF
        flat = tl.reshape(bins, (bins.numel,))
        if MASKED:
            counts = tl.histogram(flat, NUM_BINS, mask=tl.reshape(valid, (bins.numel,)))
        else:
            counts = tl.histogram(flat, NUM_BINS)
        tl.atomic_add(histogram_ptr + tl.arange(0, NUM_BINS), counts.to(tl.int64), mask=counts > 0, sem="relaxed")
    return maximum, least, nans, infs, zeros, subnormals


@triton.jit
def store_partials(
    floats_ptr,
    counts_ptr,
    place,
    plane,
    keep,
    high,
    low,
    total,
    maximum,
    least,
    nans,
    infs,
    zeros,
    subnormals,
    NEEDS: tl.constexpr,
):
    """Write a program's partial results into the planes of the two scratch tensors."""
    if SUM & NEEDS:
        tl.store(floats_ptr + place, high, mask=keep)
        tl.store(floats_ptr + plane + place, low, mask=keep)
    if ABSOLUTE_SUM & NEEDS:
        tl.store(floats_ptr + 2 * plane + place, total, mask=keep)
    if MAXIMUM & NEEDS:
        tl.store(floats_ptr + 3 * plane + place, maximum, mask=keep)
    if MINIMUM_NONZERO & NEEDS:
        tl.store(floats_ptr + 4 * plane + place, least, mask=keep)
    if NUM_NAN & NEEDS:
        tl.store(counts_ptr + place, nans, mask=keep)
    if NUM_INF & NEEDS:
        tl.store(counts_ptr + plane + place, infs, mask=keep)
    if NUM_ZERO & NEEDS:
        tl.store(counts_ptr + 2 * plane + place, zeros, mask=keep)
    if NUM_SUBNORMAL & NEEDS:
        tl.store(counts_ptr + 3 * plane + place, subnormals, mask=keep)
