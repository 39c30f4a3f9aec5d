"""Logarithms of sums of exponentials, and cross entropies, that check themselves: rows of any length in one pass."""

import math
from typing import Any, Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from numguard_kernels.availability import require
from numguard_kernels.element_formats import ELEMENT_FORMATS, NATIVE, widened
from numguard_kernels.launching import launch, num_lanes
from numguard_kernels.logit_samples import logit_cases
from numguard_kernels.online_softmax import NUM_THREADS, loop_shape, num_turns, observe_row, row_error
from numguard_kernels.output_rounding import output_constants
from numguard_kernels.row_compilations import row_compilation
from numguard_kernels.rows import as_rows, check_result_dtype, check_shapes, results_of, rounded_to, row_format
from numguard_kernels.sample_tensors import random_rows
from numguard_kernels.spec import Compilation, KernelSpec, Limits


class CheckedRows(NamedTuple):
    """One result per row and what is known about it.

    Attributes
    ----------
    value
        The results, in the dtype of the input; the given ones where some were given.
    shadow
        float64: the same from the shadow; NaN where the row has no finite result.
    error_bound
        float64: what ``|value - shadow|`` can be for a correct implementation.
    is_wrong
        bool: outside the bound, or not finite where it had to be.
    """

    value: Tensor
    shadow: Tensor
    error_bound: Tensor
    is_wrong: Tensor


@triton.jit
def reduce_rows(
    x_ptr,
    targets_ptr,
    value_ptr,
    figures_ptr,
    is_wrong_ptr,
    num_columns,
    ignored,
    log_columns,
    error_factor,
    CODE: tl.constexpr,
    GIVEN: tl.constexpr,
    TARGETS: tl.constexpr,
    U: tl.constexpr,
    UNIT: tl.constexpr,
    SMALLEST: tl.constexpr,
    LARGEST: tl.constexpr,
    THREADS: tl.constexpr,
    LANES: tl.constexpr,
):
    """One row per program: the logarithm of its sum of exponentials, less the target's logit where ``TARGETS``."""
    row = tl.program_id(0).to(tl.int64)
    base = x_ptr + row * num_columns
    largest, total, native = observe_row(base, num_columns, CODE, GIVEN, CODE == NATIVE, THREADS, LANES)
    logarithm = tl.log(total.to(tl.float64))
    finite = (tl.abs(largest) < float("inf")) & (total < float("inf"))
    shadow = tl.where(finite, largest.to(tl.float64) + logarithm, float("nan"))
    native_value = largest + tl.log(native)
    spread = tl.maximum(log_columns - logarithm, 0.0)
    error = (4.0 * U) * (spread + tl.abs(logarithm) + 2.0) + U * tl.abs(shadow)
    if TARGETS:
        target = tl.load(targets_ptr + row)
        known = (target >= 0) & (target < num_columns)
        logit = widened(tl.load(base + target, mask=known, other=0), CODE, False)
        logit = tl.where(known, logit, float("nan"))
        error += (2.0 * U) * tl.abs(logit - largest).to(tl.float64)
        counted = target != ignored
        shadow = tl.where(counted, shadow - logit.to(tl.float64), 0.0)
        native_value = tl.where(counted, native_value - logit, 0.0)
        error = tl.where(counted, error, 0.0)
    if GIVEN:
        stored = tl.load(value_ptr + row)
    else:
        stored = rounded_to(native_value, value_ptr, CODE)
        tl.store(value_ptr + row, stored)
    grown = error + error_factor + U * tl.abs(shadow)
    bound = grown + UNIT * (tl.abs(shadow) + grown) + SMALLEST
    computed = widened(stored, CODE, False).to(tl.float64)
    judged = tl.abs(shadow) + bound < LARGEST
    plane = tl.num_programs(0)
    tl.store(figures_ptr + row, shadow)
    tl.store(figures_ptr + plane + row, bound)
    tl.store(is_wrong_ptr + row, judged & ~(tl.abs(computed - shadow) <= bound))


