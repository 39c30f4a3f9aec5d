"""Mean and variance of rows of any length in one pass, by two algorithms, with a bound on the error of the shadow's.

The shadow adds the distances from a shift, and their squares, in blocks that a TwoSum takes in; the shift is the mean
of the first tile. The native moments are those of threads, merged tile by tile and then pairwise (Chan, Golub,
LeVeque, The American Statistician 37, 1983). The two share no addition.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from numguard_kernels.element_formats import ElementFormat, widened
from numguard_kernels.launching import num_lanes
from numguard_kernels.row_moments import errors_of_moments
from numguard_kernels.rows import plain_sum, row_sum, tree_height
from numguard_kernels.two_float import UNIT_ROUNDOFF_FP32, add_pairs, blocked_sum_error, rounded_pair, take_in

NUM_THREADS: Final = 256
#: More than squares of distances lose below the normal numbers.
_UNDERFLOW: Final = tl.constexpr(2.0**-126)
#: Tiles of a turn: that many loads of a tensor are in flight.
TILES_PER_TURN: Final = tl.constexpr(2)


@triton.jit
def within(places, num_columns):
    """Return which places lie in a row; None, for all of them, where no length is given."""
    valid = None
    if num_columns is not None:
        valid = places < num_columns
    return valid


@triton.jit
def loaded(x_ptr, valid, CODE: tl.constexpr):
    """Return a tile, zero where it is not valid; all of it is where ``valid`` is None."""
    if valid is None:
        stored = tl.load(x_ptr)
    else:
        stored = tl.load(x_ptr, mask=valid, other=0)
    return widened(stored, CODE, False)


@triton.jit
def zero_unless(valid, x):
    """Return a tile, zero where it is not valid; all of it is where ``valid`` is None."""
    if valid is not None:
        x = tl.where(valid, x, 0.0)
    return x


@triton.jit
def first_mean(base, num_columns, inside, CODE: tl.constexpr, CENTERED: tl.constexpr):
    """Return the number by which a row is shifted: the mean of its first tile."""
    shift = 0.0
    if CENTERED:
        x = loaded(base + inside, inside < num_columns, CODE)
        shift = row_sum(x) / tl.minimum(num_columns, inside.numel)
    return shift


@triton.jit
def no_moments(THREADS: tl.constexpr, LANES: tl.constexpr, CENTERED: tl.constexpr):
    """Return the state of :func:`take_tile` before the first: the shadow's and the native one, by thread."""
    zero = tl.zeros((THREADS,), tl.float32)
    if CENTERED:
        squares = zero
    else:
        squares = tl.zeros((THREADS, LANES), tl.float32)
    return (zero, zero, zero, zero, zero), (zero, zero, squares)


@triton.jit
def merged(count_a, mean_a, squares_a, count_b, mean_b, squares_b):
    """Join counts, means and sums of squared distances from the mean of two disjoint sets; either may be empty."""
    count = count_a + count_b
    share = count_b / tl.maximum(count, 1.0)
    distance = mean_b - mean_a
    return count, mean_a + distance * share, squares_a + squares_b + distance * distance * (count_a * share)


@triton.jit
def take_tile(x, valid, shift, shadow, native, CENTERED: tl.constexpr, GIVEN: tl.constexpr):
    """Take a tile of a row into the state; its distances from the shift are returned in front of it."""
    high, low, high_squares, low_squares, magnitude = shadow
    distance = x
    if CENTERED:
        distance = zero_unless(valid, x - shift)
        high, low = take_in(high, low, tl.sum(distance, 1))
        magnitude += tl.sum(tl.abs(x), 1)
    high_squares, low_squares = take_in(high_squares, low_squares, tl.sum(distance * distance, 1))
    count, mean, squares = native
    if not GIVEN:
        if CENTERED:
            if valid is None:
                here = tl.full(count.shape, x.shape[1], tl.float32)
            else:
                here = tl.sum(valid.to(tl.float32), 1)
            center = tl.sum(x, 1) / tl.maximum(here, 1.0)
            rest = zero_unless(valid, x - center[:, None])
            count, mean, squares = merged(count, mean, squares, here, center, tl.sum(rest * rest, 1))
        else:
            squares += x * x
    return distance, (high, low, high_squares, low_squares, magnitude), (count, mean, squares)


