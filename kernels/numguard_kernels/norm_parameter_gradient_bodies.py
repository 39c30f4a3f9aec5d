"""Gradients of the weight and bias of norms in kernels: sums over the rows by blocks of columns, and their verdict."""

from typing import Final

import triton
import triton.language as tl

from numguard_kernels.element_formats import widened
from numguard_kernels.rows import rounded_to
from numguard_kernels.two_float import UNIT_ROUNDOFF_FP32, take_in

_U: Final = tl.constexpr(UNIT_ROUNDOFF_FP32)
_UNDERFLOW: Final = tl.constexpr(2.0**-126)
_LARGEST_FP32: Final = tl.constexpr(3.4028234663852886e38)


@triton.jit
def take_rows(
    x_ptr,
    gradient_ptr,
    moment_ptrs,
    first,
    num_columns,
    columns,
    keep,
    growth,
    second_order,
    roundoff,
    weight,
    bias,
    CODE: tl.constexpr,
    GIVEN: tl.constexpr,
    CENTERED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ERRORS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Take adjacent rows into the sums: each into the plain ones, all as one block into the two-float ones."""
    mean_ptr, deviation_ptr, shift_ptr, scale_ptr = moment_ptrs
    plain, high, low, slack = weight
    plain_bias, high_bias, low_bias, mass = bias
    block = tl.zeros_like(high)
    block_slack, block_bias, block_mass = block, block, block
    for step in tl.static_range(ROWS):
        row = first + step
        place = row * num_columns + columns
        x = widened(tl.load(x_ptr + place, mask=keep, other=0), CODE, False)
        g = widened(tl.load(gradient_ptr + place, mask=keep, other=0), CODE, False)
        deviation = tl.load(deviation_ptr + row)
        relative = growth + 2.0 * roundoff
        constant = _UNDERFLOW
        centered = x
        if CENTERED:
            mean = tl.load(mean_ptr + row)
            centered = x - mean
            constant += tl.abs(mean) * deviation * (4.0 * _U + roundoff)
        if HAS_ERRORS:
            relative += tl.load(scale_ptr + row) * second_order
            constant += tl.load(shift_ptr + row) * second_order
        normalized = centered * deviation
        term = g * normalized
        block += term
        block_slack = tl.fma(tl.abs(g), tl.fma(tl.abs(normalized), relative, constant), block_slack)
        if not GIVEN:
            plain += term
        if HAS_BIAS:
            if not GIVEN:
                plain_bias += g
            block_bias += g
            block_mass += tl.abs(g)
    high, low = take_in(high, low, block)
    slack += block_slack
    if HAS_BIAS:
        high_bias, low_bias = take_in(high_bias, low_bias, block_bias)
        mass += block_mass
    return (plain, high, low, slack), (plain_bias, high_bias, low_bias, mass)


@triton.jit
def sum_parameter_gradients(
    x_ptr,
    gradient_ptr,
    mean_ptr,
    deviation_ptr,
    shift_ptr,
    scale_ptr,
    floats_ptr,
    num_rows,
    num_columns,
    growth,
    second_order,
    roundoff,
    CODE: tl.constexpr,
    GIVEN: tl.constexpr,
    CENTERED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ERRORS: tl.constexpr,
    THREADS: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Axis 0: columns, a lane of a thread each; axis 1: shares of the rows, taken in turns.

    The plain sums share their terms with the shadow, and no addition. Planes of the scratch, for the weight and then
    for the bias: plain, high, low, and the sum of what rounding explains.
    """
    columns = tl.program_id(0).to(tl.int64) * (THREADS * LANES)
    columns += tl.arange(0, THREADS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    keep = columns < num_columns
    part = tl.program_id(1)
    num_parts = tl.num_programs(1)
    pointers = (mean_ptr, deviation_ptr, shift_ptr, scale_ptr)
    zero = tl.zeros((THREADS, LANES), tl.float32)
    weight, bias = (zero, zero, zero, zero), (zero, zero, zero, zero)
    num_turns = num_rows // ROWS
    for turn in range(part.to(tl.int64), num_turns, num_parts):
        weight, bias = take_rows(
            x_ptr, gradient_ptr, pointers, turn * ROWS, num_columns, columns, keep, growth, second_order, roundoff,
            weight, bias, CODE, GIVEN, CENTERED, HAS_BIAS, HAS_ERRORS, ROWS,
        )  # fmt: skip
    if part == num_turns % num_parts:
        for row in range(tl.cast(num_turns * ROWS, tl.int64), num_rows):
            weight, bias = take_rows(
                x_ptr, gradient_ptr, pointers, row, num_columns, columns, keep, growth, second_order, roundoff,
                weight, bias, CODE, GIVEN, CENTERED, HAS_BIAS, HAS_ERRORS, 1,
            )  # fmt: skip
    place = floats_ptr + part.to(tl.int64) * num_columns + columns
    plane = num_parts.to(tl.int64) * num_columns
    for number in tl.static_range(4):
        tl.store(place + number * plane, weight[number], mask=keep)
    if HAS_BIAS:
        plain, high, low, mass = bias
        tl.store(place + 4 * plane, plain, mask=keep)
        tl.store(place + 5 * plane, high, mask=keep)
        tl.store(place + 6 * plane, low, mask=keep)
        tl.store(place + 7 * plane, mass * growth, mask=keep)


@triton.jit
def judge_parameter_gradients(
    floats_ptr,
    value_ptr,
    figures_ptr,
    is_wrong_ptr,
    num_parts,
    num_columns,
    growth,
    slack_factor,
    underflow,
    CODE: tl.constexpr,
    GIVEN: tl.constexpr,
    UNIT: tl.constexpr,
    SMALLEST: tl.constexpr,
    LARGEST: tl.constexpr,
    THREADS: tl.constexpr,
):
    """Add the shares up, always in one order, round, and judge. Axis 0: columns; axis 1: weight, bias."""
    columns = tl.program_id(0).to(tl.int64) * THREADS + tl.arange(0, THREADS)
    keep = columns < num_columns
    vector = tl.program_id(1).to(tl.int64)
    plane = tl.cast(num_parts, tl.int64) * num_columns
    place = floats_ptr + 4 * vector * plane + columns
    native = tl.zeros((THREADS,), tl.float32)
    shadow = tl.zeros((THREADS,), tl.float64)
    slack = tl.zeros((THREADS,), tl.float64)
    for _ in range(num_parts):
        if not GIVEN:
            native += tl.load(place, mask=keep, other=0.0)
        high = tl.load(place + plane, mask=keep, other=0.0)
        low = tl.load(place + 2 * plane, mask=keep, other=0.0)
        shadow += high.to(tl.float64) + low.to(tl.float64)
        slack += tl.load(place + 3 * plane, mask=keep, other=0.0).to(tl.float64)
        place += num_columns
    kept = vector * num_columns + columns
    if GIVEN:
        stored = tl.load(value_ptr + kept, mask=keep, other=0)
    else:
        stored = rounded_to(native, value_ptr, CODE)
        tl.store(value_ptr + kept, stored, mask=keep)
    computed = widened(stored, CODE, False).to(tl.float64)
    grown = slack * slack_factor + underflow
    bound = grown + UNIT * (tl.abs(shadow) + grown) + SMALLEST
    # Where the sum of magnitudes, at most `slack / growth`, may overflow in fp32, nothing follows.
    finite = slack < _LARGEST_FP32 * 0.984375 * growth
    judged = finite & (tl.abs(shadow) + bound < LARGEST)
    tl.store(figures_ptr + kept, tl.where(finite, shadow, float("nan")), mask=keep)
    figures_ptr += tl.num_programs(1).to(tl.int64) * num_columns
    tl.store(figures_ptr + kept, tl.where(finite, bound, float("nan")), mask=keep)
    tl.store(is_wrong_ptr + kept, judged & ~(tl.abs(computed - shadow) <= bound), mask=keep)
