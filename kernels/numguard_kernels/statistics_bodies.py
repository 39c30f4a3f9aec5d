"""Device code of the tensor statistics: one pass over dense runs, one over any strides, one over partial results."""

import triton
import triton.language as tl

from numguard_kernels.accumulators import (
    ABSOLUTE_SUM,
    MAXIMUM,
    MINIMUM_NONZERO,
    NUM_NAN,
    SUM,
    observe,
    store_partials,
)
from numguard_kernels.element_formats import widened
from numguard_kernels.strided import offset_of
from numguard_kernels.two_float import add_pairs, fast_two_sum, larger, largest_of, rounded_pair, smaller, take_in


@triton.jit
def observe_runs(
    x_ptr,
    head_ptr,
    floats_ptr,
    counts_ptr,
    histogram_ptr,
    n,
    num_head,
    run_stride,
    CODE: tl.constexpr,
    DOUBLE: tl.constexpr,
    NEEDS: tl.constexpr,
    SMALLEST_NORMAL: tl.constexpr,
    THREADS: tl.constexpr,
    LANES: tl.constexpr,
    TILES: tl.constexpr,
    TILES_PER_BLOCK: tl.constexpr,
):
    """Statistics of runs of ``n`` adjacent elements, one run per program along axis 1, shared along axis 0.

    A thread reads 16 bytes at a time and adds ``LANES * TILES_PER_BLOCK`` terms plainly before each TwoSum. The
    ``num_head`` elements before the first aligned address are read one by one.
    """
    part = tl.program_id(0)
    num_parts = tl.num_programs(0)
    run = tl.program_id(1).to(tl.int64)
    x_ptr += run * run_stride
    ACCUMULATOR: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    TILE: tl.constexpr = THREADS * LANES
    TURN: tl.constexpr = TILE * TILES
    inside = tl.arange(0, THREADS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    high = tl.zeros((THREADS,), ACCUMULATOR)
    low = tl.zeros((THREADS,), ACCUMULATOR)
    total = tl.zeros((THREADS,), ACCUMULATOR)
    maximum = tl.zeros((THREADS,), ACCUMULATOR)
    least = tl.full((THREADS,), float("inf"), ACCUMULATOR)
    nans = tl.zeros((THREADS,), tl.int32)
    infs = tl.zeros((THREADS,), tl.int32)
    zeros = tl.zeros((THREADS,), tl.int32)
    subnormals = tl.zeros((THREADS,), tl.int32)

    num_turns = n // TURN
    for turn in range(part.to(tl.int64), num_turns, num_parts):
        base = x_ptr + turn * TURN
        for block in tl.static_range(TILES // TILES_PER_BLOCK):
            for tile in tl.static_range(TILES_PER_BLOCK):
                stored = tl.load(base + (block * TILES_PER_BLOCK + tile) * TILE + inside)
                x = widened(stored, CODE, DOUBLE)
                maximum, least, nans, infs, zeros, subnormals = observe(
                    x, True, maximum, least, nans, infs, zeros, subnormals, histogram_ptr,
                    NEEDS, SMALLEST_NORMAL, False, True,
                )  # fmt: skip
                if SUM & NEEDS:
                    term = tl.sum(x, 1)
                    if tile == 0:
                        terms = term
                    else:
                        terms += term
                if ABSOLUTE_SUM & NEEDS:
                    magnitude = tl.sum(tl.abs(x), 1)
                    if tile == 0:
                        magnitudes = magnitude
                    else:
                        magnitudes += magnitude
            if SUM & NEEDS:
                high, low = take_in(high, low, terms)
            if ABSOLUTE_SUM & NEEDS:
                total += magnitudes

    first_left = num_turns * TURN
    num_left = n - first_left
    for tile in range(part, tl.cdiv(num_left, TILE) + tl.cast(num_head > 0, tl.int32), num_parts):
        is_head = tile * TILE >= num_left
        valid = tl.where(is_head, inside < num_head, tile * TILE + inside < num_left)
        offset = tl.where(is_head, 0, first_left + tile * TILE) + inside
        source = tl.where(is_head, head_ptr + offset, x_ptr + offset)
        x = widened(tl.load(source, mask=valid, other=0), CODE, DOUBLE)
        x = tl.where(valid, x, 0.0)
        maximum, least, nans, infs, zeros, subnormals = observe(
            x, valid, maximum, least, nans, infs, zeros, subnormals, histogram_ptr,
            NEEDS, SMALLEST_NORMAL, True, True,
        )  # fmt: skip
        if SUM & NEEDS:
            high, low = take_in(high, low, tl.sum(x, 1))
        if ABSOLUTE_SUM & NEEDS:
            total += tl.sum(tl.abs(x), 1)

    if SUM & NEEDS:
        high, low = tl.reduce((high, low), 0, add_pairs)
    else:
        high, low = tl.sum(high, 0), tl.sum(low, 0)
    place = part * tl.num_programs(1) + run
    plane = num_parts.to(tl.int64) * tl.num_programs(1)
    store_partials(
        floats_ptr, counts_ptr, place, plane, True, high, low,
        tl.sum(total, 0), largest_of(maximum, 0), tl.min(least, 0),
        tl.sum(nans, 0), tl.sum(infs, 0), tl.sum(zeros, 0), tl.sum(subnormals, 0),
        NEEDS,
    )  # fmt: skip


@triton.jit
def observe_strided(
    x_ptr,
    floats_ptr,
    counts_ptr,
    histogram_ptr,
    num_kept,
    num_reduced,
    kept_size_0,
    kept_size_1,
    kept_stride_0,
    kept_stride_1,
    kept_stride_2,
    reduced_size_0,
    reduced_size_1,
    reduced_stride_0,
    reduced_stride_1,
    reduced_stride_2,
    CODE: tl.constexpr,
    DOUBLE: tl.constexpr,
    NEEDS: tl.constexpr,
    SMALLEST_NORMAL: tl.constexpr,
    KEPT_LEVELS: tl.constexpr,
    REDUCED_LEVELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILES: tl.constexpr,
):
    """Statistics of ``num_kept`` rows of ``num_reduced`` elements at any strides: axis 0 the rows, axis 1 shares."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1).to(tl.int64)
    num_parts = tl.num_programs(1)
    keep = rows < num_kept
    start = (
        x_ptr
        + offset_of(rows, kept_size_0, kept_size_1, kept_stride_0, kept_stride_1, kept_stride_2, KEPT_LEVELS)[:, None]
    )
    ACCUMULATOR: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    high = tl.zeros((ROWS, COLUMNS), ACCUMULATOR)
    low = tl.zeros((ROWS, COLUMNS), ACCUMULATOR)
    total = tl.zeros((ROWS, COLUMNS), ACCUMULATOR)
    maximum = tl.zeros((ROWS, COLUMNS), ACCUMULATOR)
    least = tl.full((ROWS, COLUMNS), float("inf"), ACCUMULATOR)
    nans = tl.zeros((ROWS, COLUMNS), tl.int32)
    infs = tl.zeros((ROWS, COLUMNS), tl.int32)
    zeros = tl.zeros((ROWS, COLUMNS), tl.int32)
    subnormals = tl.zeros((ROWS, COLUMNS), tl.int32)
    for turn in range(part, tl.cdiv(num_reduced, COLUMNS * TILES), num_parts):
        for tile in tl.static_range(TILES):
            columns = (turn * TILES + tile) * COLUMNS + tl.arange(0, COLUMNS)
            valid = keep[:, None] & (columns < num_reduced)[None, :]
            offset = offset_of(
                columns, reduced_size_0, reduced_size_1, reduced_stride_0, reduced_stride_1, reduced_stride_2,
                REDUCED_LEVELS,
            )  # fmt: skip
            stored = tl.load(start + offset[None, :], mask=valid, other=0)
            x = tl.where(valid, widened(stored, CODE, DOUBLE), 0.0)
            maximum, least, nans, infs, zeros, subnormals = observe(
                x, valid, maximum, least, nans, infs, zeros, subnormals, histogram_ptr,
                NEEDS, SMALLEST_NORMAL, True, False,
            )  # fmt: skip
            if tile == 0:
                terms = x
                magnitudes = tl.abs(x)
            else:
                terms += x
                magnitudes += tl.abs(x)
        if SUM & NEEDS:
            high, low = take_in(high, low, terms)
        if ABSOLUTE_SUM & NEEDS:
            total += magnitudes

    if SUM & NEEDS:
        high, low = tl.reduce((high, low), 1, add_pairs)
    else:
        high, low = tl.sum(high, 1), tl.sum(low, 1)
    place = part * num_kept + rows
    plane = num_parts.to(tl.int64) * num_kept
    store_partials(
        floats_ptr, counts_ptr, place, plane, keep, high, low,
        tl.sum(total, 1), largest_of(maximum, 1), tl.min(least, 1),
        tl.sum(nans, 1), tl.sum(infs, 1), tl.sum(zeros, 1), tl.sum(subnormals, 1),
        NEEDS,
    )  # fmt: skip


@triton.jit
def combine_partials(
    floats_ptr,
    counts_ptr,
    values_ptr,
    tallies_ptr,
    num_kept,
    num_parts,
    NEEDS: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Combine the partial results of every kept position, in float64: ``PARTS`` of them at a time."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    keep = rows < num_kept
    plane = tl.cast(num_parts, tl.int64) * num_kept
    high = tl.zeros((ROWS, PARTS), tl.float64)
    low = tl.zeros((ROWS, PARTS), tl.float64)
    total = tl.zeros((ROWS, PARTS), tl.float64)
    maximum = tl.zeros((ROWS, PARTS), tl.float64)
    least = tl.full((ROWS, PARTS), float("inf"), tl.float64)
    tallies = tl.zeros((ROWS, PARTS), tl.int64)
    for first in range(0, num_parts, PARTS):
        parts = first + tl.arange(0, PARTS)
        valid = keep[:, None] & (parts < num_parts)[None, :]
        place = parts.to(tl.int64)[None, :] * num_kept + rows[:, None]
        if SUM & NEEDS:
            upper = tl.load(floats_ptr + place, mask=valid, other=0.0).to(tl.float64)
            lower = tl.load(floats_ptr + plane + place, mask=valid, other=0.0).to(tl.float64)
            # Beside an infinity the low part is the NaN of inf - inf, and says nothing.
            lower = tl.where(tl.abs(upper) < float("inf"), lower, 0.0)
            high, low = add_pairs(high, low, upper, lower)
        if ABSOLUTE_SUM & NEEDS:
            total += tl.load(floats_ptr + 2 * plane + place, mask=valid, other=0.0).to(tl.float64)
        if MAXIMUM & NEEDS:
            maximum = larger(maximum, tl.load(floats_ptr + 3 * plane + place, mask=valid, other=0.0).to(tl.float64))
        if MINIMUM_NONZERO & NEEDS:
            found = tl.load(floats_ptr + 4 * plane + place, mask=valid, other=float("inf")).to(tl.float64)
            least = smaller(least, found)
    if SUM & NEEDS:
        high, low = tl.reduce((high, low), 1, add_pairs)
        value = rounded_pair(high, low)
        value, rest = fast_two_sum(value, low - (value - high))
        tl.store(values_ptr + rows, value, mask=keep)
        tl.store(values_ptr + num_kept + rows, tl.where(tl.abs(value) < float("inf"), rest, 0.0), mask=keep)
    if ABSOLUTE_SUM & NEEDS:
        tl.store(values_ptr + 2 * num_kept + rows, tl.sum(total, 1), mask=keep)
    if MAXIMUM & NEEDS:
        tl.store(values_ptr + 3 * num_kept + rows, largest_of(maximum, 1), mask=keep)
    if MINIMUM_NONZERO & NEEDS:
        tl.store(values_ptr + 4 * num_kept + rows, tl.min(least, 1), mask=keep)
    for field in tl.static_range(4):
        if (NUM_NAN << field) & NEEDS:
            tallies = tl.zeros((ROWS, PARTS), tl.int64)
            for first in range(0, num_parts, PARTS):
                parts = first + tl.arange(0, PARTS)
                valid = keep[:, None] & (parts < num_parts)[None, :]
                place = parts.to(tl.int64)[None, :] * num_kept + rows[:, None]
                tallies += tl.load(counts_ptr + field * plane + place, mask=valid, other=0).to(tl.int64)
            tl.store(tallies_ptr + field * num_kept + rows, tl.sum(tallies, 1), mask=keep)