@triton.jit
def native_moments(native, num_columns, eps, CENTERED: tl.constexpr):
    """Return the mean and the reciprocal of the standard deviation as any kernel forms them."""
    count, mean, squares = native
    if CENTERED:
        count, mean, total = tl.reduce((count, mean, squares), 0, merged)
    else:
        mean = 0.0
        total = plain_sum(squares)
    return mean, tl.rsqrt(total / num_columns + eps)


@triton.jit
def shadow_moments(shift, shadow, num_columns, eps, growth, own_roundoff, CENTERED: tl.constexpr):
    """Return mean less shift, mean, variance, deviation, and the errors of :func:`~.row_moments.errors_of_moments`.

    Notes
    -----
    With ``f = own_roundoff`` and q the mean of the squared distances from the shift, the mean is off by ``f sqrt(q)``
    and the variance ``q - (mean - shift)**2`` by ``(3 f + 4 u) q``. The first t of n elements have a mean within
    ``sqrt(n / t)`` standard deviations of that of all: q is at most ``1 + n / t`` variances, whatever the row.
    """
    high, low, high_squares, low_squares, magnitude = shadow
    high_squares, low_squares = tl.reduce((high_squares, low_squares), 0, add_pairs)
    spread = rounded_pair(high_squares, low_squares) / num_columns
    moved, mean, size = 0.0, 0.0, 0.0
    variance = spread
    if CENTERED:
        high, low = tl.reduce((high, low), 0, add_pairs)
        moved = rounded_pair(high, low) / num_columns
        mean = shift + moved
        variance = spread - moved * moved
        variance = tl.where(variance < 0.0, 0.0, variance)
        size = tl.sum(magnitude, 0) / num_columns
    deviation = 1.0 / tl.sqrt(variance + eps)
    own_shift = 1.125 * own_roundoff * tl.sqrt(spread + _UNDERFLOW)
    own_spread = 4.0 * own_roundoff * spread
    constant, relative = errors_of_moments(
        size, mean, variance, deviation, eps, growth, own_shift, own_spread, CENTERED
    )
    return moved, mean, variance, deviation, constant, relative


def long_row_shape(form: ElementFormat, device: torch.device | None = None) -> tuple[dict[str, int], int]:
    """Return the shape of a tile, 16 bytes a thread, and the threads that share it; those of a GPU by default."""
    threads = NUM_THREADS if device is None else num_lanes(NUM_THREADS, device)
    return {"THREADS": threads, "LANES": form.lanes}, NUM_THREADS


def long_row_errors(num_columns: int, shape: dict[str, int]) -> tuple[float, float]:
    """Return the relative errors of sums along a row: of both sides, and the shadow's of sums of distances.

    Parameters
    ----------
    num_columns
        Of the row.
    shape
        Of a tile.

    Notes
    -----
    The native moments are merged once for every tile and once for every level of a tree over the threads, in at most
    three roundings each. Of the shadow, a distance is rounded once and its square three times; the sums of either
    follow :func:`~numguard_kernels.two_float.blocked_sum_error`.
    """
    tiles = -(-num_columns // (shape["THREADS"] * shape["LANES"])) + TILES_PER_TURN.value
    own = blocked_sum_error(tiles, shape["THREADS"], terms=shape["LANES"]) + 4.0 * UNIT_ROUNDOFF_FP32
    native = tiles + 3 * shape["THREADS"].bit_length() + shape["LANES"]
    return (max(tree_height(num_columns), native) + 12.0) * UNIT_ROUNDOFF_FP32 + own, own