def launch_rows(
    kernel: str,
    x: Tensor,
    targets: Tensor | None,
    computed: Tensor | None,
    *,
    intermediate: torch.dtype = torch.float32,
    ignored: int = -100,
) -> CheckedRows:
    """Run :func:`reduce_rows` over the last dimension; for the launchers.

    Raises
    ------
    TypeError, ValueError, KernelUnavailable
        As the launchers say.
    """
    form = row_format(x, kernel)
    shape = x.shape[:-1]
    check_shapes(kernel, shape, computed=computed, targets=targets)
    check_result_dtype(kernel, x, computed)
    device = require(kernel, *(tensor.device for tensor in (x, targets, computed) if tensor is not None))
    rows = as_rows(x, form)
    value = results_of(computed, x, shape)
    figures = torch.empty((2, *shape), dtype=torch.float64, device=device)
    is_wrong = torch.empty(shape, dtype=torch.bool, device=device)
    tile = loop_shape(form, num_lanes(NUM_THREADS, device))
    roundoff = torch.finfo(intermediate).eps / 2
    if value.numel():
        launch(
            reduce_rows,
            (value.numel(),),
            rows,
            figures if targets is None else targets.contiguous(),
            form.stored(value),
            figures,
            is_wrong,
            rows.shape[1],
            ignored,
            math.log(rows.shape[1]),
            row_error(rows.shape[1], num_turns(rows.shape[1], tile), is_precise=form.code == 0, step_roundoff=roundoff),
            CODE=form.code,
            GIVEN=computed is not None,
            TARGETS=targets is not None,
            U=roundoff,
            **output_constants(x.dtype),
            **tile,
            num_threads=NUM_THREADS,
            device=device,
        )
    return CheckedRows(value, figures[0], figures[1], is_wrong)


def checked_logsumexp(
    x: Tensor, *, computed: Tensor | None = None, intermediate: torch.dtype = torch.float32
) -> CheckedRows:
    """Return the logarithm of the sum of exponentials along the last dimension and its verdict, from one read.

    Parameters
    ----------
    x
        float32, float16 or bfloat16 of shape ``[..., n]`` with ``n >= 1``; rows of any length.
    computed
        Results of another implementation, of shape ``[...]`` and the dtype of ``x``: then these are judged, and no
        result is formed.
    intermediate
        In which dtype that implementation rounds each of its steps; torch's own composes it in the dtype of the input.

    Raises
    ------
    TypeError
        For another dtype.
    ValueError
        For results of another shape.
    KernelUnavailable
        Where the kernels cannot run on the device.

    Notes
    -----
    Threads keep maxima of their own and rescale their sums when they grow (Milakov, Gimelshein, arXiv 1805.02867).
    The result uses the hardware's exponential; the shadow a series (:mod:`numguard_kernels.exponential`). With
    ``Z = sum exp(x - m)`` and S the mean of ``|x - m|`` with weights ``exp(x - m) / Z``, the alarm threshold is
    ``u (4 S + 4 |ln Z| + |result| + 8)``, the relative error of Z from
    :func:`~numguard_kernels.online_softmax.row_error`, and the rounding of the output (Blanchard, Higham, Higham, IMA
    J. Numer. Anal. 41, 2021, section 3). ``S + ln Z`` is the entropy of these weights and so at most ``ln n``: that
    stands for S, which then needs no sum of its own. A row whose result is not finite is not judged.
    """
    return launch_rows("checked_logsumexp", x, None, computed, intermediate=intermediate)


def reference_logsumexp(
    x: Tensor, *, computed: Tensor | None = None, intermediate: torch.dtype = torch.float32
) -> CheckedRows:
    """Return the same from plain torch in float64, the value rounded once; the bound is the kernel's own."""
    exact = x.double().logsumexp(-1)
    return reference_rows(exact, x.double(), computed, x.dtype, intermediate)


