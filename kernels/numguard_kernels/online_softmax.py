"""Rows of exponentials in one pass, each thread with a maximum of its own: what logsumexp and cross entropy share."""

import triton
import triton.language as tl

from numguard_kernels.element_formats import ElementFormat, widened
from numguard_kernels.exponential import (
    COARSE_EXP_ERROR_IN_ROUNDOFFS,
    HARDWARE_EXP_IN_ROUNDOFFS,
    PRECISE_EXP_ERROR_IN_ROUNDOFFS,
    in_reach,
    shadow_exp,
)
from numguard_kernels.rows import ROW_SUM_ERROR_IN_ROUNDOFFS, tree_height
from numguard_kernels.two_float import UNIT_ROUNDOFF_FP32, add_pairs

NUM_THREADS = 256


@triton.jit
def finite_or_zero(x):
    """Return the number by which a row is shifted: zero where its maximum is infinite."""
    return tl.where(tl.abs(x) < float("inf"), x, 0.0)


@triton.jit
def exponentials(x, shift, GIVEN: tl.constexpr, PRECISE: tl.constexpr):
    """Return the sums over adjacent lanes of the shadow's exponentials and of the hardware's."""
    d = x - shift[:, None]
    total = tl.sum(shadow_exp(in_reach(d), PRECISE), 1)
    if GIVEN:
        native = total
    else:
        native = tl.sum(tl.exp(d), 1)
    return total, native


@triton.jit
def take_tiles(first, second, largest, total, native, GIVEN: tl.constexpr, PRECISE: tl.constexpr):
    """Take two tiles into the state of every thread, whose sums become multiples of ``exp`` of its new maximum."""
    largest_now = tl.maximum(largest, tl.maximum(tl.max(first, 1), tl.max(second, 1)))
    shift = finite_or_zero(largest_now)
    moved = largest - shift
    total_a, native_a = exponentials(first, shift, GIVEN, PRECISE)
    total_b, native_b = exponentials(second, shift, GIVEN, PRECISE)
    total = total * shadow_exp(in_reach(moved), True) + (total_a + total_b)
    return largest_now, total, native * tl.exp(moved) + (native_a + native_b)


@triton.jit
def observe_row(
    base,
    num_columns,
    CODE: tl.constexpr,
    GIVEN: tl.constexpr,
    PRECISE: tl.constexpr,
    THREADS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Return the maximum of a row and the sums of ``exp(x - maximum)`` by the shadow and by the hardware."""
    TILE: tl.constexpr = THREADS * LANES
    inside = tl.arange(0, THREADS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    largest = tl.full((THREADS,), float("-inf"), tl.float32)
    total = tl.zeros((THREADS,), tl.float32)
    native = tl.zeros((THREADS,), tl.float32)
    num_turns = num_columns // (2 * TILE)
    for turn in range(num_turns):
        place = base + turn * (2 * TILE) + inside
        first = widened(tl.load(place), CODE, False)
        second = widened(tl.load(place + TILE), CODE, False)
        largest, total, native = take_tiles(first, second, largest, total, native, GIVEN, PRECISE)
    rest = num_turns * (2 * TILE)
    if rest < num_columns:
        valid = rest + inside < num_columns
        first = widened(tl.load(base + rest + inside, mask=valid, other=0), CODE, False)
        first = tl.where(valid, first, float("-inf"))
        valid = rest + TILE + inside < num_columns
        second = widened(tl.load(base + rest + TILE + inside, mask=valid, other=0), CODE, False)
        second = tl.where(valid, second, float("-inf"))
        largest, total, native = take_tiles(first, second, largest, total, native, GIVEN, PRECISE)
    row_largest = tl.max(largest, 0)
    moved = largest - finite_or_zero(row_largest)
    total = total * shadow_exp(in_reach(moved), True)
    high, low = tl.reduce((total, tl.zeros_like(total)), 0, add_pairs)
    return row_largest, high + low, tl.sum(native * tl.exp(moved), 0)


def row_error(num_columns: int, turns: int, *, is_precise: bool, step_roundoff: float = UNIT_ROUNDOFF_FP32) -> float:
    """Return the relative error of a row's sum of exponentials, the implementation's and the shadow's together.

    Parameters
    ----------
    num_columns
        Of a row.
    turns
        Rescalings of a thread's sum by the shadow; 0 where the row is on chip.
    is_precise
        Whether the shadow takes the precise exponential.
    step_roundoff
        Of the steps of the implementation that is judged: that of its dtype, where it rounds each.

    Notes
    -----
    Distances from the maximum enter elsewhere. On the one side an exponential and the sum over a tree of known height
    (Blanchard, Higham, Higham, IMA J. Numer. Anal. 41, 2021, section 3); on the other the series, blocks of at most
    16 terms, and for every turn one rescaling by an exponential and one addition.
    """
    hardware = HARDWARE_EXP_IN_ROUNDOFFS * step_roundoff + tree_height(num_columns) * UNIT_ROUNDOFF_FP32
    series = PRECISE_EXP_ERROR_IN_ROUNDOFFS if is_precise else COARSE_EXP_ERROR_IN_ROUNDOFFS
    rescaling = (turns + 1) * (PRECISE_EXP_ERROR_IN_ROUNDOFFS + 2.0)
    shadow = series + 2.0 * ROW_SUM_ERROR_IN_ROUNDOFFS + rescaling
    return (hardware + shadow * UNIT_ROUNDOFF_FP32) * (1.0 + 2.0**-7)


def loop_shape(form: ElementFormat, lanes: int = NUM_THREADS) -> dict[str, int]:
    """Return the shape of a tile: 16 bytes a thread."""
    return {"THREADS": lanes, "LANES": form.lanes}


def num_turns(num_columns: int, shape: dict[str, int]) -> int:
    """Return how often a thread rescales its sums in a row: once for two tiles."""
    return -(-num_columns // (2 * shape["THREADS"] * shape["LANES"]))
