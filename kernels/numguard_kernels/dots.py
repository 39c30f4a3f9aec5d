"""Inner products with the exact error of every product and every sum."""

import math
from typing import Any, Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from numguard_kernels.accumulators import ABSOLUTE_SUM, SUM
from numguard_kernels.availability import require
from numguard_kernels.element_formats import ELEMENT_FORMATS, element_format, widened
from numguard_kernels.launching import launch, num_lanes, num_programs
from numguard_kernels.sample_tensors import CONTENTS, LAYOUTS, random_vector, sample
from numguard_kernels.spec import Arguments, Case, Compilation, KernelSpec, Limits, case_name
from numguard_kernels.statistics_bodies import combine_partials
from numguard_kernels.two_float import add_pairs, take_in, two_product

NUM_THREADS: Final = 256
_PARTS: Final = 64
_DTYPES: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class CompensatedDot(NamedTuple):
    """An inner product as an unevaluated pair, on the device of the inputs.

    Attributes
    ----------
    dot, dot_low
        float64: ``dot + dot_low`` is the value.
    absolute_sum
        float64, the sum of the magnitudes of the products.
    relative_error
        The f of ``|dot + dot_low - exact| <= f * absolute_sum``, beside what underflows in products.
    """

    dot: Tensor
    dot_low: Tensor
    absolute_sum: Tensor
    relative_error: float = 0.0