def reference_rows(
    exact: Tensor, wide: Tensor, computed: Tensor | None, dtype: torch.dtype, intermediate: torch.dtype
) -> CheckedRows:
    """Return the fields for exact results: a given one is wrong where it is farther off than rounding explains."""
    value = exact.to(torch.float32).to(dtype) if computed is None else computed
    bound = rows_bound(exact, wide, intermediate) + torch.finfo(dtype).eps / 2 * exact.abs()
    is_wrong = exact.isfinite() & ~((value.double() - exact).abs() <= bound)
    finite = exact.isfinite()
    return CheckedRows(value, torch.where(finite, exact, torch.nan), torch.zeros_like(exact), is_wrong)


def rows_bound(exact: Tensor, wide: Tensor, intermediate: torch.dtype) -> Tensor:
    """Bound on what either side may be off before the output is rounded; for comparisons."""
    roundoff = torch.finfo(intermediate).eps / 2
    count = wide.shape[-1]
    factor = row_error(count, count, is_precise=False, step_roundoff=roundoff)
    return 1.01 * (roundoff * (8.0 * math.log(count) + 8.0 + 2 * exact.abs().nan_to_num(0.0, 0.0)) + factor)


def tolerance_of_rows(expected: CheckedRows, wide: Tensor, further: Tensor | float = 0.0) -> dict[str, Any]:
    """What rounding explains, for the fields of :class:`CheckedRows`, with ``further`` errors before the output's."""
    own = rows_bound(expected.shadow, wide, torch.float32) + further
    output = torch.finfo(expected.value.dtype)
    rounding = output.eps * (expected.shadow.abs().nan_to_num(0.0) + own) + output.tiny * output.eps
    return {"value": own + rounding, "shadow": own, "error_bound": float("inf")}


def _options(x: Tensor, how: str) -> dict[str, Any]:
    if how not in ("right", "wrong"):
        return {}
    given = x.double().logsumexp(-1)
    given[1:2] += 1.0 if how == "wrong" else 0.0
    return {"computed": given.to(torch.float32).to(x.dtype)}


def compilation_of_rows(
    dtype: torch.dtype, limits: Limits, reason: str = "", *, given: bool = False, targets: bool = False
) -> Compilation:
    """Return the ahead-of-time compilation of :func:`reduce_rows` for a dtype."""
    form = ELEMENT_FORMATS[dtype]
    return row_compilation(
        f"{form.name}{' given' if given else ''}",
        reduce_rows,
        form,
        limits,
        shape=(loop_shape(form), NUM_THREADS),
        stored=("x_ptr", "value_ptr"),
        types={
            "targets_ptr": "*i64",
            "figures_ptr": "*fp64",
            "is_wrong_ptr": "*i1",
            "ignored": "i32",
            "log_columns": "fp32",
            "error_factor": "fp32",
        },
        constants={"GIVEN": given, "TARGETS": targets, "U": 2.0**-24, **output_constants(dtype)},
        num_accesses=1,
        tiles_per_turn=2,
        reason=reason,
    )


#: Why issuing takes longer than reading in 16 bits.
TWO_EXPONENTIALS: Final = "two exponentials, the shadow's by a series, for every two bytes read"
SPEC: Final = KernelSpec(
    name="checked_logsumexp",
    launcher=checked_logsumexp,
    reference=reference_logsumexp,
    tolerance=lambda expected, x, **_options: tolerance_of_rows(expected, x.double()),
    cases=logit_cases(_options, scale=8.0, sizes=(1, 31, 32, 33), hows=("right", "wrong", "masked")),
    compilations=(
        compilation_of_rows(torch.float32, Limits(instructions_per_element=27.83, registers=34)),
        compilation_of_rows(torch.bfloat16, Limits(instructions_per_element=24.09, registers=42), TWO_EXPONENTIALS),
    ),
    benchmark=lambda num_elements, dtype, device: ((random_rows(num_elements, 32768, dtype, device),), {}),
    bytes_moved=lambda x, **_options: x.numel() * x.element_size(),
    flops=lambda x, **_options: x.numel() * 24,
    rivals={"torch.logsumexp": lambda x, **_options: x.logsumexp(-1)},
)
