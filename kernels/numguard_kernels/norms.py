"""Layer and root-mean-square norms that check themselves, or another's: result and verdict from one read of a row."""

from typing import Any, Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from numguard_kernels.availability import require_alike
from numguard_kernels.element_formats import ELEMENT_FORMATS, ElementFormat, widened
from numguard_kernels.launching import launch
from numguard_kernels.output_rounding import rounding_constants
from numguard_kernels.row_compilations import row_compilation
from numguard_kernels.row_moments import growth_of, moment_errors, moments, plain_moments
from numguard_kernels.rows import (
    ROW_DTYPES,
    as_rows,
    check_row_length,
    check_shapes,
    num_outside,
    on_chip_shape,
    results_of,
    rounded_to,
    row_format,
)
from numguard_kernels.sample_tensors import LAYOUTS, random_rows, sample
from numguard_kernels.spec import Arguments, Case, Compilation, KernelSpec, Limits, case_name
from numguard_kernels.two_float import UNIT_ROUNDOFF_FP32

#: Longest row whose norm fits into registers without spilling any.
LONGEST_ROW: Final = 8192
_U: Final = tl.constexpr(UNIT_ROUNDOFF_FP32)


class CheckedNorm(NamedTuple):
    """A normalized tensor and what is known about it, row by row.

    Attributes
    ----------
    value
        The result, in the dtype of the input; the given one where one was given.
    mean, deviation
        float32, the row's mean (0 for a root-mean-square norm) and the reciprocal of its standard deviation, by the
        shadow.
    num_wrong
        int32, how many elements are outside their bounds, or not a number; 0 where nothing could be judged.
    """

    value: Tensor
    mean: Tensor
    deviation: Tensor
    num_wrong: Tensor


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
    x = widened(tl.load(x_ptr + place, mask=valid, other=0), CODE, False)
    centered, mean, variance, deviation = moments(x, valid, num_columns, eps, CENTERED)
    constant, relative = moment_errors(x, mean, variance, deviation, num_columns, eps, growth, CENTERED)
    if not GIVEN:
        native, scale = plain_moments(x, valid, num_columns, eps, CENTERED)
    if HAS_WEIGHT:
        weight = widened(tl.load(weight_ptr + inside, mask=valid, other=0), CODE, False)
    if HAS_BIAS:
        bias = widened(tl.load(bias_ptr + inside, mask=valid, other=0), CODE, False)
    if GIVEN:
        stored = tl.load(value_ptr + place, mask=valid, other=0)
    else:
        native *= scale
        if HAS_WEIGHT:
            native *= weight
        if HAS_BIAS:
            native += bias
        stored = rounded_to(native, value_ptr, CODE)
        tl.store(value_ptr + place, stored, mask=valid)
    shadow = centered * deviation
    error = tl.fma(tl.abs(shadow), relative + 18.0 * _U, constant)
    if HAS_WEIGHT:
        shadow *= weight
        error *= tl.abs(weight)
    if HAS_BIAS:
        shadow += bias
        error = tl.fma(tl.abs(bias), 4.0 * _U, error)
    bound = tl.fma(error, 1.0 + UNIT, tl.fma(tl.abs(shadow), UNIT, SMALLEST))
    num_wrong = num_outside(tl.abs(widened(stored, CODE, False) - shadow), bound)
    # Where the variance is cancelled away or overflows, and where an input is not finite, nothing follows.
    judged = (relative < 0.125) & (variance < float("inf"))
    tl.store(figures_ptr + row, mean)
    tl.store(figures_ptr + tl.num_programs(0) + row, deviation)
    tl.store(num_wrong_ptr + row, tl.where(judged, num_wrong, 0))


