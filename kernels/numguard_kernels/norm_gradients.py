"""Gradients of layer and root-mean-square norms that check themselves, or another's, from one read of a row."""

from typing import Any, Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from numguard_kernels.availability import require_alike
from numguard_kernels.element_formats import ELEMENT_FORMATS, widened
from numguard_kernels.launching import launch
from numguard_kernels.norms import prepared
from numguard_kernels.output_rounding import rounding_constants
from numguard_kernels.row_compilations import row_compilation
from numguard_kernels.row_moments import growth_of, moment_errors, moments, plain_moments
from numguard_kernels.rows import (
    ROW_DTYPES,
    as_rows,
    check_shapes,
    num_outside,
    on_chip_shape,
    plain_sum,
    results_of,
    rounded_to,
    row_sum,
)
from numguard_kernels.sample_tensors import random_rows, sample
from numguard_kernels.spec import Arguments, Case, Compilation, KernelSpec, Limits, case_name
from numguard_kernels.two_float import UNIT_ROUNDOFF_FP32

_U: Final = tl.constexpr(UNIT_ROUNDOFF_FP32)


class CheckedNormGradient(NamedTuple):
    """The gradient with respect to the input of a norm, and what is known about it.

    Attributes
    ----------
    value
        The gradient, in the dtype of the input; the given one where one was given.
    num_wrong
        int32 by row: how many elements are outside their bounds, or not a number; 0 where nothing could be judged.
    """

    value: Tensor
    num_wrong: Tensor


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
    x = widened(tl.load(x_ptr + place, mask=valid, other=0), CODE, False)
    a = widened(tl.load(gradient_ptr + place, mask=valid, other=0), CODE, False)
    if HAS_WEIGHT:
        a *= widened(tl.load(weight_ptr + inside, mask=valid, other=0), CODE, False)
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
    constant, relative = moment_errors(x, mean, variance, deviation, num_columns, eps, growth, CENTERED)
    relative += saved_roundoff
    constant += saved_roundoff * deviation * tl.abs(mean)
    normalized = centered * deviation
    along = row_sum(a * normalized) / num_columns
    mass = plain_sum(tl.abs(a)) / num_columns
    mass_along = plain_sum(tl.abs(a * normalized)) / num_columns
    inner = relative + 12.0 * _U
    along_error = (growth + inner) * mass_along + mass * constant
    row_error = constant * tl.abs(along)
    shadow = a - normalized * along
    if CENTERED:
        offset = row_sum(a) / num_columns
        shadow -= tl.where(valid, offset, 0.0)
        row_error += (growth + 4.0 * _U) * mass + tl.abs(offset) * (relative + 20.0 * _U)
    shadow *= deviation
    slope = along_error + tl.abs(along) * (2.0 * inner + 20.0 * _U)
    error = tl.fma(tl.abs(a), relative + 20.0 * _U, tl.fma(tl.abs(normalized), slope, row_error))
    # Products of first-order errors: of the deviation with any other, and of the sums.
    second_order = 1.0078125 + 4.0 * (relative + growth)
    scaling = deviation * second_order * (1.0 + UNIT)
    bound = tl.fma(error, scaling, tl.fma(tl.abs(shadow), UNIT, SMALLEST))
    num_wrong = num_outside(tl.abs(widened(stored, CODE, False) - shadow), bound)
    judged = (relative < 0.125) & (variance < float("inf")) & (mass < float("inf"))
    tl.store(num_wrong_ptr + row, tl.where(judged, num_wrong, 0))


