"""Gradients of the weight and bias of norms that check themselves, or another's, from one read of the rows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from numguard_kernels.availability import require, require_alike
from numguard_kernels.element_formats import ELEMENT_FORMATS, ElementFormat
from numguard_kernels.launching import launch, num_lanes, num_programs
from numguard_kernels.norm_parameter_gradient_bodies import judge_parameter_gradients, sum_parameter_gradients
from numguard_kernels.norms import reference_norm
from numguard_kernels.output_rounding import output_constants
from numguard_kernels.rows import ROW_DTYPES, as_rows, check_row_length, check_shapes, results_of, row_format
from numguard_kernels.sample_tensors import LAYOUTS, random_rows, sample
from numguard_kernels.spec import Arguments, Case, Compilation, KernelSpec, Limits, case_name
from numguard_kernels.two_float import BLOCK_TERMS, UNIT_ROUNDOFF_FP32, blocked_sum_error
from numguard_kernels.weighted_sums import column_shape

_NAME: Final = "checked_norm_parameter_gradient"
NUM_THREADS: Final = 128
#: Rows that are added plainly before each TwoSum.
ROWS_PER_TURN: Final = BLOCK_TERMS


class CheckedParameterGradient(NamedTuple):
    """The gradient of a norm's weight, that of its bias below where it has one, and what is known about them.

    Attributes
    ----------
    value
        Of shape ``[1, n]`` or ``[2, n]``, in the dtype of the input; the given ones where these were given.
    shadow
        float64: the same sums over rows by blocked two-float accumulation; NaN where sums may overflow in fp32, or an
        input is not finite.
    error_bound
        float64: what ``|value - shadow|`` can be for a correct implementation; NaN where the shadow is.
    is_wrong
        bool: outside the bound, or not finite where it had to be.
    """

    value: Tensor
    shadow: Tensor
    error_bound: Tensor
    is_wrong: Tensor


def checked_norm_parameter_gradient(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor | None,
    deviation: Tensor,
    *,
    shift_error: Tensor | None = None,
    scale_error: Tensor | None = None,
    has_bias: bool = True,
    computed: Sequence[Tensor] | None = None,
    height: int | None = None,
    saved: torch.dtype = torch.float32,
    accumulated: torch.dtype = torch.float32,
) -> CheckedParameterGradient:
    """Return the gradients of a norm's weight and bias, sums over all rows, and their verdict, from one read.

    Parameters
    ----------
    gradient, x
        Of the output, and the input: float32, float16 or bfloat16 of one shape ``[..., n]`` with ``n >= 1``.
    mean, deviation
        float32 of shape ``[...]``: means and reciprocals of standard deviations of the rows, as
        :func:`~numguard_kernels.norms.checked_norm` returns them or the implementation kept them. No mean is taken off
        where it is None, as of a root-mean-square norm.
    shift_error, scale_error
        As :func:`~numguard_kernels.norms.checked_norm` returns them, both or neither: needed where the implementation
        that is judged has formed mean and deviation for itself.
    has_bias
        Whether there is a bias.
    computed
        The results of another implementation, the weight's and, if there is one, the bias's, of shape ``[n]`` and the
        dtype of ``x``: then these are judged, and none are formed.
    height
        Of the summation tree over rows of that implementation; :func:`column_height` by default.
    saved
        In which dtype that implementation keeps mean and deviation, or normalized elements and their products.
    accumulated
        In which dtype it adds; torch's layer norm on the CPU does so in that of a 16-bit weight.

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
    With xhat the normalized elements, the result is within ``sum |g| (|xhat| (gamma + t) + d)`` of the shadow before
    its rounding: gamma for the height of its tree, four roundings of a term, and those of the shadow; t and d the
    errors of deviation and mean (Higham, ASNA 2nd ed., sections 3.1 and 4.2). Shares of the rows are added in an order
    that only their number and the device set. Columns whose bound is not finite are not judged.
    """
    moments = {"mean": mean, "deviation": deviation, "shift_error": shift_error, "scale_error": scale_error}
    num_vectors = 2 if has_bias else 1
    form = _checked_format(gradient, x, moments, computed, num_vectors)
    device = require_alike(_NAME, gradient, x, *(computed or ()))
    require(_NAME, device, *(tensor.device for tensor in moments.values() if tensor is not None))
    rows = as_rows(x, form)
    num_rows, num_columns = rows.shape
    given = None if computed is None else torch.stack([tensor.detach() for tensor in computed])
    value = results_of(given, x, (num_vectors, num_columns))
    figures = torch.empty((2, num_vectors, num_columns), dtype=torch.float64, device=device)
    is_wrong = torch.empty((num_vectors, num_columns), dtype=torch.bool, device=device)
    shape, blocks, parts = _cut(x)
    growth = _growth(num_rows, parts, height, None if given is None else accumulated)
    floats = torch.empty((num_vectors, 4, parts, num_columns), dtype=torch.float32, device=device)
    launch(
        sum_parameter_gradients,
        (blocks, parts),
        rows,
        as_rows(gradient, form),
        *((deviation if tensor is None else tensor).detach().float().contiguous() for tensor in moments.values()),
        floats,
        num_rows,
        num_columns,
        growth,
        1.0 + growth,
        _roundoff(saved),
        CODE=form.code,
        GIVEN=given is not None,
        CENTERED=mean is not None,
        HAS_BIAS=has_bias,
        HAS_ERRORS=shift_error is not None,
        **shape,
        ROWS=ROWS_PER_TURN,
        num_threads=NUM_THREADS,
        device=device,
    )
    launch(
        judge_parameter_gradients,
        (-(-num_columns // NUM_THREADS), num_vectors),
        floats,
        form.stored(value),
        figures,
        is_wrong,
        parts,
        num_columns,
        growth,
        _slack_factor(num_rows, parts),
        num_rows * 2.0**-126,
        CODE=form.code,
        GIVEN=given is not None,
        **output_constants(x.dtype),
        THREADS=NUM_THREADS,
        num_threads=NUM_THREADS,
        device=device,
    )
    return CheckedParameterGradient(value, figures[0], figures[1], is_wrong)


def _checked_format(
    gradient: Tensor,
    x: Tensor,
    moments: Mapping[str, Tensor | None],
    computed: Sequence[Tensor] | None,
    num_vectors: int,
) -> ElementFormat:
    """Return how the elements are read, after everything that was given has been looked at."""
    form = row_format(x, _NAME)
    check_row_length(_NAME, x)
    check_shapes(_NAME, x.shape, gradient=gradient)
    check_shapes(_NAME, x.shape[:-1], **moments)
    if (moments["shift_error"] is None) is not (moments["scale_error"] is None):
        raise ValueError(f"{_NAME} got one of shift_error and scale_error: give it both, or neither")
    if computed is not None and len(computed) != num_vectors:
        raise ValueError(
            f"{_NAME} got {len(computed)} results to judge: give it {num_vectors}, the weight's "
            f"{'and the bias' if num_vectors == 2 else 'alone, or has_bias=True'}"
        )
    check_shapes(_NAME, x.shape[-1:], **{f"computed[{number}]": entry for number, entry in enumerate(computed or ())})
    return form


def _cut(x: Tensor) -> tuple[dict[str, int], int, int]:
    """Return the shape of a tile, the blocks of columns, and the shares of the rows."""
    num_rows, num_columns = math.prod(x.shape[:-1]), x.shape[-1]
    shape = column_shape(num_columns, num_lanes(NUM_THREADS, x.device), ELEMENT_FORMATS[x.dtype].lanes)
    blocks = -(-num_columns // (shape["THREADS"] * shape["LANES"]))
    return shape, blocks, max(1, num_programs(-(-num_rows // ROWS_PER_TURN), x.device) // blocks)


def _growth(num_rows: int, parts: int, height: int | None, judged: torch.dtype | None) -> float:
    """Return :func:`gradient_growth` for what is formed here, or another's, which adds in the dtype that is judged."""
    if judged is None:
        return gradient_growth(num_rows, parts, share_height(num_rows, parts) + parts)
    unit_roundoff = torch.finfo(judged).eps / 2
    return gradient_growth(num_rows, parts, column_height(num_rows) if height is None else height, unit_roundoff)