def checked_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    is_centered: bool = True,
    computed: Tensor | None = None,
) -> CheckedNorm:
    """Return the layer norm or root-mean-square norm over the last dimension and its verdict, from one read.

    Parameters
    ----------
    x
        float32, float16 or bfloat16 of shape ``[..., n]``, ``1 <= n <= 8192``.
    weight, bias
        Of shape ``[n]`` and the dtype of ``x``.
    eps
        Added to the variance or mean square; positive.
    is_centered
        Whether the mean is taken off: a layer norm, and not a root-mean-square norm.
    computed
        The result of another implementation, of the shape and dtype of ``x``: then this is judged, and none is formed.

    Raises
    ------
    TypeError
        For other dtypes.
    ValueError
        For other shapes and longer rows.
    KernelUnavailable
        Where the kernels cannot run on the device.

    Notes
    -----
    With d the error of the mean and t the relative error of the deviation
    (:func:`~numguard_kernels.row_moments.moment_errors`), an element is within
    ``|w| r d + |w xhat| (t + 18 u) + 4 u |b|`` of the shadow before its rounding, for implementations that accumulate
    in fp32 in one, two or more passes; 9 u of it are the shadow's own roundings. Rows whose variance is lost to
    cancellation in such an implementation are not judged.
    """
    form, tile, num_threads = prepared("checked_norm", x, weight=weight, bias=bias)
    check_shapes("checked_norm", x.shape, computed=computed)
    device = require_alike("checked_norm", x, weight, bias, computed)
    rows = as_rows(x, form)
    value = results_of(computed, x, x.shape)
    figures = torch.empty((2, *x.shape[:-1]), dtype=torch.float32, device=device)
    num_wrong = torch.empty(x.shape[:-1], dtype=torch.int32, device=device)
    if rows.shape[0]:
        launch(
            norm_on_chip,
            (rows.shape[0],),
            rows,
            *(rows if tensor is None else form.stored(tensor.detach().contiguous()) for tensor in (weight, bias)),
            form.stored(value),
            figures,
            num_wrong,
            rows.shape[1],
            eps,
            growth_of(rows.shape[1]),
            CODE=form.code,
            GIVEN=computed is not None,
            CENTERED=is_centered,
            HAS_WEIGHT=weight is not None,
            HAS_BIAS=bias is not None,
            **rounding_constants(x.dtype),
            **tile,
            num_threads=num_threads,
            device=device,
        )
    return CheckedNorm(value, figures[0], figures[1], num_wrong)


def prepared(kernel: str, x: Tensor, **vectors: Tensor | None) -> tuple[ElementFormat, dict[str, int], int]:
    """Return how rows are read and cut, after all shapes have been looked at."""
    form = row_format(x, kernel)
    check_row_length(kernel, x, LONGEST_ROW)
    check_shapes(kernel, x.shape[-1:], **vectors)
    return form, *on_chip_shape(x.shape[-1], form)


def reference_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    is_centered: bool = True,
    computed: Tensor | None = None,
) -> CheckedNorm:
    """Return the same from plain torch in float64, the value rounded once."""
    wide = x.double()
    mean = wide.mean(-1, keepdim=True) if is_centered else torch.zeros_like(wide[..., :1])
    deviation = ((wide - mean).square().mean(-1, keepdim=True) + eps).rsqrt()
    exact = (wide - mean) * deviation
    exact = exact if weight is None else exact * weight.double()
    exact = exact if bias is None else exact + bias.double()
    value = exact.to(torch.float32).to(x.dtype) if computed is None else computed
    outside = exact.isfinite().all(-1, keepdim=True) & ~(
        (value.double() - exact).abs() <= _allowed(exact, x, weight, mean, deviation)
    )
    figures = mean[..., 0].float(), deviation[..., 0].float()
    return CheckedNorm(value, *figures, outside.sum(-1, dtype=torch.int32))


def _allowed(exact: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, deviation: Tensor) -> Tensor:
    """What rounding explains, for rows whose mean is not far larger than their deviation."""
    growth = 8.0 * growth_of(x.shape[-1])
    scale = torch.ones_like(mean) if weight is None else weight.double().abs()
    spread = x.double().abs().amax(-1, keepdim=True) * deviation
    error = growth * (scale * (spread + 1.0) + 2.0 * exact.abs() + 1.0)
    output = torch.finfo(x.dtype)
    return (error + output.eps * exact.abs() + output.tiny).nan_to_num(0.0)


def _tolerance(expected: CheckedNorm, x: Tensor, weight: Tensor | None = None, *_: Any, **_o: Any) -> dict[str, Any]:
    mean, deviation = expected.mean.double()[..., None], expected.deviation.double()[..., None]
    growth = 8.0 * growth_of(x.shape[-1])
    return {
        "value": 2.0 * _allowed(expected.value.double(), x, weight, mean, deviation),
        "mean": growth * x.double().abs().amax(-1).nan_to_num(0.0, 0.0) + 2.0**-126,
        "deviation": growth * expected.deviation.double().nan_to_num(0.0) * 4.0,
    }


