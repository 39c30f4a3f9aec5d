"""Weighted sums over the rows of a matrix in two-float: what checksums and sampled rows of products are made of."""

import math
from typing import Any, Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from numguard_kernels.availability import require
from numguard_kernels.dots import combine
from numguard_kernels.element_formats import ELEMENT_FORMATS, widened
from numguard_kernels.launching import launch, num_lanes, num_programs
from numguard_kernels.rows import ROW_DTYPES, row_format
from numguard_kernels.sample_tensors import LAYOUTS, sample
from numguard_kernels.spec import Arguments, Case, Compilation, KernelSpec, Limits, case_name
from numguard_kernels.two_float import take_in, two_product

NUM_THREADS: Final = 128
#: Rows that a program takes at a time: that many loads are in flight.
ROWS_PER_TURN: Final = 4


class WeightedColumns(NamedTuple):
    """For every vector of weights and every column; float64 of shape ``[s, n]``, on the device of the matrix.

    Attributes
    ----------
    sum, sum_low
        ``sum + sum_low`` is the sum over rows of weight times element.
    absolute_sum
        The same of magnitudes; of the given magnitudes of weights where these were given.
    relative_error
        The f of ``|sum + sum_low - exact| <= f * absolute_sum``, beside what underflows in products.
    """

    sum: Tensor
    sum_low: Tensor
    absolute_sum: Tensor
    relative_error: float = 0.0