@triton.jit
def dot_runs(
    x_ptr,
    y_ptr,
    floats_ptr,
    n,
    CODE: tl.constexpr,
    DOUBLE: tl.constexpr,
    THREADS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Partial inner products of adjacent elements: high, low, and the sum of magnitudes, in the planes of a scratch."""
    part = tl.program_id(0)
    num_parts = tl.num_programs(0)
    ACCUMULATOR: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    TILE: tl.constexpr = THREADS * LANES
    inside = tl.arange(0, THREADS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    high = tl.zeros((THREADS, LANES), ACCUMULATOR)
    low = tl.zeros((THREADS, LANES), ACCUMULATOR)
    total = tl.zeros((THREADS,), ACCUMULATOR)
    num_turns = n // TILE
    for turn in range(part.to(tl.int64), num_turns, num_parts):
        x = widened(tl.load(x_ptr + turn * TILE + inside), CODE, DOUBLE)
        y = widened(tl.load(y_ptr + turn * TILE + inside), CODE, DOUBLE)
        product, error = two_product(x, y)
        high, low = take_in(high, low, product)
        low += error
        total += tl.sum(tl.abs(product), 1)
    if part == num_turns % num_parts:
        offset = num_turns * TILE + inside
        x = widened(tl.load(x_ptr + offset, mask=offset < n, other=0), CODE, DOUBLE)
        y = widened(tl.load(y_ptr + offset, mask=offset < n, other=0), CODE, DOUBLE)
        product, error = two_product(x, y)
        high, low = take_in(high, low, product)
        low += error
        total += tl.sum(tl.abs(product), 1)
    high, low = tl.reduce(tl.reduce((high, low), 1, add_pairs), 0, add_pairs)
    tl.store(floats_ptr + part, high)
    tl.store(floats_ptr + num_parts + part, low)
    tl.store(floats_ptr + 2 * num_parts + part, tl.sum(total, 0))


def compensated_dot(x: Tensor, y: Tensor) -> CompensatedDot:
    """Return the inner product of two tensors as if in twice the precision, rounded twice; no host synchronisation.

    Parameters
    ----------
    x, y
        float64, float32, float16 or bfloat16, of one dtype and shape; one with gaps is copied.

    Raises
    ------
    TypeError
        For other dtypes, and different ones.
    ValueError
        For different shapes.
    KernelUnavailable
        Where the kernels cannot run on the device.

    Notes
    -----
    Dot2 (Ogita, Rump, Oishi, SIAM J. Sci. Comput. 26, 2005, section 5), in lanes that are joined by pairwise two-float
    additions: the error is at most ``(t + 2 log2 lanes)**2 u**2`` of the sum of magnitudes, twice, for t products a
    lane. Products of 16-bit numbers are exact in fp32; products below 2**-102 of fp32 ones may lose their own errors.
    """
    if x.dtype is not y.dtype or x.dtype not in _DTYPES:
        raise TypeError(
            f"compensated_dot got {x.dtype} and {y.dtype}: give two of float64, float32, float16 or bfloat16, alike"
        )
    if x.shape != y.shape:
        raise ValueError(f"compensated_dot got shapes {tuple(x.shape)} and {tuple(y.shape)}: give it equal ones")
    form = element_format(x.dtype, "compensated_dot")
    device = require("compensated_dot", x.device, y.device)
    shape = {"THREADS": num_lanes(NUM_THREADS, device), "LANES": form.lanes}
    tile = shape["THREADS"] * shape["LANES"]
    parts = num_programs(-(-x.numel() // tile), device)
    floats = torch.empty((5, parts), dtype=form.accumulator, device=device)
    operands = [form.stored(tensor.detach().contiguous()) for tensor in (x, y)]
    launch(
        dot_runs,
        (parts,),
        *operands,
        floats,
        x.numel(),
        CODE=form.code,
        DOUBLE=form.is_double,
        **shape,
        num_threads=NUM_THREADS,
        device=device,
    )
    values = torch.empty((5, 1), dtype=torch.float64, device=device)
    combine(floats, values, 1, parts, device)
    return CompensatedDot(values[0, 0], values[1, 0], values[2, 0], dot_error(x.numel(), tile, parts, x.dtype))


def combine(floats: Tensor, values: Tensor, num_kept: int, parts: int, device: torch.device) -> None:
    """Combine partial pairs and magnitudes of every kept position into the first three planes of ``values``."""
    emulated = device.type != "cuda"
    rows = 1 if num_kept == 1 else 8
    launch(
        combine_partials,
        (-(-num_kept // rows),),
        floats,
        floats,
        values,
        values,
        num_kept,
        parts,
        NEEDS=SUM.value | ABSOLUTE_SUM.value,
        ROWS=rows,
        PARTS=2 if emulated else _PARTS,
        num_threads=128,
        device=device,
    )


def dot_error(count: int, lanes: int, parts: int, dtype: torch.dtype) -> float:
    """Return the factor f of the sum of magnitudes that bounds the error of a compensated inner product."""
    form = ELEMENT_FORMATS[dtype]
    turns = -(-count // (lanes * parts)) + 1
    # A lane adds two numbers to its low part in every turn: the error of the product and that of the sum.
    height = 2 * turns + 2 * math.ceil(math.log2(max(2, lanes * parts)))
    unit = form.unit_roundoff
    # The sum of magnitudes is rounded itself; the pairs are combined and normalized in fp64.
    return 2.0 * (height * unit) ** 2 * (1.0 + height * 2.0**-20) + 2.0**-102 + (2.0**-53 * unit if parts > 1 else 0.0)


def reference_dot(x: Tensor, y: Tensor) -> CompensatedDot:
    """Return the same from plain torch in float64."""
    products = x.double() * y.double()
    total = products.sum()
    return CompensatedDot(total, torch.zeros_like(total), products.abs().sum())


def _tolerance(expected: CompensatedDot, x: Tensor, y: Tensor) -> dict[str, Any]:
    form = ELEMENT_FORMATS[x.dtype]
    in_range = expected.absolute_sum < torch.finfo(form.accumulator).max / 2
    mass = torch.where(in_range | expected.absolute_sum.isnan(), expected.absolute_sum, math.inf)
    reference = mass * (x.numel() + 1) * 2.0**-53
    underflow = x.numel() * torch.finfo(form.accumulator).tiny * 2.0**-20
    return {
        "dot": mass * dot_error(x.numel(), 1, 1, x.dtype) + reference + underflow,
        "dot_low": math.inf,  # compared with exact sums elsewhere: this reference has none
        "absolute_sum": mass * (x.numel() + 20) * form.unit_roundoff + underflow,
        "relative_error": math.inf,
    }


def _case(dtype: torch.dtype, content: str, shape: tuple[int, ...], layout: str = "contiguous") -> Case:
    def make(device: torch.device) -> Arguments:
        x, y = sample(shape, dtype, content), sample(shape, dtype, "ordinary", seed=1)
        return (LAYOUTS[layout](x.to(device)), y.to(device)), {}

    return Case(name=case_name(dtype, content, shape, layout), make=make)


def _cases() -> tuple[Case, ...]:
    found = [_case(torch.float32, content, (37,)) for content in CONTENTS]
    found += [_case(dtype, content, (35,)) for dtype in _DTYPES for content in ("cancelling", "both_infinities")]
    found += [_case(torch.bfloat16, "ordinary", (3, 3, 5), layout) for layout in LAYOUTS if layout != "contiguous"]
    found += [_case(torch.float32, "cancelling", (size,)) for size in (0, 1, 7, 8, 9)]
    return tuple(found)


def _compilation(dtype: torch.dtype, limits: Limits) -> Compilation:
    form = ELEMENT_FORMATS[dtype]
    shape = {"THREADS": NUM_THREADS, "LANES": form.lanes}
    return Compilation(
        name=form.name,
        function=dot_runs,
        signature={"x_ptr": form.pointer, "y_ptr": form.pointer, "floats_ptr": form.accumulator_pointer, "n": "i64"},
        constexprs={"CODE": form.code, "DOUBLE": form.is_double, **shape},
        num_threads=NUM_THREADS,
        elements_per_turn=shape["THREADS"] * shape["LANES"],
        bytes_per_element=2 * dtype.itemsize,
        additions_per_element=9.0,
        fused_per_element=1.0,
        limits={"sm_90": limits},
    )


def _benchmark(num_elements: int, dtype: torch.dtype, device: torch.device) -> Arguments:
    return tuple(random_vector(num_elements, dtype, device) for _ in range(2)), {}


SPEC: Final = KernelSpec(
    name="compensated_dot",
    launcher=compensated_dot,
    reference=reference_dot,
    tolerance=_tolerance,
    cases=_cases(),
    compilations=(
        _compilation(torch.float32, Limits(instructions_per_element=17.85, registers=34)),
        _compilation(torch.bfloat16, Limits(instructions_per_element=18.77, registers=42)),
    ),
    benchmark=_benchmark,
    bytes_moved=lambda x, y: x.numel() * (x.element_size() + y.element_size()),
    flops=lambda x, y: x.numel() * 12,
    dtypes=(torch.float32, torch.bfloat16),
    rivals={
        "torch.dot": lambda x, y: torch.dot(x, y),
        "torch.dot in float64": lambda x, y: torch.dot(x.double(), y.double()),
    },
)
