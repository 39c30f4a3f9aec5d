"""A sum that checks itself: the result as any fp32 kernel forms it, and its verdict, from one read."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from numguard_kernels.availability import require
from numguard_kernels.element_formats import ELEMENT_FORMATS, ElementFormat, bf16_bits, element_format, widened
from numguard_kernels.launching import launch, num_lanes, num_programs
from numguard_kernels.output_rounding import output_constants
from numguard_kernels.sample_tensors import CONTENTS, FLOATING_DTYPES, LAYOUTS, random_vector, sample
from numguard_kernels.spec import Arguments, Case, Compilation, KernelSpec, Limits, case_name
from numguard_kernels.strided import reduction_of
from numguard_kernels.two_float import BLOCK_TERMS, add_pairs, blocked_sum_error, rounded_pair, take_in

NUM_THREADS: Final = 256
LOADS_PER_TURN: Final = 8
_PARTS: Final = 64


class CheckedSum(NamedTuple):
    """A sum and what is known about it; every tensor has no dimensions and is on the device of the input.

    Attributes
    ----------
    value
        The sum, in the dtype of the input or the one asked for.
    shadow
        float64: the sum by blocked two-float accumulation of the same elements.
    absolute_sum
        float64, the sum of magnitudes.
    error_bound
        float64: what ``|value - shadow|`` can be for a correct implementation that adds as this one does.
    is_wrong
        bool: outside the bound, or not finite where it had to be.
    """

    value: Tensor
    shadow: Tensor
    absolute_sum: Tensor
    error_bound: Tensor
    is_wrong: Tensor


@triton.jit
def sum_with_shadow(
    x_ptr,
    partials_ptr,
    n,
    CODE: tl.constexpr,
    DOUBLE: tl.constexpr,
    THREADS: tl.constexpr,
    LANES: tl.constexpr,
    TILES: tl.constexpr,
    TILES_PER_BLOCK: tl.constexpr,
):
    """Partial sums of adjacent elements, twice: plainly, element after element, and in blocks that a TwoSum takes in.

    The plain sum shares no addition with the shadow. Every program writes: plain, high, low, magnitudes.
    """
    part = tl.program_id(0)
    num_parts = tl.num_programs(0)
    ACCUMULATOR: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    TILE: tl.constexpr = THREADS * LANES
    TURN: tl.constexpr = TILE * TILES
    inside = tl.arange(0, THREADS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    plain = tl.zeros((THREADS, LANES), ACCUMULATOR)
    high = tl.zeros((THREADS,), ACCUMULATOR)
    low = tl.zeros((THREADS,), ACCUMULATOR)
    total = tl.zeros((THREADS,), ACCUMULATOR)
    num_turns = n // TURN
    for turn in range(part.to(tl.int64), num_turns, num_parts):
        base = x_ptr + turn * TURN
        for block in tl.static_range(TILES // TILES_PER_BLOCK):
            for tile in tl.static_range(TILES_PER_BLOCK):
                x = widened(tl.load(base + (block * TILES_PER_BLOCK + tile) * TILE + inside), CODE, DOUBLE)
                plain += x
                if tile == 0:
                    terms = tl.sum(x, 1)
                    magnitudes = tl.sum(tl.abs(x), 1)
                else:
                    terms += tl.sum(x, 1)
                    magnitudes += tl.sum(tl.abs(x), 1)
            high, low = take_in(high, low, terms)
            total += magnitudes
    num_left = n - num_turns * TURN
    for tile in range(part, tl.cdiv(num_left, TILE), num_parts):
        valid = tile * TILE + inside < num_left
        stored = tl.load(x_ptr + num_turns * TURN + tile * TILE + inside, mask=valid, other=0)
        x = tl.where(valid, widened(stored, CODE, DOUBLE), 0.0)
        plain += x
        high, low = take_in(high, low, tl.sum(x, 1))
        total += tl.sum(tl.abs(x), 1)
    high, low = tl.reduce((high, low), 0, add_pairs)
    tl.store(partials_ptr + part, tl.sum(tl.sum(plain, 1), 0))
    tl.store(partials_ptr + num_parts + part, high)
    tl.store(partials_ptr + 2 * num_parts + part, low)
    tl.store(partials_ptr + 3 * num_parts + part, tl.sum(total, 0))


@triton.jit
def finish_checked_sum(
    partials_ptr,
    value_ptr,
    figures_ptr,
    is_wrong_ptr,
    num_parts,
    forward_factor,
    own_factor,
    UNIT: tl.constexpr,
    SMALLEST: tl.constexpr,
    LARGEST: tl.constexpr,
    TO_BF16: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Add the partial sums, round the result to its dtype, and judge it: one program."""
    plain = tl.zeros((PARTS,), partials_ptr.dtype.element_ty)
    high = tl.zeros((PARTS,), tl.float64)
    low = tl.zeros((PARTS,), tl.float64)
    total = tl.zeros((PARTS,), tl.float64)
    for first in range(0, num_parts, PARTS):
        parts = first + tl.arange(0, PARTS)
        valid = parts < num_parts
        plain += tl.load(partials_ptr + parts, mask=valid, other=0.0)
        upper = tl.load(partials_ptr + num_parts + parts, mask=valid, other=0.0).to(tl.float64)
        lower = tl.load(partials_ptr + 2 * num_parts + parts, mask=valid, other=0.0).to(tl.float64)
        high, low = add_pairs(high, low, upper, tl.where(tl.abs(upper) < float("inf"), lower, 0.0))
        total += tl.load(partials_ptr + 3 * num_parts + parts, mask=valid, other=0.0).to(tl.float64)
    high, low = tl.reduce((high, low), 0, add_pairs)
    shadow = rounded_pair(high, low)
    absolute = tl.sum(total, 0)
    own = absolute * own_factor + tl.abs(shadow) * 4.440892098500626e-16
    native = tl.sum(plain, 0)
    if TO_BF16:  # over fp32, which rounds sums of float64 once more
        rounded = bf16_bits(native.to(tl.float32))
        computed = (rounded.to(tl.uint32) << 16).to(tl.float32, bitcast=True).to(tl.float64)
        own += tl.abs(shadow) * 5.9604644775390625e-08
    else:
        rounded = native.to(value_ptr.dtype.element_ty)
        computed = rounded.to(tl.float64)
    tl.store(value_ptr, rounded)
    grown = absolute * forward_factor * 1.00390625
    bound = grown + UNIT * (tl.abs(shadow) + grown + own) + SMALLEST + own
    difference = tl.abs(computed - shadow)
    # A shadow or sum of magnitudes that is not finite, or a result that may overflow, is not judged.
    judged = (absolute + bound < LARGEST) & (tl.abs(shadow) < float("inf"))
    tl.store(figures_ptr, shadow)
    tl.store(figures_ptr + 1, absolute)
    tl.store(figures_ptr + 2, bound)
    tl.store(is_wrong_ptr, judged & ~(difference <= bound))


