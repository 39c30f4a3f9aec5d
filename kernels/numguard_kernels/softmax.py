"""A softmax that checks itself, or another's: result, logarithm of the sum, and verdict from one read."""

import math
from typing import Any, Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from numguard_kernels.availability import require
from numguard_kernels.element_formats import ELEMENT_FORMATS, NATIVE, widened
from numguard_kernels.exponential import EXP_UNDERFLOW, in_reach, shadow_exp
from numguard_kernels.launching import launch, num_lanes
from numguard_kernels.logit_samples import logit_cases
from numguard_kernels.online_softmax import NUM_THREADS, loop_shape, num_turns, observe_row, row_error
from numguard_kernels.output_rounding import rounding_constants
from numguard_kernels.row_compilations import row_compilation
from numguard_kernels.rows import (
    LONGEST_ON_CHIP,
    as_rows,
    check_result_dtype,
    check_shapes,
    num_outside,
    on_chip_shape,
    plain_sum,
    results_of,
    rounded_to,
    row_format,
    row_max,
    row_sum,
)
from numguard_kernels.sample_tensors import random_rows
from numguard_kernels.spec import Compilation, KernelSpec, Limits
from numguard_kernels.two_float import UNIT_ROUNDOFF_FP32

_U: Final = tl.constexpr(UNIT_ROUNDOFF_FP32)


class CheckedSoftmax(NamedTuple):
    """Softmax along the last dimension, and what is known about it, row by row.

    Attributes
    ----------
    value
        The softmax, in the dtype of the input; the given one where one was given.
    logsumexp
        float64, the logarithm of the sum of exponentials by the shadow; NaN where the row has no softmax.
    num_wrong
        int32, how many elements are outside their bounds, or not a number; 0 where nothing could be judged.
    """

    value: Tensor
    logsumexp: Tensor
    num_wrong: Tensor


@triton.jit
def judged_tile(y, d, e, reciprocal, row_factor, UNIT: tl.constexpr, SMALLEST: tl.constexpr):
    """Return how many of a tile of probabilities are outside ``p (4 u |d| + row)`` and the rounding of the output."""
    p = e * reciprocal
    bound = tl.fma(p, tl.fma(-d, 4.125 * _U * (1.0 + UNIT), row_factor), SMALLEST)
    return num_outside(tl.abs(y - p), bound)


@triton.jit
def row_factor_of(total, log_columns, error_factor, UNIT: tl.constexpr):
    """Return what a row's relative bounds have in common; its entropy bounds the mean distance from its maximum."""
    spread = tl.maximum(log_columns - tl.log(total), 0.0) + 2.0**-16
    return (4.125 * _U * spread + error_factor) * (1.0 + UNIT) + UNIT


@triton.jit
def store_verdict(logsumexp_ptr, num_wrong_ptr, row, largest, total, num_wrong):
    """Write what is known of a row; one with a NaN, an infinity, or nothing but minus infinities has no softmax."""
    judged = (total < float("inf")) & (tl.abs(largest) < float("inf"))
    logarithm = largest.to(tl.float64) + tl.log(total.to(tl.float64))
    tl.store(logsumexp_ptr + row, tl.where(judged, logarithm, float("nan")))
    tl.store(num_wrong_ptr + row, tl.where(judged, num_wrong, 0))


