"""Layer and root-mean-square norms that check themselves, or another's: rows of any length."""

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from numguard_kernels.availability import require_alike
from numguard_kernels.element_formats import ELEMENT_FORMATS
from numguard_kernels.launching import launch
from numguard_kernels.long_row_moments import TILES_PER_TURN, long_row_errors, long_row_shape
from numguard_kernels.norm_bodies import norm_in_two_passes, norm_on_chip
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
from numguard_kernels.sample_tensors import LAYOUTS, random_rows, sample
from numguard_kernels.spec import Arguments, Case, Compilation, KernelSpec, Limits, case_name

#: Longest row whose norm fits into registers without spilling any.
LONGEST_ON_CHIP: Final = 8192


class CheckedNorm(NamedTuple):
    """A normalized tensor and what is known about it, row by row.

    Attributes
    ----------
    value
        The result, in the dtype of the input; the given one where one was given.
    mean, deviation
        float32, the row's mean (0 for a root-mean-square norm) and the reciprocal of its standard deviation, by the
        shadow.
    shift_error, scale_error
        float32: what the error of the mean adds to that of a normalized element, and the relative error of the
        deviation, of a correct implementation against the shadow; infinite where nothing could be judged.
    num_wrong
        int32, how many elements are outside their bounds, or not a number; 0 where nothing could be judged.
    """

    value: Tensor
    mean: Tensor
    deviation: Tensor
    shift_error: Tensor
    scale_error: Tensor
    num_wrong: Tensor


def checked_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    is_centered: bool = True,
    computed: Tensor | None = None,
    longest_on_chip: int = LONGEST_ON_CHIP,
) -> CheckedNorm:
    """Return the layer norm or root-mean-square norm over the last dimension and its verdict.

    Rows of up to 8192 elements are read once, longer ones twice.

    Parameters
    ----------
    x
        float32, float16 or bfloat16 of shape ``[..., n]`` with ``n >= 1``.
    weight, bias
        Of shape ``[n]`` and the dtype of ``x``.
    eps
        Added to the variance or mean square; positive.
    is_centered
        Whether the mean is taken off: a layer norm, and not a root-mean-square norm.
    computed
        The result of another implementation, of the shape and dtype of ``x``: then this is judged, and none is formed.
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
    With d the error of the mean and t the relative error of the deviation
    (:func:`~numguard_kernels.row_moments.moment_errors`), an element is within
    ``|w| r d + |w xhat| (t + 18 u) + 4 u |b|`` of the shadow before its rounding, for implementations that accumulate
    in fp32 in one, two or more passes; 9 u of it are the shadow's own roundings, and for rows that are read twice its
    moments add what :func:`~numguard_kernels.long_row_moments.shadow_moments` says. Rows whose variance is lost to
    cancellation in such an implementation are not judged.
    """
    form = row_format(x, "checked_norm")
    check_row_length("checked_norm", x)
    check_shapes("checked_norm", x.shape[-1:], weight=weight, bias=bias)
    check_shapes("checked_norm", x.shape, computed=computed)
    device = require_alike("checked_norm", x, weight, bias, computed)
    rows = as_rows(x, form)
    value = results_of(computed, x, x.shape)
    figures = torch.empty((4, *x.shape[:-1]), dtype=torch.float32, device=device)
    num_wrong = torch.empty(x.shape[:-1], dtype=torch.int32, device=device)
    on_chip = rows.shape[1] <= longest_on_chip
    tile, num_threads = on_chip_shape(rows.shape[1], form) if on_chip else long_row_shape(form, device)
    errors = (growth_of(rows.shape[1]),) if on_chip else long_row_errors(rows.shape[1], tile)
    if rows.shape[0]:
        launch(
            norm_on_chip if on_chip else norm_in_two_passes,
            (rows.shape[0],),
            rows,
            *(rows if tensor is None else form.stored(tensor.detach().contiguous()) for tensor in (weight, bias)),
            form.stored(value),
            figures,
            num_wrong,
            rows.shape[1],
            eps,
            *errors,
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
    mean, deviation, shift_error, scale_error = figures
    return CheckedNorm(value, mean, deviation, shift_error, scale_error, num_wrong)


def reference_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    is_centered: bool = True,
    computed: Tensor | None = None,
    longest_on_chip: int = LONGEST_ON_CHIP,
) -> CheckedNorm:
    """Return the same from plain torch in float64, the value rounded once."""
    wide = x.double()
    mean = wide.mean(-1, keepdim=True) if is_centered else torch.zeros_like(wide[..., :1])
    variance = (wide - mean).square().mean(-1, keepdim=True)
    deviation = (variance + eps).rsqrt()
    exact = (wide - mean) * deviation
    exact = exact if weight is None else exact * weight.double()
    exact = exact if bias is None else exact + bias.double()
    value = exact.to(torch.float32).to(x.dtype) if computed is None else computed
    outside = exact.isfinite().all(-1, keepdim=True) & ~(
        (value.double() - exact).abs() <= _allowed(exact, x, weight, mean, deviation)
    )
    figures = mean[..., 0].float(), deviation[..., 0].float()
    errors = _errors(x, mean, variance, eps, is_centered, x.shape[-1] <= longest_on_chip)
    return CheckedNorm(value, *figures, *errors, outside.sum(-1, dtype=torch.int32))


