"""Gradients of layer and root-mean-square norms that check themselves, or another's: rows of any length."""

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from numguard_kernels.availability import require_alike
from numguard_kernels.element_formats import ELEMENT_FORMATS
from numguard_kernels.launching import launch
from numguard_kernels.long_row_moments import TILES_PER_TURN, long_row_errors, long_row_shape
from numguard_kernels.norm_gradient_bodies import norm_gradient_in_two_passes, norm_gradient_on_chip
from numguard_kernels.norms import LONGEST_ON_CHIP
from numguard_kernels.output_rounding import rounding_constants
from numguard_kernels.row_compilations import row_compilation
from numguard_kernels.row_moments import growth_of
from numguard_kernels.rows import (
    ROW_DTYPES,
    as_rows,
    check_row_length,
    check_shapes,
    on_chip_shape,
    results_of,
    row_format,
)
from numguard_kernels.sample_tensors import random_rows, sample
from numguard_kernels.spec import Arguments, Case, Compilation, KernelSpec, Limits, case_name


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


def checked_norm_gradient(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None = None,
    *,
    eps: float = 1e-5,
    is_centered: bool = True,
    computed: Tensor | None = None,
    saved: torch.dtype = torch.float32,
    longest_on_chip: int = LONGEST_ON_CHIP,
) -> CheckedNormGradient:
    """Return the gradient with respect to the input of a norm over the last dimension and its verdict.

    Rows of up to 8192 elements are read once, longer ones twice. The gradients of weight and bias are sums over rows:
    :func:`~numguard_kernels.norm_parameter_gradients.checked_norm_parameter_gradient`.

    Parameters
    ----------
    gradient, x
        Of the output, and the input: float32, float16 or bfloat16 of one shape ``[..., n]`` with ``n >= 1``.
    weight
        Of shape ``[n]`` and the same dtype.
    eps, is_centered
        As of :func:`~numguard_kernels.norms.checked_norm`.
    computed
        The result of another implementation, of the shape and dtype of ``x``: then this is judged, and none is formed.
    saved
        In which dtype that implementation keeps mean and deviation from the forward pass; torch's layer norm on the
        CPU keeps them in that of a 16-bit input and weight.
    longest_on_chip
        Longer rows are read twice instead of being kept in registers.

    Raises
    ------
    TypeError
        For other dtypes.
    ValueError
        For other shapes.
    KernelUnavailable
        Where the kernels cannot run on the device.

    Notes
    -----
    First-order propagation of the errors of mean and deviation
    (:func:`~numguard_kernels.row_moments.moment_errors`) and of the two sums over the row, each on a tree of known
    height (Higham, ASNA 2nd ed., sections 3.1 and 4.2).
    """
    form = row_format(x, "checked_norm_gradient")
    check_row_length("checked_norm_gradient", x)
    check_shapes("checked_norm_gradient", x.shape[-1:], weight=weight)
    check_shapes("checked_norm_gradient", x.shape, gradient=gradient, computed=computed)
    device = require_alike("checked_norm_gradient", gradient, x, weight, computed)
    rows = as_rows(x, form)
    value = results_of(computed, x, x.shape)
    num_wrong = torch.empty(x.shape[:-1], dtype=torch.int32, device=device)
    on_chip = rows.shape[1] <= longest_on_chip
    tile, num_threads = on_chip_shape(rows.shape[1], form) if on_chip else long_row_shape(form, device)
    errors = (growth_of(rows.shape[1]),) if on_chip else long_row_errors(rows.shape[1], tile)
    if rows.shape[0]:
        launch(
            norm_gradient_on_chip if on_chip else norm_gradient_in_two_passes,
            (rows.shape[0],),
            rows,
            as_rows(gradient, form),
            rows if weight is None else form.stored(weight.detach().contiguous()),
            form.stored(value),
            num_wrong,
            rows.shape[1],
            eps,
            *errors,
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
    longest_on_chip: int = LONGEST_ON_CHIP,
) -> CheckedNormGradient:
    """Return the same from plain torch in float64, the value rounded once."""
    del saved, longest_on_chip
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
        if how.get("long"):
            options["longest_on_chip"] = 4
        vectors = () if how.get("plain") else (weight.to(device),)
        return (gradient.to(device), x.to(device), *vectors), options

    return Case(name=case_name(dtype, content, shape, **how), make=make)


def _cases() -> tuple[Case, ...]:
    contents = ("ordinary", "cancelling", "subnormal", "zeros", "infinite", "nan")
    found = [_case(dtype, content, (3, 37)) for dtype in ROW_DTYPES for content in contents]
    found += [_case(dtype, "ordinary", (3, 37), is_centered=False) for dtype in ROW_DTYPES]
    found += [_case(dtype, "ordinary", (3, 40), given=given) for dtype in ROW_DTYPES for given in ("right", "wrong")]
    found += [_case(torch.bfloat16, "ordinary", (2, size), plain=True) for size in (1, 8, 9, 300)]
    found += [_case(dtype, content, (3, 75), long=True) for dtype in ROW_DTYPES for content in contents]
    found += [_case(dtype, "ordinary", (3, 75), long=True, given="wrong") for dtype in ROW_DTYPES]
    found += [_case(dtype, "ordinary", (3, 75), long=True, is_centered=False) for dtype in ROW_DTYPES]
    found += [_case(torch.bfloat16, "ordinary", (2, size), long=True, plain=True) for size in (5, 16, 32, 1000)]
    found.append(_case(torch.float32, "ordinary", (0, 5)))
    return tuple(found)


def _compilation(
    dtype: torch.dtype, columns: int, limits: Limits, reason: str = "", *, is_layer: bool = True
) -> Compilation:
    form = ELEMENT_FORMATS[dtype]
    is_long = columns > LONGEST_ON_CHIP
    errors = ("growth", "own_roundoff") if is_long else ("growth",)
    floats = dict.fromkeys(("eps", *errors, "saved_roundoff"), "fp32")
    return row_compilation(
        f"{'layer' if is_layer else 'rms'} {form.name}, {columns}",
        norm_gradient_in_two_passes if is_long else norm_gradient_on_chip,
        form,
        limits,
        shape=long_row_shape(form) if is_long else on_chip_shape(columns, form),
        stored=("x_ptr", "gradient_ptr", "weight_ptr", "value_ptr"),
        types={"num_wrong_ptr": "*i32", **floats},
        constants={"GIVEN": False, "CENTERED": is_layer, "HAS_WEIGHT": True, **rounding_constants(dtype)},
        num_accesses=3,
        tiles_per_turn=TILES_PER_TURN.value if is_long else 1,
        num_loops=2 if is_long else 1,
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
        _compilation(torch.bfloat16, 131072, Limits(instructions_per_element=71.98, registers=105), _REASON),
        _compilation(torch.float32, 131072, Limits(instructions_per_element=64.05, registers=67)),
    ),
    benchmark=_benchmark,
    bytes_moved=lambda gradient, x, *_weight, **_options: 3 * x.numel() * x.element_size(),
    flops=lambda gradient, x, *_weight, **_options: x.numel() * 40,
)
