"""Gradients of norms in kernels: of rows that stay in registers, and of rows of any length that are read twice."""

from typing import Final

import triton
import triton.language as tl

from numguard_kernels.element_formats import widened
from numguard_kernels.long_row_moments import (
    TILES_PER_TURN,
    first_mean,
    loaded,
    native_moments,
    no_moments,
    shadow_moments,
    take_tile,
    within,
    zero_unless,
)
from numguard_kernels.row_moments import moment_errors, moments, plain_moments
from numguard_kernels.rows import num_outside, plain_sum, rounded_to, row_sum
from numguard_kernels.two_float import UNIT_ROUNDOFF_FP32, add_pairs, rounded_pair, take_in

_U: Final = tl.constexpr(UNIT_ROUNDOFF_FP32)


@triton.jit
def norm_gradient_on_chip(
    x_ptr,
    gradient_ptr,
    weight_ptr,
    value_ptr,
    num_wrong_ptr,
    num_columns,
    eps,
    growth,
    saved_roundoff,
    CODE: tl.constexpr,
    GIVEN: tl.constexpr,
    CENTERED: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    UNIT: tl.constexpr,
    SMALLEST: tl.constexpr,
    THREADS: tl.constexpr,
    LANES: tl.constexpr,
):
    """One row per program: ``r (a - mean a - xhat mean(a xhat))`` with ``a = w g``; ``mean a`` only if centered."""
    row = tl.program_id(0).to(tl.int64)
    inside = tl.arange(0, THREADS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    valid = inside < num_columns
    place = row * num_columns + inside
    x = loaded(x_ptr + place, valid, CODE)
    a = loaded(gradient_ptr + place, valid, CODE)
    if HAS_WEIGHT:
        a *= loaded(weight_ptr + inside, valid, CODE)
    if GIVEN:
        stored = tl.load(value_ptr + place, mask=valid, other=0)
    else:
        native, scale = plain_moments(x, valid, num_columns, eps, CENTERED)
        native *= scale
        result = a - native * (plain_sum(a * native) / num_columns)
        if CENTERED:
            result -= tl.where(valid, plain_sum(a) / num_columns, 0.0)
        stored = rounded_to(result * scale, value_ptr, CODE)
        tl.store(value_ptr + place, stored, mask=valid)
    centered, mean, variance, deviation = moments(x, valid, num_columns, eps, CENTERED)
    errors = moment_errors(x, mean, variance, deviation, num_columns, eps, growth, CENTERED)
    normalized = centered * deviation
    along = row_sum(a * normalized) / num_columns
    mass = plain_sum(tl.abs(a)) / num_columns
    mass_along = plain_sum(tl.abs(a * normalized)) / num_columns
    offset = 0.0
    if CENTERED:
        offset = row_sum(a) / num_columns
    sums = (along, offset, mass, mass_along)
    factors = _error_factors(mean, deviation, errors, sums, growth, saved_roundoff, CENTERED)
    num_wrong = _wrong(
        widened(stored, CODE, False), a, normalized, valid, deviation, along, offset, factors, CENTERED, UNIT, SMALLEST
    )
    _store_row(num_wrong_ptr + row, num_wrong, variance, mass, factors)


@triton.jit
def norm_gradient_in_two_passes(
    x_ptr,
    gradient_ptr,
    weight_ptr,
    value_ptr,
    num_wrong_ptr,
    num_columns,
    eps,
    growth,
    own_roundoff,
    saved_roundoff,
    CODE: tl.constexpr,
    GIVEN: tl.constexpr,
    CENTERED: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    UNIT: tl.constexpr,
    SMALLEST: tl.constexpr,
    THREADS: tl.constexpr,
    LANES: tl.constexpr,
):
    """One row per program, read twice: for moments and sums, and for its verdict, mostly from the cache.

    With s the shift of the moments, ``mean(a xhat)`` is ``r (mean(a (x - s)) - (mean - s) mean a)``.
    """
    row = tl.program_id(0).to(tl.int64)
    TURN: tl.constexpr = THREADS * LANES * TILES_PER_TURN
    inside = tl.arange(0, THREADS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    start = row * num_columns
    base = x_ptr + start
    gradient_base = gradient_ptr + start
    shift = first_mean(base, num_columns, inside, CODE, CENTERED)
    shadow, native = no_moments(THREADS, LANES, CENTERED)
    zero = tl.zeros((THREADS,), tl.float32)
    plain = tl.zeros((THREADS, LANES), tl.float32)
    sums = (zero, zero, zero, zero, zero, zero, plain, plain)
    full = num_columns // TURN * TURN
    for first in range(0, full, TURN):
        shadow, native, sums = _observed(
            base, gradient_base, weight_ptr, first + inside, None, shift, shadow, native, sums,
            CODE, GIVEN, CENTERED, HAS_WEIGHT,
        )  # fmt: skip
    if full < num_columns:
        shadow, native, sums = _observed(
            base, gradient_base, weight_ptr, full + inside, num_columns, shift, shadow, native, sums,
            CODE, GIVEN, CENTERED, HAS_WEIGHT,
        )  # fmt: skip
    moved, mean, variance, deviation, constant, relative = shadow_moments(
        shift, shadow, num_columns, eps, growth, own_roundoff, CENTERED
    )
    native_mean, scale = native_moments(native, num_columns, eps, CENTERED)
    high, low, high_along, low_along, mass, mass_along, plain, plain_along = sums
    mass = tl.sum(mass, 0) / num_columns
    mass_along = deviation * (tl.sum(mass_along, 0) / num_columns + tl.abs(moved) * mass)
    offset = _mean_of_pairs(high, low, num_columns)
    along = deviation * (_mean_of_pairs(high_along, low_along, num_columns) - moved * offset)
    native_offset = plain_sum(plain) / num_columns
    native_along = scale * (plain_sum(plain_along) / num_columns - (native_mean - shift) * native_offset)
    if not CENTERED:
        offset, native_offset = 0.0, 0.0
    factors = _error_factors(
        mean,
        deviation,
        (constant, relative),
        (along, offset, mass, mass_along),
        growth,
        saved_roundoff,
        CENTERED,
    )
    known = (native_mean, scale, native_along, native_offset, mean, deviation, along, offset)
    num_wrong = 0
    for first in range(0, full, TURN):
        num_wrong += _judged(
            base, gradient_base, weight_ptr, value_ptr + start, first + inside, None, known, factors,
            CODE, GIVEN, CENTERED, HAS_WEIGHT, UNIT, SMALLEST,
        )  # fmt: skip
    if full < num_columns:
        num_wrong += _judged(
            base, gradient_base, weight_ptr, value_ptr + start, full + inside, num_columns, known, factors,
            CODE, GIVEN, CENTERED, HAS_WEIGHT, UNIT, SMALLEST,
        )  # fmt: skip
    _store_row(num_wrong_ptr + row, num_wrong, variance, mass, factors)


@triton.jit
def _mean_of_pairs(high, low, num_columns):
    high, low = tl.reduce((high, low), 0, add_pairs)
    return rounded_pair(high, low) / num_columns


@triton.jit
def _observed(
    base,
    gradient_base,
    weight_ptr,
    places,
    num_columns,
    shift,
    shadow,
    native,
    sums,
    CODE: tl.constexpr,
    GIVEN: tl.constexpr,
    CENTERED: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
):
    """Take the tiles of a turn into the moments, and into the sums of ``a`` and of ``a (x - shift)``."""
    high, low, high_along, low_along, mass, mass_along, plain, plain_along = sums
    for tile in tl.static_range(TILES_PER_TURN):
        here = places + tile * places.numel
        valid = within(here, num_columns)
        x = loaded(base + here, valid, CODE)
        a = loaded(gradient_base + here, valid, CODE)
        if HAS_WEIGHT:
            a *= loaded(weight_ptr + here, valid, CODE)
        distance, shadow, native = take_tile(x, valid, shift, shadow, native, CENTERED, GIVEN)
        product = a * distance
        high_along, low_along = take_in(high_along, low_along, tl.sum(product, 1))
        mass_along += tl.sum(tl.abs(product), 1)
        mass += tl.sum(tl.abs(a), 1)
        if CENTERED:
            high, low = take_in(high, low, tl.sum(a, 1))
        if not GIVEN:
            plain_along += product
            if CENTERED:
                plain += a
    return shadow, native, (high, low, high_along, low_along, mass, mass_along, plain, plain_along)


@triton.jit
def _judged(
    base,
    gradient_base,
    weight_ptr,
    value_ptr,
    places,
    num_columns,
    known,
    factors,
    CODE: tl.constexpr,
    GIVEN: tl.constexpr,
    CENTERED: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    UNIT: tl.constexpr,
    SMALLEST: tl.constexpr,
):
    """Form or read the tiles of a turn, and return how many of their elements are wrong."""
    native_mean, scale, native_along, native_offset, mean, deviation, along, offset = known
    num_wrong = 0
    for tile in tl.static_range(TILES_PER_TURN):
        here = places + tile * places.numel
        valid = within(here, num_columns)
        x = loaded(base + here, valid, CODE)
        a = loaded(gradient_base + here, valid, CODE)
        if HAS_WEIGHT:
            a *= loaded(weight_ptr + here, valid, CODE)
        if GIVEN:
            value = loaded(value_ptr + here, valid, CODE)
        else:
            result = a - native_offset - (x - native_mean) * scale * native_along
            stored = rounded_to(result * scale, value_ptr, CODE)
            tl.store(value_ptr + here, stored, mask=valid)
            value = zero_unless(valid, widened(stored, CODE, False))
        normalized = zero_unless(valid, x - mean) * deviation
        num_wrong += _wrong(value, a, normalized, valid, deviation, along, offset, factors, CENTERED, UNIT, SMALLEST)
    return num_wrong


@triton.jit
def _error_factors(mean, deviation, errors, sums, growth, saved_roundoff, CENTERED: tl.constexpr):
    """Return what multiplies ``|a|`` and ``|xhat|`` in the error of an element, what is added, and their scale."""
    constant, relative = errors
    along, offset, mass, mass_along = sums
    relative += saved_roundoff
    constant += saved_roundoff * deviation * tl.abs(mean)
    inner = relative + 12.0 * _U
    along_error = (growth + inner) * mass_along + mass * constant
    row_error = constant * tl.abs(along)
    if CENTERED:
        row_error += (growth + 4.0 * _U) * mass + tl.abs(offset) * (relative + 20.0 * _U)
    slope = along_error + tl.abs(along) * (2.0 * inner + 20.0 * _U)
    # Products of first-order errors: of the deviation with any other, and of the sums.
    second_order = 1.0078125 + 4.0 * (relative + growth)
    return relative, slope, row_error, deviation * second_order


@triton.jit
def _wrong(
    value,
    a,
    normalized,
    valid,
    deviation,
    along,
    offset,
    factors,
    CENTERED: tl.constexpr,
    UNIT: tl.constexpr,
    SMALLEST: tl.constexpr,
):
    """Return how many elements of a tile are wrong."""
    relative, slope, row_error, scaling = factors
    shadow = a - normalized * along
    if CENTERED:
        shadow -= zero_unless(valid, offset)
    shadow *= deviation
    error = tl.fma(tl.abs(a), relative + 20.0 * _U, tl.fma(tl.abs(normalized), slope, row_error))
    bound = tl.fma(error, scaling * (1.0 + UNIT), tl.fma(tl.abs(shadow), UNIT, SMALLEST))
    return num_outside(tl.abs(value - shadow), bound)


@triton.jit
def _store_row(num_wrong_ptr, num_wrong, variance, mass, factors):
    """Write how many elements of a row are wrong; a row whose bounds mean nothing is not judged."""
    judged = (factors[0] < 0.125) & (variance < float("inf")) & (mass < float("inf"))
    tl.store(num_wrong_ptr, tl.where(judged, num_wrong, 0))