def _errors(
    x: Tensor, mean: Tensor, variance: Tensor, eps: float, is_centered: bool, on_chip: bool
) -> tuple[Tensor, Tensor]:
    """Return the errors of the moments, by the formulas of the kernels."""
    growth, own, spread = growth_of(x.shape[-1]), 0.0, variance
    if not on_chip:
        tile, _ = long_row_shape(ELEMENT_FORMATS[x.dtype], x.device)
        growth, own = long_row_errors(x.shape[-1], tile)
        if is_centered:
            first = x.double()[..., : tile["THREADS"] * tile["LANES"]].mean(-1, keepdim=True)
            spread = variance + (mean - first).square()
    largest = variance + 4.0 * own * spread
    second = largest + mean.square()
    error = growth * (2.0 * largest + 2.0 * (largest * second).sqrt()) + growth**2 * second
    half = 0.5 * (error + 2.0**-22 * largest + 4.0 * own * spread) / (variance + eps)
    scale = half * (1.0 + 5.0 * half)
    shift = (
        growth * x.double().abs().mean(-1, keepdim=True)
        + 2.0**-21 * mean.abs()
        + 1.125 * own * (spread + 2.0**-126).sqrt()
    )
    shift = shift * (variance + eps).rsqrt() if is_centered else torch.zeros_like(mean)
    judged = (scale < 0.125) & (variance <= torch.finfo(torch.float32).max)
    found = torch.where(judged, torch.stack([shift, scale]), torch.inf)[..., 0].float()
    return found[0], found[1]


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
        # Bounds, formed in fp32 from moments that are off by what they bound.
        "shift_error": 2.0**-5 * expected.shift_error.double().nan_to_num(0.0, 0.0, 0.0),
        "scale_error": 2.0**-5 * expected.scale_error.double().nan_to_num(0.0, 0.0, 0.0),
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
        if how.get("long"):
            options["longest_on_chip"] = 4
        return (LAYOUTS[layout](x.to(device)), *vectors), options

    return Case(name=case_name(dtype, content, shape, layout, **how), make=make)


def _cases() -> tuple[Case, ...]:
    contents = ("ordinary", "cancelling", "subnormal", "zeros", "infinite", "nan", "both_infinities")
    found = [_case(dtype, content, (3, 37)) for dtype in ROW_DTYPES for content in contents]
    found += [_case(dtype, "ordinary", (3, 37), is_centered=False, vectors="weight") for dtype in ROW_DTYPES]
    found += [_case(dtype, "ordinary", (3, 40), given=given) for dtype in ROW_DTYPES for given in ("right", "wrong")]
    found += [_case(torch.float32, "ordinary", (2, 19), layout) for layout in ("unaligned", "permuted", "gapped rows")]
    found += [_case(torch.bfloat16, "ordinary", (2, size), vectors="none") for size in (1, 8, 9, 1000)]
    found += [_case(dtype, content, (3, 75), long=True) for dtype in ROW_DTYPES for content in contents]
    found += [_case(dtype, "ordinary", (3, 75), long=True, given="wrong") for dtype in ROW_DTYPES]
    found += [_case(dtype, "ordinary", (3, 75), long=True, is_centered=False, vectors="weight") for dtype in ROW_DTYPES]
    found += [_case(torch.float32, "ordinary", (2, 19), layout, long=True) for layout in ("unaligned", "gapped rows")]
    found += [_case(torch.bfloat16, "ordinary", (2, size), vectors="none", long=True) for size in (5, 16, 32, 1000)]
    found.append(_case(torch.float32, "ordinary", (0, 5)))
    return tuple(found)


def _compilation(
    dtype: torch.dtype, columns: int, limits: Limits, reason: str = "", *, is_layer: bool = True, given: bool = False
) -> Compilation:
    form = ELEMENT_FORMATS[dtype]
    parts = {"CENTERED": is_layer, "HAS_WEIGHT": True, "HAS_BIAS": is_layer}
    is_long = columns > LONGEST_ON_CHIP
    errors = ("growth", "own_roundoff") if is_long else ("growth",)
    return row_compilation(
        f"{'layer' if is_layer else 'rms'} {form.name}, {columns}{', given' if given else ''}",
        norm_in_two_passes if is_long else norm_on_chip,
        form,
        limits,
        shape=long_row_shape(form) if is_long else on_chip_shape(columns, form),
        stored=("x_ptr", "weight_ptr", "bias_ptr", "value_ptr"),
        types={"figures_ptr": "*fp32", "num_wrong_ptr": "*i32", "eps": "fp32", **dict.fromkeys(errors, "fp32")},
        constants={"GIVEN": given, **parts, **rounding_constants(dtype)},
        num_accesses=2,
        tiles_per_turn=TILES_PER_TURN.value if is_long else 1,
        num_loops=2 if is_long else 1,
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
        _compilation(torch.bfloat16, 131072, Limits(instructions_per_element=51.91, registers=63), _REASON),
        _compilation(torch.float32, 131072, Limits(instructions_per_element=45.93, registers=50)),
        _compilation(torch.bfloat16, 131072, Limits(instructions_per_element=34.84, registers=50), is_layer=False),
        _compilation(torch.bfloat16, 131072, Limits(instructions_per_element=34.77, registers=50), given=True),
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