@triton.jit
def softmax_on_chip(
    x_ptr,
    value_ptr,
    logsumexp_ptr,
    num_wrong_ptr,
    num_columns,
    log_columns,
    error_factor,
    CODE: tl.constexpr,
    GIVEN: tl.constexpr,
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
    x = tl.where(valid, widened(tl.load(x_ptr + place, mask=valid, other=0), CODE, False), float("-inf"))
    largest = row_max(x)
    d = x - largest
    reach = in_reach(d)
    e = shadow_exp(reach, CODE == NATIVE)
    total = row_sum(e)
    if GIVEN:
        stored = tl.load(value_ptr + place, mask=valid, other=0)
    else:
        native = tl.exp(d)
        stored = rounded_to(native * (1.0 / plain_sum(native)), value_ptr, CODE)
        tl.store(value_ptr + place, stored, mask=valid)
    row_factor = row_factor_of(total, log_columns, error_factor, UNIT)
    y = widened(stored, CODE, False)
    num_wrong = judged_tile(y, reach, e, 1.0 / total, row_factor, UNIT, SMALLEST)
    store_verdict(logsumexp_ptr, num_wrong_ptr, row, largest, total, num_wrong)


@triton.jit
def softmax_in_two_passes(
    x_ptr,
    value_ptr,
    logsumexp_ptr,
    num_wrong_ptr,
    num_columns,
    log_columns,
    error_factor,
    CODE: tl.constexpr,
    GIVEN: tl.constexpr,
    UNIT: tl.constexpr,
    SMALLEST: tl.constexpr,
    THREADS: tl.constexpr,
    LANES: tl.constexpr,
):
    """One row per program, read twice: for its sums, and for its verdict, mostly from the cache."""
    row = tl.program_id(0).to(tl.int64)
    base = x_ptr + row * num_columns
    largest, total, native = observe_row(base, num_columns, CODE, GIVEN, CODE == NATIVE, THREADS, LANES)
    inside = tl.arange(0, THREADS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    reciprocal = 1.0 / total
    native_reciprocal = 1.0 / native
    row_factor = row_factor_of(total, log_columns, error_factor, UNIT)
    num_wrong = 0
    TILE: tl.constexpr = THREADS * LANES
    for first in range(0, num_columns, 2 * TILE):
        for tile in tl.static_range(2):
            places = first + tile * TILE + inside
            valid = places < num_columns
            x = widened(tl.load(base + places, mask=valid, other=0), CODE, False)
            d = tl.where(valid, x, float("-inf")) - largest
            place = value_ptr + row * num_columns + places
            if GIVEN:
                stored = tl.load(place, mask=valid, other=0)
            else:
                stored = rounded_to(tl.exp(d) * native_reciprocal, value_ptr, CODE)
                tl.store(place, stored, mask=valid)
            reach = in_reach(d)
            e = shadow_exp(reach, CODE == NATIVE)
            y = widened(stored, CODE, False)
            num_wrong += judged_tile(y, reach, e, reciprocal, row_factor, UNIT, SMALLEST)
    store_verdict(logsumexp_ptr, num_wrong_ptr, row, largest, total, num_wrong)


def checked_softmax(
    x: Tensor, *, computed: Tensor | None = None, longest_on_chip: int = LONGEST_ON_CHIP
) -> CheckedSoftmax:
    """Return the softmax along the last dimension and its verdict, from one read of a row of up to 16384 elements.

    Parameters
    ----------
    x
        float32, float16 or bfloat16 of shape ``[..., n]`` with ``n >= 1``.
    computed
        The result of another implementation, of the same shape and dtype: then this is judged, and none is formed.
    longest_on_chip
        Longer rows are read twice instead of being kept in registers.

    Raises
    ------
    TypeError
        For other dtypes.
    ValueError
        For a result of another shape.
    KernelUnavailable
        Where the kernels cannot run on the device.

    Notes
    -----
    With m the maximum, ``d = x - m``, Z the sum of ``exp(d)`` and p the softmax, an element of a correct
    implementation is within ``p (4 u |d| + 4 u (ln n - ln Z) + f)`` of the shadow before its rounding, u being that of
    fp32 and f the relative error of the sum of exponentials twice over
    (:func:`~numguard_kernels.online_softmax.row_error`); u |d| of it are the shadow's own (Blanchard, Higham, Higham,
    IMA J. Numer. Anal. 41, 2021, section 4, where the mean of ``|d|`` stands for its bound by the entropy). Results
    below 2**-124 are not told from zero.
    """
    form = row_format(x, "checked_softmax")
    check_shapes("checked_softmax", x.shape, computed=computed)
    check_result_dtype("checked_softmax", x, computed)
    device = require("checked_softmax", *(tensor.device for tensor in (x, computed) if tensor is not None))
    rows = as_rows(x, form)
    num_rows, num_columns = rows.shape
    value = results_of(computed, x, x.shape)
    logsumexp = torch.empty(x.shape[:-1], dtype=torch.float64, device=device)
    num_wrong = torch.empty(x.shape[:-1], dtype=torch.int32, device=device)
    on_chip = num_columns <= longest_on_chip
    if on_chip:
        tile, num_threads = on_chip_shape(num_columns, form)
    else:
        tile, num_threads = loop_shape(form, num_lanes(NUM_THREADS, device)), NUM_THREADS
    if num_rows:
        launch(
            softmax_on_chip if on_chip else softmax_in_two_passes,
            (num_rows,),
            rows,
            form.stored(value),
            logsumexp,
            num_wrong,
            num_columns,
            math.log(num_columns),
            2.0 * row_error(num_columns, 0 if on_chip else num_turns(num_columns, tile), is_precise=form.code == 0),
            CODE=form.code,
            GIVEN=computed is not None,
            **rounding_constants(x.dtype, underflow=EXP_UNDERFLOW),
            **tile,
            num_threads=num_threads,
            device=device,
        )
    return CheckedSoftmax(value, logsumexp, num_wrong)


def _allowed(wide: Tensor, dtype: torch.dtype) -> Tensor:
    """What rounding explains, element by element, however the row was read."""
    p = wide.softmax(-1)
    count = wide.shape[-1]
    distance = (wide - wide.amax(-1, keepdim=True)).abs().clamp(max=128.0) + math.log(count)
    relative = 4.25 * 2.0**-24 * distance + 2.0 * row_error(count, count, is_precise=False)
    constants = rounding_constants(dtype, underflow=EXP_UNDERFLOW)
    return (p * (relative + constants["UNIT"] * (1.0 + relative)) + constants["SMALLEST"]).nan_to_num(0.0)


def reference_softmax(
    x: Tensor, *, computed: Tensor | None = None, longest_on_chip: int = LONGEST_ON_CHIP
) -> CheckedSoftmax:
    """Return the same from plain torch in float64, the value rounded once."""
    del longest_on_chip
    wide = x.double()
    p = wide.softmax(-1)
    value = p.to(torch.float32).to(x.dtype) if computed is None else computed
    finite = p.isfinite().all(-1)
    outside = finite[..., None] & ~((value.double() - p).abs() <= _allowed(wide, x.dtype))
    logsumexp = torch.where(finite, wide.logsumexp(-1), torch.nan)
    return CheckedSoftmax(value, logsumexp, outside.sum(-1, dtype=torch.int32))


def _tolerance(expected: CheckedSoftmax, x: Tensor, **_options: Any) -> dict[str, Any]:
    wide = x.double()
    allowed = _allowed(wide, x.dtype)
    largest = wide.abs().amax(-1).nan_to_num(0.0, 0.0)
    return {
        "value": 2.0 * allowed,
        "logsumexp": row_error(x.shape[-1], x.shape[-1], is_precise=False) + 2.0**-20 * (1.0 + largest),
    }


def _options(x: Tensor, how: str) -> dict[str, Any]:
    if how == "long":
        return {"longest_on_chip": 8}
    if how not in ("right", "wrong"):
        return {}
    given = x.double().softmax(-1)
    given[1, 3] += 0.25 if how == "wrong" else 0.0
    return {"computed": given.to(torch.float32).to(x.dtype)}


def _compilation(
    dtype: torch.dtype, columns: int, limits: Limits, reason: str = "", *, given: bool = False
) -> Compilation:
    form = ELEMENT_FORMATS[dtype]
    is_long = columns > LONGEST_ON_CHIP
    return row_compilation(
        f"{form.name}, {columns}{', given' if given else ''}",
        softmax_in_two_passes if is_long else softmax_on_chip,
        form,
        limits,
        shape=(loop_shape(form), NUM_THREADS) if is_long else on_chip_shape(columns, form),
        stored=("x_ptr", "value_ptr"),
        types={"logsumexp_ptr": "*fp64", "num_wrong_ptr": "*i32", "log_columns": "fp32", "error_factor": "fp32"},
        constants={"GIVEN": given, **rounding_constants(dtype, underflow=EXP_UNDERFLOW)},
        num_accesses=2,
        tiles_per_turn=2 if is_long else 1,
        num_loops=2 if is_long else 1,
        reason=reason,
    )


_REASON: Final = "two exponentials, a rounding and a comparison for every element of two bytes read and two written"
SPEC: Final = KernelSpec(
    name="checked_softmax",
    launcher=checked_softmax,
    reference=reference_softmax,
    tolerance=_tolerance,
    cases=logit_cases(_options, scale=10.0, sizes=(1, 8, 9, 1000), hows=("right", "wrong", "masked", "long")),
    compilations=(
        _compilation(torch.bfloat16, 4096, Limits(instructions_per_element=53.26, registers=135), _REASON),
        _compilation(torch.float32, 4096, Limits(instructions_per_element=49.62, registers=135)),
        _compilation(torch.bfloat16, 16384, Limits(instructions_per_element=54.93, registers=135), _REASON),
        _compilation(torch.bfloat16, 4096, Limits(instructions_per_element=39.08, registers=101), _REASON, given=True),
        _compilation(torch.bfloat16, 131072, Limits(instructions_per_element=65.3, registers=51), _REASON),
    ),
    benchmark=lambda num_elements, dtype, device: ((random_rows(num_elements, 4096, dtype, device),), {}),
    bytes_moved=lambda x, **_options: 2 * x.numel() * x.element_size(),
    flops=lambda x, **_options: x.numel() * 32,
    rivals={"torch.softmax": lambda x, **_options: x.softmax(-1)},
)
