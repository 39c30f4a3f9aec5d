"""Norms in kernels: rows that stay in registers, and rows of any length that are read twice."""

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
from numguard_kernels.rows import num_outside, rounded_to
from numguard_kernels.two_float import UNIT_ROUNDOFF_FP32

_U: Final = tl.constexpr(UNIT_ROUNDOFF_FP32)


@triton.jit
def norm_on_chip(
    x_ptr,
    weight_ptr,
    bias_ptr,
    value_ptr,
    figures_ptr,
    num_wrong_ptr,
    num_columns,
    eps,
    growth,
    CODE: tl.constexpr,
    GIVEN: tl.constexpr,
    CENTERED: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    UNIT: tl.constexpr,
    SMALLEST: tl.constexpr,
    THREADS: tl.constexpr,
    LANES: tl.constexpr,
):
    """One row per program, kept in registers between its read and its verdict."""
    row = tl.program_id(0).to(tl.int64)
    inside = tl.arange(0, THREADS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    valid = inside < num_columns
    place = row * num_columns + inside
    x = loaded(x_ptr + place, valid, CODE)
    centered, mean, variance, deviation = moments(x, valid, num_columns, eps, CENTERED)
    constant, relative = moment_errors(x, mean, variance, deviation, num_columns, eps, growth, CENTERED)
    native, scale = x, 1.0
    if not GIVEN:
        native, scale = plain_moments(x, valid, num_columns, eps, CENTERED)
    num_wrong = _wrong(
        native, scale, centered, deviation, constant, relative, weight_ptr + inside, bias_ptr + inside,
        value_ptr + place, valid, CODE, GIVEN, HAS_WEIGHT, HAS_BIAS, UNIT, SMALLEST,
    )  # fmt: skip
    _store_row(figures_ptr, num_wrong_ptr, row, mean, variance, deviation, constant, relative, num_wrong)


@triton.jit
def norm_in_two_passes(
    x_ptr,
    weight_ptr,
    bias_ptr,
    value_ptr,
    figures_ptr,
    num_wrong_ptr,
    num_columns,
    eps,
    growth,
    own_roundoff,
    CODE: tl.constexpr,
    GIVEN: tl.constexpr,
    CENTERED: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    UNIT: tl.constexpr,
    SMALLEST: tl.constexpr,
    THREADS: tl.constexpr,
    LANES: tl.constexpr,
):
    """One row per program, read twice: for its moments, and for its verdict, mostly from the cache."""
    row = tl.program_id(0).to(tl.int64)
    TURN: tl.constexpr = THREADS * LANES * TILES_PER_TURN
    inside = tl.arange(0, THREADS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    start = row * num_columns
    base = x_ptr + start
    shift = first_mean(base, num_columns, inside, CODE, CENTERED)
    shadow, native = no_moments(THREADS, LANES, CENTERED)
    full = num_columns // TURN * TURN
    for first in range(0, full, TURN):
        shadow, native = _observed(base, first + inside, None, shift, shadow, native, CODE, CENTERED, GIVEN)
    if full < num_columns:
        shadow, native = _observed(base, full + inside, num_columns, shift, shadow, native, CODE, CENTERED, GIVEN)
    _, mean, variance, deviation, constant, relative = shadow_moments(
        shift, shadow, num_columns, eps, growth, own_roundoff, CENTERED
    )
    native_mean, scale = native_moments(native, num_columns, eps, CENTERED)
    known = (native_mean, scale, mean, deviation, constant, relative)
    num_wrong = 0
    for first in range(0, full, TURN):
        num_wrong += _judged(
            base, weight_ptr, bias_ptr, value_ptr + start, first + inside, None, known,
            CODE, GIVEN, CENTERED, HAS_WEIGHT, HAS_BIAS, UNIT, SMALLEST,
        )  # fmt: skip
    if full < num_columns:
        num_wrong += _judged(
            base, weight_ptr, bias_ptr, value_ptr + start, full + inside, num_columns, known,
            CODE, GIVEN, CENTERED, HAS_WEIGHT, HAS_BIAS, UNIT, SMALLEST,
        )  # fmt: skip
    _store_row(figures_ptr, num_wrong_ptr, row, mean, variance, deviation, constant, relative, num_wrong)


@triton.jit
def _observed(
    base, places, num_columns, shift, shadow, native, CODE: tl.constexpr, CENTERED: tl.constexpr, GIVEN: tl.constexpr
):
    """Take the tiles of a turn into the moments."""
    for tile in tl.static_range(TILES_PER_TURN):
        here = places + tile * places.numel
        valid = within(here, num_columns)
        x = loaded(base + here, valid, CODE)
        _, shadow, native = take_tile(x, valid, shift, shadow, native, CENTERED, GIVEN)
    return shadow, native


@triton.jit
def _judged(
    base,
    weight_ptr,
    bias_ptr,
    value_ptr,
    places,
    num_columns,
    known,
    CODE: tl.constexpr,
    GIVEN: tl.constexpr,
    CENTERED: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    UNIT: tl.constexpr,
    SMALLEST: tl.constexpr,
):
    """Form or read the tiles of a turn, and return how many of their elements are wrong."""
    native_mean, scale, mean, deviation, constant, relative = known
    num_wrong = 0
    for tile in tl.static_range(TILES_PER_TURN):
        here = places + tile * places.numel
        valid = within(here, num_columns)
        x = loaded(base + here, valid, CODE)
        centered, native = x, x
        if CENTERED:
            centered, native = zero_unless(valid, x - mean), zero_unless(valid, x - native_mean)
        num_wrong += _wrong(
            native, scale, centered, deviation, constant, relative, weight_ptr + here, bias_ptr + here,
            value_ptr + here, valid, CODE, GIVEN, HAS_WEIGHT, HAS_BIAS, UNIT, SMALLEST,
        )  # fmt: skip
    return num_wrong


@triton.jit
def _wrong(
    native,
    scale,
    centered,
    deviation,
    constant,
    relative,
    weight_ptr,
    bias_ptr,
    value_ptr,
    valid,
    CODE: tl.constexpr,
    GIVEN: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    UNIT: tl.constexpr,
    SMALLEST: tl.constexpr,
):
    """Form a tile as any kernel does, or read what was formed, and return how many of its elements are wrong."""
    native *= scale
    shadow = centered * deviation
    error = tl.fma(tl.abs(shadow), relative + 18.0 * _U, constant)
    if HAS_WEIGHT:
        weight = loaded(weight_ptr, valid, CODE)
        native *= weight
        shadow *= weight
        error *= tl.abs(weight)
    if HAS_BIAS:
        bias = loaded(bias_ptr, valid, CODE)
        native += bias
        shadow += bias
        error = tl.fma(tl.abs(bias), 4.0 * _U, error)
    if GIVEN:
        value = loaded(value_ptr, valid, CODE)
    else:
        stored = rounded_to(native, value_ptr, CODE)
        tl.store(value_ptr, stored, mask=valid)
        value = widened(stored, CODE, False)
    bound = tl.fma(error, 1.0 + UNIT, tl.fma(tl.abs(shadow), UNIT, SMALLEST))
    return num_outside(tl.abs(value - shadow), bound)


@triton.jit
def _store_row(figures_ptr, num_wrong_ptr, row, mean, variance, deviation, constant, relative, num_wrong):
    """Write what is known of a row.

    Where the variance is cancelled away or overflows, and where an input is not finite, nothing follows.
    """
    judged = (relative < 0.125) & (variance < float("inf"))
    place = figures_ptr + row
    plane = tl.num_programs(0).to(tl.int64)
    tl.store(place, mean)
    tl.store(place + plane, deviation)
    tl.store(place + 2 * plane, tl.where(judged, constant, float("inf")))
    tl.store(place + 3 * plane, tl.where(judged, relative, float("inf")))
    tl.store(num_wrong_ptr + row, tl.where(judged, num_wrong, 0))