def checked_norm_gradient(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None = None,
    *,
    eps: float = 1e-5,
    is_centered: bool = True,
    computed: Tensor | None = None,
    saved: torch.dtype = torch.float32,
) -> CheckedNormGradient:
    """Return the gradient with respect to the input of a norm over the last dimension and its verdict, from one read.

    The gradients of weight and bias are sums over rows: :func:`~numguard_kernels.statistics.tensor_statistics` and
    :func:`~numguard_kernels.summation.checked_sum` are for these.

    Parameters
    ----------
    gradient, x
        Of the output, and the input: float32, float16 or bfloat16 of one shape ``[..., n]``, ``1 <= n <= 8192``.
    weight
        Of shape ``[n]`` and the same dtype.
    eps, is_centered
        As of :func:`~numguard_kernels.norms.checked_norm`.
    computed
        The result of another implementation, of the shape and dtype of ``x``: then this is judged, and none is formed.
    saved
        In which dtype that implementation keeps mean and deviation from the forward pass; torch's layer norm on the
        CPU keeps them in that of a 16-bit input and weight.

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
    First-order propagation of the errors of mean and deviation
    (:func:`~numguard_kernels.row_moments.moment_errors`) and of the two sums over the row, each on a tree of known
    height (Higham, ASNA 2nd ed., sections 3.1 and 4.2).
    """
    form, tile, num_threads = prepared("checked_norm_gradient", x, weight=weight)
    check_shapes("checked_norm_gradient", x.shape, gradient=gradient, computed=computed)
    device = require_alike("checked_norm_gradient", gradient, x, weight, computed)
    rows = as_rows(x, form)
    value = results_of(computed, x, x.shape)
    num_wrong = torch.empty(x.shape[:-1], dtype=torch.int32, device=device)
    if rows.shape[0]:
        launch(
            norm_gradient_on_chip,
            (rows.shape[0],),
            rows,
            as_rows(gradient, form),
            rows if weight is None else form.stored(weight.detach().contiguous()),
            form.stored(value),
            num_wrong,
            rows.shape[1],
            eps,
            growth_of(rows.shape[1]),
            torch.finfo(saved).eps / 2,
            CODE=form.code,
            GIVEN=computed is not None,
            CENTERED=is_centered,
            HAS_WEIGHT=weight is not None,
            **rounding_constants(x.dtype),
            **tile,
            num_threads=num_threads,
            device=device,
        )
    return CheckedNormGradient(value, num_wrong)


def reference_norm_gradient(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None = None,
    *,
    eps: float = 1e-5,
    is_centered: bool = True,
    computed: Tensor | None = None,
    saved: torch.dtype = torch.float32,
) -> CheckedNormGradient:
    """Return the same from plain torch in float64, the value rounded once."""
    del saved
    exact, scale = _exact(gradient, x, weight, eps, is_centered)
    value = exact.to(torch.float32).to(x.dtype) if computed is None else computed
    outside = exact.isfinite().all(-1, keepdim=True) & ~((value.double() - exact).abs() <= _allowed(exact, scale, x))
    return CheckedNormGradient(value, outside.sum(-1, dtype=torch.int32))


def _exact(gradient: Tensor, x: Tensor, weight: Tensor | None, eps: float, is_centered: bool) -> tuple[Tensor, Tensor]:
    """Return the gradient in float64 and the size of what is subtracted on the way."""
    wide = x.double()
    a = gradient.double() * (1.0 if weight is None else weight.double())
    mean = wide.mean(-1, keepdim=True) if is_centered else torch.zeros_like(wide[..., :1])
    deviation = ((wide - mean).square().mean(-1, keepdim=True) + eps).rsqrt()
    normalized = (wide - mean) * deviation
    along = (a * normalized).mean(-1, keepdim=True)
    exact = deviation * (a - normalized * along - (a.mean(-1, keepdim=True) if is_centered else 0.0))
    largest = normalized.abs().amax(-1, keepdim=True) + 1.0 + mean.abs() * deviation
    return exact, deviation * a.abs().amax(-1, keepdim=True) * (1.0 + largest.square())