def _case(dtype: torch.dtype, content: str, shape: tuple[int, ...], layout: str = "contiguous", **how: Any) -> Case:
    def make(device: torch.device) -> Arguments:
        x = sample(shape, dtype, content) + (0.5 if content == "ordinary" else 0.0)
        weight, bias = (sample(shape[-1:], dtype, seed=seed).to(device) for seed in (1, 2))
        options: dict[str, Any] = {"is_centered": how.get("is_centered", True)}
        vectors = {"none": (), "weight": (weight,)}.get(how.get("vectors", ""), (weight, bias))
        if "given" in how:
            given = reference_norm(x, *(vector.cpu() for vector in vectors), **options).value.clone()
            given[1, 3] += 0.5 if how["given"] == "wrong" else 0.0
            options["computed"] = given.to(device)
        return (LAYOUTS[layout](x.to(device)), *vectors), options

    return Case(name=case_name(dtype, content, shape, layout, **how), make=make)


def _cases() -> tuple[Case, ...]:
    contents = ("ordinary", "cancelling", "subnormal", "zeros", "infinite", "nan", "both_infinities")
    found = [_case(dtype, content, (3, 37)) for dtype in ROW_DTYPES for content in contents]
    found += [_case(dtype, "ordinary", (3, 37), is_centered=False, vectors="weight") for dtype in ROW_DTYPES]
    found += [_case(dtype, "ordinary", (3, 40), given=given) for dtype in ROW_DTYPES for given in ("right", "wrong")]
    found += [_case(torch.float32, "ordinary", (2, 19), layout) for layout in ("unaligned", "permuted", "gapped rows")]
    found += [_case(torch.bfloat16, "ordinary", (2, size), vectors="none") for size in (1, 8, 9, 1000)]
    found.append(_case(torch.float32, "ordinary", (0, 5)))
    return tuple(found)


def _compilation(
    dtype: torch.dtype, columns: int, limits: Limits, reason: str = "", *, is_layer: bool = True
) -> Compilation:
    form = ELEMENT_FORMATS[dtype]
    parts = {"CENTERED": is_layer, "HAS_WEIGHT": True, "HAS_BIAS": is_layer}
    return row_compilation(
        f"{'layer' if is_layer else 'rms'} {form.name}, {columns}",
        norm_on_chip,
        form,
        limits,
        shape=on_chip_shape(columns, form),
        stored=("x_ptr", "weight_ptr", "bias_ptr", "value_ptr"),
        types={"figures_ptr": "*fp32", "num_wrong_ptr": "*i32", "eps": "fp32", "growth": "fp32"},
        constants={"GIVEN": False, **parts, **rounding_constants(dtype)},
        num_accesses=2,
        reason=reason,
    )


def _benchmark(num_elements: int, dtype: torch.dtype, device: torch.device) -> Arguments:
    x = random_rows(num_elements, 4096, dtype, device)
    return (x, torch.ones_like(x[0]), torch.zeros_like(x[0])), {}


_REASON: Final = (
    "both moments are formed twice and every element is rounded and compared, for two bytes read and two written"
)
SPEC: Final = KernelSpec(
    name="checked_norm",
    launcher=checked_norm,
    reference=reference_norm,
    tolerance=_tolerance,
    cases=_cases(),
    compilations=(
        _compilation(torch.bfloat16, 4096, Limits(instructions_per_element=55.26, registers=157), _REASON),
        _compilation(torch.float32, 4096, Limits(instructions_per_element=49.03, registers=177)),
        _compilation(torch.bfloat16, 8192, Limits(instructions_per_element=56.57, registers=160), _REASON),
        _compilation(torch.bfloat16, 4096, Limits(instructions_per_element=36.49, registers=135), is_layer=False),
    ),
    benchmark=_benchmark,
    bytes_moved=lambda x, *_vectors, **_options: 2 * x.numel() * x.element_size(),
    flops=lambda x, *_vectors, **_options: x.numel() * 24,
    rivals={
        "torch layer_norm": lambda x, weight, bias, **_options: torch.nn.functional.layer_norm(
            x, x.shape[-1:], weight, bias
        )
    },
)