def _slack_factor(num_rows: int, parts: int) -> float:
    """Return what makes up for the rounding of sums of what rounding explains."""
    return 1.0 + 2.0 * (share_height(num_rows, parts) + 16) * UNIT_ROUNDOFF_FP32


def _roundoff(saved: torch.dtype) -> float:
    """Return what keeping numbers in a dtype costs; nothing beyond the rounding of results in fp32."""
    return 0.0 if saved is torch.float32 else torch.finfo(saved).eps / 2


def share_height(num_rows: int, parts: int) -> int:
    """Return how many rows a program adds at most, one after another."""
    return (-(-num_rows // (ROWS_PER_TURN * parts)) + 1) * ROWS_PER_TURN


def column_height(num_rows: int) -> int:
    """Return the height of the summation trees that a correct kernel may use over the rows of a column.

    Four accumulators or more to a column and a tree above; up to 128 rows may be added one after another, which is
    what torch does with few of them.
    """
    return min(max(1, num_rows), -(-num_rows // 4) + 96)


def shadow_error(num_rows: int, parts: int) -> float:
    """Return the f of ``|shadow - sum| <= f sum|terms|``: of three roundings of a term, blocks and their TwoSums."""
    turns = share_height(num_rows, parts) // ROWS_PER_TURN + ROWS_PER_TURN
    return 3.0 * UNIT_ROUNDOFF_FP32 + blocked_sum_error(turns, 1, terms=ROWS_PER_TURN) + parts * 2.0**-50


def gradient_growth(num_rows: int, parts: int, height: int, unit_roundoff: float = UNIT_ROUNDOFF_FP32) -> float:
    """Return the error of a column's sum relative to its sum of magnitudes, the implementation's and the shadow's.

    Notes
    -----
    ``gamma_(h + 4)`` for the one, infinite where that is meaningless; :func:`shadow_error` for the other.
    """
    steps = (height + 4) * unit_roundoff
    return steps / (1.0 - steps) + shadow_error(num_rows, parts) if steps < 0.5 else float("inf")


def reference_norm_parameter_gradient(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor | None,
    deviation: Tensor,
    *,
    shift_error: Tensor | None = None,
    scale_error: Tensor | None = None,
    has_bias: bool = True,
    computed: Sequence[Tensor] | None = None,
    height: int | None = None,
    saved: torch.dtype = torch.float32,
    accumulated: torch.dtype = torch.float32,
) -> CheckedParameterGradient:
    """Return the same from plain torch in float64, the value rounded once; the bound is the kernel's own."""
    num_columns = x.shape[-1]
    g, wide = (tensor.reshape(-1, num_columns).double() for tensor in (gradient, x))
    row_mean, scale, shift_errors, scale_errors = (
        torch.zeros(g.shape[0], 1, dtype=torch.float64) if tensor is None else tensor.double().reshape(-1, 1)
        for tensor in (mean, deviation, shift_error, scale_error)
    )
    largest = torch.finfo(torch.float32).max
    centered = wide - row_mean
    normalized = torch.where(centered.abs() > largest, centered * math.inf, centered) * scale
    num_rows, parts = g.shape[0], _cut(x)[2]
    growth = _growth(num_rows, parts, height, None if computed is None else accumulated)
    roundoff = _roundoff(saved)
    constant = (2.0**-22 + roundoff) * row_mean.abs() * scale + shift_errors * (1.0 + growth) + 2.0**-126
    relative = growth + 2.0 * roundoff + scale_errors * (1.0 + growth)
    sums = [(g * normalized).sum(0), g.sum(0)]
    explained = [(g.abs() * (normalized.abs() * relative + constant)).sum(0), g.abs().sum(0) * growth]
    exact, slack = (torch.stack(terms[: 2 if has_bias else 1]) for terms in (sums, explained))
    constants = output_constants(x.dtype)
    grown = slack * _slack_factor(num_rows, parts) + num_rows * 2.0**-126
    bound = grown + constants["UNIT"] * (exact.abs() + grown) + constants["SMALLEST"]
    value = exact.to(torch.float32).to(x.dtype) if computed is None else torch.stack(list(computed))
    finite = slack < growth * largest * 0.984375
    judged = finite & (exact.abs() + bound < constants["LARGEST"])
    shadow, bound = (torch.where(finite, figure, torch.nan) for figure in (exact, bound))
    return CheckedParameterGradient(value, shadow, bound, judged & ~((value.double() - exact).abs() <= bound))


def _tolerance(expected: CheckedParameterGradient, gradient: Tensor, *_moments: Any, **_options: Any) -> dict[str, Any]:
    bound = expected.error_bound.nan_to_num(math.nan, math.inf)
    return {
        "value": bound,
        "shadow": bound,
        # Formed in fp32: three roundings of a term, and one for every row.
        "error_bound": bound * ((gradient.shape[:-1].numel() + 24) * 2.0**-23),
    }


def _case(dtype: torch.dtype, content: str, shape: tuple[int, ...], layout: str = "contiguous", **how: Any) -> Case:
    def make(device: torch.device) -> Arguments:
        x = sample(shape, dtype, how.get("x", "ordinary")) + 0.25
        gradient = sample(shape, dtype, content, seed=3)
        forward = reference_norm(x, is_centered=how.get("is_centered", True))
        moments = [forward.mean.to(device) if how.get("is_centered", True) else None, forward.deviation.to(device)]
        options: dict[str, Any] = {"has_bias": how.get("has_bias", True)}
        if how.get("errors"):
            options["shift_error"], options["scale_error"] = (
                forward.shift_error.to(device),
                forward.scale_error.to(device),
            )
            options["saved"] = dtype
        if "given" in how:
            right = reference_norm_parameter_gradient(gradient, x, forward.mean, forward.deviation).value
            if how["given"] == "wrong":
                right[0, 3] += 0.5
                right[1, 2] = math.nan
            options["computed"] = tuple(right.to(device))
        layouts = LAYOUTS[layout]
        return (layouts(gradient.to(device)), layouts(x.to(device)), *moments), options

    return Case(name=case_name(dtype, content, shape, layout, **how), make=make)


def _cases() -> tuple[Case, ...]:
    contents = ("ordinary", "cancelling", "subnormal", "zeros", "infinite", "nan", "both_infinities", "largest")
    found = [_case(dtype, content, (19, 13)) for dtype in ROW_DTYPES for content in contents]
    found += [_case(dtype, "ordinary", (9, 13), x=x) for dtype in ROW_DTYPES for x in contents[2:]]
    found += [_case(dtype, "ordinary", (9, 13), is_centered=False, has_bias=False) for dtype in ROW_DTYPES]
    found += [_case(dtype, "ordinary", (8, 13), given=given) for dtype in ROW_DTYPES for given in ("right", "wrong")]
    found += [_case(dtype, "ordinary", (3, 3, 5), errors=True) for dtype in ROW_DTYPES]
    layouts = ("unaligned", "permuted", "gapped rows", "every second")
    found += [_case(torch.float32, "ordinary", (5, 2, 6), layout) for layout in layouts]
    shapes = ((1, 1), (7, 1), (8, 8), (70, 9), (2, 130), (0, 5))
    found += [_case(torch.bfloat16, "ordinary", shape) for shape in shapes]
    return tuple(found)


def _compilation(
    dtype: torch.dtype,
    limits: Limits,
    additions: float,
    *,
    is_layer: bool = True,
    given: bool = False,
    has_errors: bool = False,
) -> Compilation:
    form = ELEMENT_FORMATS[dtype]
    shape = column_shape(1 << 20, NUM_THREADS, form.lanes)
    floats = ("mean_ptr", "deviation_ptr", "shift_ptr", "scale_ptr", "floats_ptr")
    return Compilation(
        name=f"{'layer' if is_layer else 'rms'} {form.name}{', given' if given else ''}"
        f"{', with errors' if has_errors else ''}",
        function=sum_parameter_gradients,
        signature={
            **dict.fromkeys(("x_ptr", "gradient_ptr"), form.pointer),
            **dict.fromkeys(floats, "*fp32"),
            **dict.fromkeys(("num_rows", "num_columns"), "i32"),
            **dict.fromkeys(("growth", "second_order", "roundoff"), "fp32"),
        },
        constexprs={
            "CODE": form.code,
            "GIVEN": given,
            "CENTERED": is_layer,
            "HAS_BIAS": is_layer,
            "HAS_ERRORS": has_errors,
            **shape,
            "ROWS": ROWS_PER_TURN,
        },
        num_threads=NUM_THREADS,
        elements_per_turn=shape["THREADS"] * shape["LANES"] * ROWS_PER_TURN,
        bytes_per_element=2 * dtype.itemsize,
        divisible=("num_columns",),
        additions_per_element=additions,
        fused_per_element=2.0,
        limits={"sm_90": limits},
    )


def _benchmark(num_elements: int, dtype: torch.dtype, device: torch.device) -> Arguments:
    x = random_rows(num_elements, 4096, dtype, device)
    return (torch.randn_like(x), x, x.float().mean(-1), torch.ones(x.shape[0], device=device)), {}


SPEC: Final = KernelSpec(
    name=_NAME,
    launcher=checked_norm_parameter_gradient,
    reference=reference_norm_parameter_gradient,
    tolerance=_tolerance,
    cases=_cases(),
    compilations=(
        _compilation(torch.bfloat16, Limits(instructions_per_element=18.66, registers=169), 8.0),
        _compilation(torch.float32, Limits(instructions_per_element=17.79, registers=109), 8.125),
        _compilation(torch.bfloat16, Limits(instructions_per_element=12.98, registers=125), 3.0, is_layer=False),
        _compilation(
            torch.bfloat16, Limits(instructions_per_element=17.91, registers=254), 6.25, given=True, has_errors=True
        ),
    ),
    benchmark=_benchmark,
    bytes_moved=lambda gradient, x, *_moments, **_options: 2 * x.numel() * x.element_size(),
    flops=lambda gradient, x, *_moments, **_options: x.numel() * 18,
    rivals={
        "torch sums of products": lambda gradient, x, mean, deviation, **_options: (
            (gradient * (x - mean[:, None]) * deviation[:, None]).sum(0),
            gradient.sum(0),
        )
    },
)