def _allowed(exact: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """What rounding explains, for rows whose mean is not far larger than their deviation."""
    output = torch.finfo(x.dtype)
    return (16.0 * growth_of(x.shape[-1]) * scale + output.eps * exact.abs() + output.tiny).nan_to_num(0.0)


def _tolerance(
    expected: CheckedNormGradient, gradient: Tensor, x: Tensor, weight: Tensor | None = None, **options: Any
) -> dict[str, Any]:
    exact, scale = _exact(gradient, x, weight, options.get("eps", 1e-5), options.get("is_centered", True))
    return {"value": 2.0 * _allowed(exact, scale, x)}


def _case(dtype: torch.dtype, content: str, shape: tuple[int, ...], **how: Any) -> Case:
    def make(device: torch.device) -> Arguments:
        x = sample(shape, dtype, "ordinary") + 0.25
        gradient = sample(shape, dtype, content, seed=3)
        weight = sample(shape[-1:], dtype, seed=1)
        options: dict[str, Any] = {"is_centered": how.get("is_centered", True)}
        if "given" in how:
            given = reference_norm_gradient(gradient, x, weight, **options).value.clone()
            given[1, 3] += 0.5 if how["given"] == "wrong" else 0.0
            options["computed"] = given.to(device)
        vectors = () if how.get("plain") else (weight.to(device),)
        return (gradient.to(device), x.to(device), *vectors), options

    return Case(name=case_name(dtype, content, shape, **how), make=make)


def _cases() -> tuple[Case, ...]:
    contents = ("ordinary", "cancelling", "subnormal", "zeros", "infinite", "nan")
    found = [_case(dtype, content, (3, 37)) for dtype in ROW_DTYPES for content in contents]
    found += [_case(dtype, "ordinary", (3, 37), is_centered=False) for dtype in ROW_DTYPES]
    found += [_case(dtype, "ordinary", (3, 40), given=given) for dtype in ROW_DTYPES for given in ("right", "wrong")]
    found += [_case(torch.bfloat16, "ordinary", (2, size), plain=True) for size in (1, 8, 9, 300)]
    found.append(_case(torch.float32, "ordinary", (0, 5)))
    return tuple(found)


def _compilation(
    dtype: torch.dtype, columns: int, limits: Limits, reason: str = "", *, is_layer: bool = True
) -> Compilation:
    form = ELEMENT_FORMATS[dtype]
    return row_compilation(
        f"{'layer' if is_layer else 'rms'} {form.name}, {columns}",
        norm_gradient_on_chip,
        form,
        limits,
        shape=on_chip_shape(columns, form),
        stored=("x_ptr", "gradient_ptr", "weight_ptr", "value_ptr"),
        types={"num_wrong_ptr": "*i32", "eps": "fp32", "growth": "fp32", "saved_roundoff": "fp32"},
        constants={"GIVEN": False, "CENTERED": is_layer, "HAS_WEIGHT": True, **rounding_constants(dtype)},
        num_accesses=3,
        reason=reason,
    )


def _benchmark(num_elements: int, dtype: torch.dtype, device: torch.device) -> Arguments:
    x = random_rows(num_elements, 4096, dtype, device)
    return (torch.randn_like(x), x, torch.ones_like(x[0])), {}


_REASON: Final = "four sums over the row are formed twice, for four bytes read and two written"
SPEC: Final = KernelSpec(
    name="checked_norm_gradient",
    launcher=checked_norm_gradient,
    reference=reference_norm_gradient,
    tolerance=_tolerance,
    cases=_cases(),
    compilations=(
        _compilation(torch.bfloat16, 4096, Limits(instructions_per_element=80.69, registers=177), _REASON),
        # Registers: 168 by Triton 3.7, 180 by 3.9.
        _compilation(torch.float32, 4096, Limits(instructions_per_element=74.29, registers=189)),
        _compilation(
            torch.bfloat16, 4096, Limits(instructions_per_element=58.38, registers=166), _REASON, is_layer=False
        ),
    ),
    benchmark=_benchmark,
    bytes_moved=lambda gradient, x, *_weight, **_options: 3 * x.numel() * x.element_size(),
    flops=lambda gradient, x, *_weight, **_options: x.numel() * 40,
)