def checked_sum(x: Tensor, *, dtype: torch.dtype | None = None) -> CheckedSum:
    """Return the sum of all elements and its verdict, from one read; nothing synchronises with the host.

    Parameters
    ----------
    x
        Any real floating-point dtype. One without gaps is read as it lies in memory, another is copied first.
    dtype
        Of the result; the input's own by default, float32 for 8-bit inputs.

    Raises
    ------
    TypeError
        For a dtype that is not a real floating-point one.
    KernelUnavailable
        Where the kernels cannot run on the device.

    Notes
    -----
    The result is formed like that of any fp32 kernel (fp64 for fp64): every lane adds its elements one after another,
    then lanes and programs add up in trees; its height h is known, and ``|value - sum x| <= h u sum|x|`` before the
    output is rounded (Higham, ASNA 2nd ed., section 4.2). The verdict is that of
    :func:`~numguard_kernels.verdicts.publish_verdict`, with the blocked two-float sum as the shadow.
    """
    form = element_format(x.dtype, "checked_sum")
    device = require("checked_sum", x.device)
    dtype = dtype or (torch.float32 if x.element_size() == 1 else x.dtype)
    if not dtype.is_floating_point or dtype.itemsize == 1:
        raise TypeError(f"checked_sum rounds to float64, float32, float16 or bfloat16, and {dtype} was asked for")
    x = x.detach()
    run = form.stored(x if reduction_of(x, None).is_dense else x.contiguous()).as_strided((x.numel(),), (1,))
    constants = loop_constants(form, num_lanes(NUM_THREADS, device))
    turn = constants["THREADS"] * constants["LANES"] * constants["TILES"]
    parts = num_programs(-(-run.numel() // turn), device)
    partials = torch.empty((4, parts), dtype=form.accumulator, device=device)
    launch(
        sum_with_shadow,
        (parts,),
        run,
        partials,
        run.numel(),
        CODE=form.code,
        DOUBLE=form.is_double,
        **constants,
        num_threads=NUM_THREADS,
        device=device,
    )
    value = torch.empty((), dtype=dtype, device=device)
    figures = torch.empty(3, dtype=torch.float64, device=device)
    is_wrong = torch.empty((), dtype=torch.bool, device=device)
    forward, own = error_factors(form, constants, run.numel(), parts)
    launch(
        finish_checked_sum,
        (1,),
        partials,
        value.view(torch.uint16) if dtype is torch.bfloat16 else value,
        figures,
        is_wrong,
        parts,
        forward * (1.0 + 2.0**-20),  # it arrives in fp32
        own * (1.0 + 2.0**-20),
        **output_constants(dtype),
        TO_BF16=dtype is torch.bfloat16,
        PARTS=_PARTS if device.type == "cuda" else 2,
        num_threads=32,
        device=device,
    )
    return CheckedSum(value, figures[0], figures[1], figures[2], is_wrong)


def loop_constants(form: ElementFormat, threads: int = NUM_THREADS) -> dict[str, int]:
    """Return the shape of the loop: 16 bytes a thread and load."""
    per_block = max(1, BLOCK_TERMS // form.lanes)
    return {"THREADS": threads, "LANES": form.lanes, "TILES": LOADS_PER_TURN, "TILES_PER_BLOCK": per_block}


def error_factors(form: ElementFormat, constants: dict[str, int], count: int, parts: int) -> tuple[float, float]:
    """Return the factors of ``sum|x|`` that bound the error of the plain sum and of the shadow."""
    turn = constants["THREADS"] * constants["LANES"] * constants["TILES"]
    loads = (-(-count // (turn * parts)) + 1) * constants["TILES"]
    lanes = constants["THREADS"] * constants["LANES"]
    height = loads + math.ceil(math.log2(lanes)) + -(-parts // 2) + math.ceil(math.log2(_PARTS))
    terms = constants["LANES"] * constants["TILES_PER_BLOCK"]
    own = blocked_sum_error(loads, constants["THREADS"], terms=terms, unit_roundoff=form.unit_roundoff)
    # The sum of magnitudes that both factors multiply is itself rounded, by no more than the plain sum is.
    return height * form.unit_roundoff * (1.0 + height * 2.0**-22), own + 2.0**-75


def reference_sum(x: Tensor, *, dtype: torch.dtype | None = None) -> CheckedSum:
    """Return the same from plain torch, the value rounded once from the float64 sum; the bound is the kernel's own."""
    dtype = dtype or (torch.float32 if x.element_size() == 1 else x.dtype)
    wide = x.to(torch.float64)
    total = wide.sum()
    return CheckedSum(
        total.to(dtype), total, wide.abs().sum(), torch.zeros_like(total), torch.tensor(False, device=x.device)
    )


def _tolerance(expected: CheckedSum, x: Tensor, *, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Both sums within their bounds; the reference's own within ``n u`` in float64."""
    form = ELEMENT_FORMATS[x.dtype]
    constants = loop_constants(form, num_lanes(NUM_THREADS, x.device))
    turn = constants["THREADS"] * constants["LANES"] * constants["TILES"]
    forward, own = error_factors(form, constants, x.numel(), num_programs(-(-x.numel() // turn), x.device))
    in_range = expected.absolute_sum < torch.finfo(form.accumulator).max / 2
    absolute = torch.where(in_range | expected.absolute_sum.isnan(), expected.absolute_sum, math.inf)
    output = torch.finfo(expected.value.dtype)
    reference = absolute * x.numel() * 2.0**-53
    value = absolute * forward * 1.01 + reference + output.eps * expected.shadow.abs() + output.tiny * output.eps
    if not bool(expected.shadow.abs() + value < output.max):
        value = torch.tensor(math.inf)
    return {
        "value": value,
        "shadow": absolute * own + reference,
        "absolute_sum": absolute * forward,
        "error_bound": math.inf,
    }


def _case(
    dtype: torch.dtype,
    content: str,
    shape: Sequence[int],
    layout: str = "contiguous",
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Case:
    def make(device: torch.device) -> Arguments:
        return (LAYOUTS[layout](sample(tuple(shape), dtype, content).to(device)),), dict(options)

    return Case(name=case_name(dtype, content, shape, layout), make=make)


def _cases() -> tuple[Case, ...]:
    found = [_case(dtype, content, (211,)) for dtype in FLOATING_DTYPES for content in CONTENTS]
    found += [_case(torch.bfloat16, "ordinary", (3, 5, 9), layout) for layout in LAYOUTS if layout != "contiguous"]
    found += [_case(torch.float32, "cancelling", (size,)) for size in (0, 1, 2, 63, 64, 65, 1000)]
    found.append(_case(torch.bfloat16, "ordinary", (212,), options={"dtype": torch.float32}))
    return tuple(found)


def _compilation(dtype: torch.dtype, limits: Limits) -> Compilation:
    form = ELEMENT_FORMATS[dtype]
    constants = loop_constants(form)
    return Compilation(
        name=form.name,
        function=sum_with_shadow,
        signature={"x_ptr": form.pointer, "partials_ptr": form.accumulator_pointer, "n": "i64"},
        constexprs={"CODE": form.code, "DOUBLE": form.is_double, **constants},
        num_threads=NUM_THREADS,
        elements_per_turn=constants["THREADS"] * constants["LANES"] * constants["TILES"],
        bytes_per_element=dtype.itemsize,
        additions_per_element=3.75,
        limits={"sm_90": limits},
    )


SPEC: Final = KernelSpec(
    name="checked_sum",
    launcher=checked_sum,
    reference=reference_sum,
    tolerance=_tolerance,
    cases=_cases(),
    compilations=(
        _compilation(torch.float32, Limits(instructions_per_element=4.73, registers=34)),
        _compilation(torch.bfloat16, Limits(instructions_per_element=6.07, registers=42)),
    ),
    benchmark=lambda num_elements, dtype, device: ((random_vector(num_elements, dtype, device),), {}),
    bytes_moved=lambda x, **_options: x.numel() * x.element_size(),
    flops=lambda x, **_options: x.numel() * 4,
    rivals={
        "torch.sum": lambda x, **_options: x.sum(),
        "torch.sum and float64": lambda x, **_options: (x.sum(), x.double().sum()),
    },
)