@triton.jit
def sum_weighted_columns(
    x_ptr,
    weights_ptr,
    floats_ptr,
    num_rows,
    num_columns,
    CODE: tl.constexpr,
    HAS_LOW: tl.constexpr,
    THREADS: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Axis 0: columns, a lane of a thread each; axis 1: vectors of weights; axis 2: shares of the rows."""
    columns = tl.program_id(0).to(tl.int64) * (THREADS * LANES)
    columns += tl.arange(0, THREADS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    keep = columns < num_columns
    vector = tl.program_id(1).to(tl.int64)
    num_vectors = tl.num_programs(1)
    part = tl.program_id(2)
    num_parts = tl.num_programs(2)
    # Planes of the weights: high parts, low parts, magnitudes.
    weights_ptr += vector * num_rows
    plane_of_weights = num_vectors.to(tl.int64) * num_rows
    high = tl.zeros((THREADS, LANES), tl.float32)
    low = tl.zeros((THREADS, LANES), tl.float32)
    total = tl.zeros((THREADS, LANES), tl.float32)
    for first in range(part.to(tl.int64) * ROWS, num_rows, num_parts * ROWS):
        for step in tl.static_range(ROWS):
            row = first + step
            inside = row < num_rows
            weight = tl.load(weights_ptr + row, mask=inside, other=0.0)
            magnitude = tl.load(weights_ptr + 2 * plane_of_weights + row, mask=inside, other=0.0)
            # Only the columns need a mask: past the last row the weights are zero and the row is read once more.
            place = x_ptr + tl.minimum(row, num_rows - 1) * num_columns + columns
            x = widened(tl.load(place, mask=keep, other=0), CODE, False)
            x = tl.where(inside, x, 0.0)
            product, error = two_product(weight, x)
            high, low = take_in(high, low, product)
            low += error
            if HAS_LOW:
                low += tl.load(weights_ptr + plane_of_weights + row, mask=inside, other=0.0) * x
            total += magnitude * tl.abs(x)
    place = (part * num_vectors + vector) * num_columns + columns
    plane = num_parts.to(tl.int64) * num_vectors * num_columns
    tl.store(floats_ptr + place, high, mask=keep)
    tl.store(floats_ptr + plane + place, low, mask=keep)
    tl.store(floats_ptr + 2 * plane + place, total, mask=keep)


def weighted_columns(
    x: Tensor, weights: Tensor, *, low: Tensor | None = None, magnitudes: Tensor | None = None
) -> WeightedColumns:
    """Return sums over the rows of a matrix with weights, ``weights @ x``, in two-float; no host synchronisation.

    Parameters
    ----------
    x
        float32, float16 or bfloat16 of shape ``[m, n]``.
    weights
        Of shape ``[s, m]``; taken as float32.
    low
        float32 of the same shape: the weights are ``weights + low``.
    magnitudes
        float32 of the same shape: what stands for the magnitudes of the weights in ``absolute_sum``.

    Raises
    ------
    TypeError
        For other dtypes.
    ValueError
        For shapes that do not fit.
    KernelUnavailable
        Where the kernels cannot run on the device.

    Notes
    -----
    Every column is a compensated inner product (Ogita, Rump, Oishi, SIAM J. Sci. Comput. 26, 2005, section 5); see
    :func:`column_error`.
    """
    form = row_format(x, "weighted_columns")
    if x.ndim != 2 or weights.ndim != 2 or weights.shape[1] != x.shape[0]:
        raise ValueError(
            f"weighted_columns got weights {tuple(weights.shape)} for a matrix {tuple(x.shape)}: "
            f"give [s, m] for [m, n], one weight a row"
        )
    device = require("weighted_columns", x.device, weights.device)
    num_vectors, (num_rows, num_columns) = weights.shape[0], x.shape
    values = torch.zeros((5, num_vectors, num_columns), dtype=torch.float64, device=device)
    shape = column_shape(num_columns, num_lanes(NUM_THREADS, device), form.lanes)
    blocks = -(-num_columns // (shape["THREADS"] * shape["LANES"]))
    parts = max(1, num_programs(-(-num_rows // ROWS_PER_TURN), device) // max(1, blocks * num_vectors))
    error = column_error(num_rows, parts, has_low=low is not None)
    if not values.numel() or not num_rows:
        return WeightedColumns(values[0], values[1], values[2], error)
    wide = weights.detach().to(torch.float32)
    planes = [wide, torch.zeros_like(wide) if low is None else low, wide.abs() if magnitudes is None else magnitudes]
    floats = torch.empty((5, parts, num_vectors, num_columns), dtype=torch.float32, device=device)
    launch(
        sum_weighted_columns,
        (blocks, num_vectors, parts),
        form.stored(x.detach().contiguous()),
        torch.stack(planes),
        floats,
        num_rows,
        num_columns,
        CODE=form.code,
        HAS_LOW=low is not None,
        **shape,
        ROWS=ROWS_PER_TURN,
        num_threads=NUM_THREADS,
        device=device,
    )
    combine(floats, values, num_vectors * num_columns, parts, device)
    return WeightedColumns(values[0], values[1], values[2], error)


def column_shape(num_columns: int, threads: int, lanes: int) -> dict[str, int]:
    """Return the shape of a tile of columns: 16 bytes a thread."""
    return {"THREADS": min(threads, 1 << max(0, -(-num_columns // lanes) - 1).bit_length()), "LANES": lanes}


def column_error(num_rows: int, parts: int, *, has_low: bool) -> float:
    """Return the factor f of the sum of magnitudes that bounds the error of a weighted sum.

    Notes
    -----
    The low part of a lane takes two or three numbers for each of t products, each of at most u of what has been
    added, in as many roundings; the magnitudes are rounded in t additions of their own; pairs are combined in fp64.
    """
    turns = (-(-num_rows // (ROWS_PER_TURN * parts)) + 1) * ROWS_PER_TURN
    height = (3 if has_low else 2) * turns + 2 * math.ceil(math.log2(max(2, parts)))
    return (2.0 * (height * 2.0**-24) ** 2 + 2.0**-48) * (1.0 + height * 2.0**-20)


def reference_columns(
    x: Tensor, weights: Tensor, *, low: Tensor | None = None, magnitudes: Tensor | None = None
) -> WeightedColumns:
    """Return the same from plain torch in float64."""
    wide, exact = weights.to(torch.float32).double(), x.double()
    total = (wide if low is None else wide + low.double()) @ exact
    mass = (wide.abs() if magnitudes is None else magnitudes.double()) @ exact.abs()
    return WeightedColumns(total, torch.zeros_like(total), mass)


def _tolerance(expected: WeightedColumns, x: Tensor, weights: Tensor, **options: Any) -> dict[str, Any]:
    mass = torch.where(expected.absolute_sum < 1e38, expected.absolute_sum, math.inf)
    mass = torch.where(expected.absolute_sum.isnan(), math.nan, mass)
    rows = x.shape[0]
    low = options.get("low")
    underflow = rows * 2.0**-126
    extra = 0.0 if low is None else low.double().abs().max() * x.double().abs().max() * rows * 2.0**-22
    return {
        "sum": mass * (column_error(rows, 1, has_low=True) + (rows + 1) * 2.0**-53) + underflow + extra,
        "sum_low": math.inf,  # compared with exact sums elsewhere: this reference has none
        "absolute_sum": mass * (rows + 8) * 2.0**-24 + underflow,
        "relative_error": math.inf,
    }


def _case(dtype: torch.dtype, content: str, shape: tuple[int, int, int], layout: str = "contiguous") -> Case:
    vectors, rows, columns = shape

    def make(device: torch.device) -> Arguments:
        x = LAYOUTS[layout](sample((rows, columns), dtype, content).to(device))
        weights = sample((vectors, rows), torch.float32, seed=1).to(device)
        options = {"low": weights * 2.0**-26, "magnitudes": weights.abs() * 2.0} if vectors > 1 else {}
        return (x, weights), options

    return Case(name=case_name(dtype, content, shape, layout), make=make)


def _cases() -> tuple[Case, ...]:
    contents = ("ordinary", "cancelling", "subnormal", "zeros", "infinite", "nan")
    found = [_case(dtype, content, (1, 6, 9)) for dtype in ROW_DTYPES for content in contents]
    found += [_case(dtype, "ordinary", (2, 7, 5)) for dtype in ROW_DTYPES]
    found += [
        _case(torch.float32, "ordinary", (1, 5, 6), layout) for layout in ("unaligned", "permuted", "gapped rows")
    ]
    found += [_case(torch.bfloat16, "ordinary", shape) for shape in ((1, 1, 1), (1, 0, 3), (1, 3, 0), (3, 4, 17))]
    return tuple(found)


def _compilation(dtype: torch.dtype, limits: Limits, reason: str = "", *, has_low: bool = False) -> Compilation:
    form = ELEMENT_FORMATS[dtype]
    shape = column_shape(1 << 20, NUM_THREADS, form.lanes)
    return Compilation(
        name=f"{form.name}{', two-float weights' if has_low else ''}",
        function=sum_weighted_columns,
        signature={
            "x_ptr": form.pointer,
            "weights_ptr": "*fp32",
            "floats_ptr": "*fp32",
            "num_rows": "i32",
            "num_columns": "i32",
        },
        constexprs={"CODE": form.code, "HAS_LOW": has_low, **shape, "ROWS": ROWS_PER_TURN},
        num_threads=NUM_THREADS,
        elements_per_turn=shape["THREADS"] * shape["LANES"] * ROWS_PER_TURN,
        bytes_per_element=dtype.itemsize,
        divisible=("num_columns",),
        additions_per_element=10.0 if has_low else 9.0,
        fused_per_element=1.0,
        limits={"sm_90": limits},
        issue_bound_because=reason,
    )


def _benchmark(num_elements: int, dtype: torch.dtype, device: torch.device) -> Arguments:
    side = max(1, math.isqrt(num_elements))
    return (torch.randn(side, side, device=device).to(dtype), torch.ones(1, side, device=device)), {}


_REASON: Final = "a product and a sum with their errors for every two bytes read"
SPEC: Final = KernelSpec(
    name="weighted_columns",
    launcher=weighted_columns,
    reference=reference_columns,
    tolerance=_tolerance,
    cases=_cases(),
    compilations=(
        _compilation(torch.float32, Limits(instructions_per_element=22.45, registers=42)),
        _compilation(torch.bfloat16, Limits(instructions_per_element=19.13, registers=84), _REASON),
        _compilation(torch.float32, Limits(instructions_per_element=26.12, registers=42), has_low=True),
    ),
    benchmark=_benchmark,
    bytes_moved=lambda x, weights, **_options: x.numel() * x.element_size() * weights.shape[0],
    flops=lambda x, weights, **_options: x.numel() * weights.shape[0] * 14,
    rivals={"torch matmul in float64": lambda x, weights, **_options: weights.double() @ x.double()},
)
