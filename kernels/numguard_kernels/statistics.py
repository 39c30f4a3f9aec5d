"""Statistics of a tensor from one pass over it: sums with their error, extremes, counts, an exponent histogram."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from numguard_kernels import accumulators
from numguard_kernels.availability import require
from numguard_kernels.element_formats import ElementFormat, element_format
from numguard_kernels.launching import launch, num_lanes, num_programs
from numguard_kernels.statistics_bodies import combine_partials, observe_runs, observe_strided
from numguard_kernels.strided import MAX_LEVELS, Reduction, reduction_of, three_levels
from numguard_kernels.two_float import BLOCK_TERMS, blocked_sum_error

#: What can be asked for, by name, and its bit on the device.
NEEDS: Final = {
    name: getattr(accumulators, name.upper()).value
    for name in (
        "sum",
        "absolute_sum",
        "maximum",
        "minimum_nonzero",
        "num_nan",
        "num_inf",
        "num_zero",
        "num_subnormal",
        "exponents",
    )
}
#: What a check of a sum needs. The maximum is NaN or infinite where any element is: non-finite values need no count.
CORE: Final = ("sum", "absolute_sum", "maximum")
NUM_THREADS: Final = 256
LOADS_PER_TURN: Final = 8
_LANES_PER_THREAD: Final = 8
_LONG_RUN: Final = 256
_COMBINED_ROWS, _COMBINED_PARTS = 8, 64


class Statistics(NamedTuple):
    """What was asked for; None for the rest. Tensors have the shape of the reduction, on the device of the input.

    Attributes
    ----------
    sum, sum_low
        float64, the sum as an unevaluated pair ``sum + sum_low``.
    absolute_sum
        float64, the sum of magnitudes; NaN or infinite with the elements. Infinite beside a finite maximum where the
        accumulators overflowed: then the sum says nothing.
    maximum
        float64, the largest magnitude, exact; NaN where an element is, infinite where one is and none is NaN.
    minimum_nonzero
        float64, the smallest magnitude that is not zero, exact; infinite where there is none.
    num_nan, num_inf, num_zero, num_subnormal
        int64; subnormal numbers of the tensor's own format.
    exponents
        int64 of 256 bins over the whole tensor: the exponent field of every value as fp32, zeros and numbers below
        2**-126 in bin 0, infinities and NaN in bin 255.
    relative_error
        The f of ``|sum + sum_low - exact| <= f * absolute_sum``.
    """

    sum: Tensor | None = None
    sum_low: Tensor | None = None
    absolute_sum: Tensor | None = None
    maximum: Tensor | None = None
    minimum_nonzero: Tensor | None = None
    num_nan: Tensor | None = None
    num_inf: Tensor | None = None
    num_zero: Tensor | None = None
    num_subnormal: Tensor | None = None
    exponents: Tensor | None = None
    relative_error: float = 0.0


_VALUES: Final = ("sum", "sum_low", "absolute_sum", "maximum", "minimum_nonzero")
_COUNTS: Final = ("num_nan", "num_inf", "num_zero", "num_subnormal")


def tensor_statistics(
    x: Tensor,
    *,
    dim: int | Sequence[int] | None = None,
    needs: Sequence[str] = CORE,
    precise: bool = False,
) -> Statistics:
    """Return statistics of a tensor, or of its slices along dimensions, from one read, without a copy.

    Nothing synchronises with the host.

    Parameters
    ----------
    x
        Any real floating-point dtype, the 8-bit ones included; any shape and strides.
    dim
        Dimensions that disappear; all of them by default.
    needs
        Names out of :data:`NEEDS`; the caller pays for nothing else.
    precise
        Take every element by a TwoSum instead of every eighth partial sum: three times the instructions, and an error
        of second order in the unit roundoff. It is the confirmation of the other, by another order of additions.

    Raises
    ------
    TypeError
        For a dtype that is not a real floating-point one.
    ValueError
        For an unknown need, and for the exponent histogram along a dimension.
    KernelUnavailable
        Where the kernels cannot run on the device of the tensor.

    Notes
    -----
    Accumulates in fp32 (fp64 for fp64), blocks of 8 plain additions into a two-float number: see
    :func:`~numguard_kernels.two_float.blocked_sum_error` for the bound. Partial sums of at most 8 programs per
    multiprocessor are combined in two-float fp64.
    """
    bits = bits_of(needs, dim)
    form = element_format(x.dtype, "tensor_statistics")
    device = require("tensor_statistics", x.device)
    reduction = reduction_of(x, dim)
    shape = reduction.shape
    if reduction.num_kept * reduction.num_reduced == 0:
        return _of_nothing(shape, needs, device)
    stored = form.stored(x)
    histogram = torch.zeros(256 if "exponents" in needs else 1, dtype=torch.int64, device=device)
    if reduction.is_dense:
        partials = _observe_run(stored, form, bits, histogram, precise=precise)
    else:
        partials = _observe_strided(stored, reduction, form, bits, histogram, precise=precise)
    floats, counts, factor = partials
    num_results = math.prod(shape)
    values = torch.empty((len(_VALUES), num_results), dtype=torch.float64, device=device)
    tallies = torch.empty((len(_COUNTS), num_results), dtype=torch.int64, device=device)
    launch(
        combine_partials,
        (-(-num_results // _COMBINED_ROWS),),
        floats,
        counts,
        values,
        tallies,
        num_results,
        floats.shape[1] // num_results,
        NEEDS=bits,
        ROWS=_COMBINED_ROWS,
        PARTS=_COMBINED_PARTS if device.type == "cuda" else 2,
        num_threads=128,
        device=device,
    )
    asked = {"sum_low": values[1].view(shape)} if "sum" in needs else {}
    asked |= {name: values[row].view(shape) for row, name in enumerate(_VALUES) if name in needs}
    asked |= {name: tallies[row].view(shape) for row, name in enumerate(_COUNTS) if name in needs}
    if "exponents" in needs:
        asked["exponents"] = histogram
    return Statistics(**asked, relative_error=factor)


def bits_of(needs: Sequence[str], dim: object) -> int:
    """Return the device's bits of what is asked for, or say what cannot be."""
    for name in needs:
        if name not in NEEDS:
            raise ValueError(f"there is no statistic named {name!r}; ask for some of {', '.join(NEEDS)}")
    if "exponents" in needs and dim is not None:
        raise ValueError(f"the exponent histogram is one of the whole tensor: leave dim={dim} out, or exponents")
    return sum(NEEDS[name] for name in set(needs))


def _of_nothing(shape: tuple[int, ...], needs: Sequence[str], device: torch.device) -> Statistics:
    """The statistics of no elements, or no results at all."""

    def filled(value: float) -> Tensor:
        return torch.full(shape, value, dtype=torch.float64, device=device)

    found = {name: filled(math.inf if name == "minimum_nonzero" else 0.0) for name in _VALUES if name in needs}
    if "sum" in needs:
        found["sum_low"] = filled(0.0)
    found |= {name: torch.zeros(shape, dtype=torch.int64, device=device) for name in _COUNTS if name in needs}
    if "exponents" in needs:
        found["exponents"] = torch.zeros(256, dtype=torch.int64, device=device)
    return Statistics(**found)  # type: ignore[arg-type]


def run_constants(form: ElementFormat, *, precise: bool, threads: int = NUM_THREADS) -> dict[str, int]:
    """Return the shape of the loop over dense runs: 16 bytes a thread and load, eight loads in flight."""
    tiles_per_block = max(1, BLOCK_TERMS // form.lanes)
    if precise:  # one element a thread: loads stay coalesced and every element meets its own TwoSum
        return {"THREADS": threads * form.lanes, "LANES": 1, "TILES": LOADS_PER_TURN, "TILES_PER_BLOCK": 1}
    return {"THREADS": threads, "LANES": form.lanes, "TILES": LOADS_PER_TURN, "TILES_PER_BLOCK": tiles_per_block}


def _observe_run(
    x: Tensor, form: ElementFormat, bits: int, histogram: Tensor, *, precise: bool
) -> tuple[Tensor, Tensor, float]:
    """A whole tensor without gaps, in the order of its memory."""
    constants = run_constants(form, precise=precise, threads=num_lanes(NUM_THREADS, x.device))
    count = x.numel()
    run = x.as_strided((count,), (1,))
    num_head = min(count, (-run.data_ptr() % 16) // run.element_size())
    aligned = run[num_head:] if num_head < count else run
    left = count - num_head
    turn = constants["THREADS"] * constants["LANES"] * constants["TILES"]
    parts = num_programs(-(-left // turn) + (num_head > 0), x.device)
    floats, counts = _scratch(parts, 1, form, x.device)
    launch(
        observe_runs,
        (parts, 1),
        aligned,
        run,
        floats,
        counts,
        histogram,
        left,
        num_head,
        0,
        CODE=form.code,
        DOUBLE=form.is_double,
        NEEDS=bits,
        SMALLEST_NORMAL=form.smallest_normal,
        **constants,
        num_threads=NUM_THREADS,
        device=x.device,
    )
    blocks = constants["TILES"] // constants["TILES_PER_BLOCK"]
    turns = -(-left // (turn * parts)) * blocks + constants["TILES"] + 1
    terms = constants["LANES"] * constants["TILES_PER_BLOCK"]
    return floats, counts, _factor(turns, constants["THREADS"], parts, terms, form)


def _observe_strided(
    x: Tensor, reduction: Reduction, form: ElementFormat, bits: int, histogram: Tensor, *, precise: bool
) -> tuple[Tensor, Tensor, float]:
    """Any strides: rows times columns, and the partial results of rows that belong to one result side by side."""
    kept, reduced = reduction.kept, reduction.reduced
    num_results = reduction.num_kept
    # Long runs become rows of their own, so that no index of an element is divided.
    split = 1 if reduced and reduced[0][0] >= _LONG_RUN and len(kept) + len(reduced) - 1 <= MAX_LEVELS else MAX_LEVELS
    if len(kept) + len(reduced[split:]) > MAX_LEVELS:
        # Rare: more than six levels that cannot be joined. One copy is cheaper than a launch for every position.
        x = _gathered(x, reduction)
        reduction = reduction_of(x, -1)
        kept, reduced, split = reduction.kept, reduction.reduced, MAX_LEVELS
    outer, inner = kept + reduced[split:], reduced[:split]
    rows = math.prod(size for size, _ in outer)
    columns = math.prod(size for size, _ in inner)
    kept_innermost = bool(kept) and (not reduced or kept[0][1] < reduced[0][1])
    tile = _LANES_PER_THREAD * num_lanes(NUM_THREADS, x.device)
    tile_columns = 8 if kept_innermost else min(tile // 2, _power_of_two(columns))
    tile_rows = min(tile // tile_columns, _power_of_two(rows))
    tiles = 1 if precise else min(BLOCK_TERMS, _power_of_two(-(-columns // tile_columns)))
    row_programs = -(-rows // tile_rows)
    parts = min(
        num_programs(-(-columns // (tile_columns * tiles)), x.device),
        max(1, num_programs(1 << 30, x.device) // row_programs),
    )
    floats, counts = _scratch(parts, rows, form, x.device)
    launch(
        observe_strided,
        (row_programs, parts),
        x,
        floats,
        counts,
        histogram,
        rows,
        columns,
        *three_levels(outer),
        *three_levels(inner),
        CODE=form.code,
        DOUBLE=form.is_double,
        NEEDS=bits,
        SMALLEST_NORMAL=form.smallest_normal,
        KEPT_LEVELS=len(outer),
        REDUCED_LEVELS=len(inner),
        ROWS=tile_rows,
        COLUMNS=tile_columns,
        TILES=tiles,
        num_threads=NUM_THREADS,
        device=x.device,
    )
    turns = -(-columns // (tile_columns * tiles * parts))
    lanes = parts * rows // num_results
    return floats, counts, _factor(turns, tile_columns, lanes, tiles, form)


def _gathered(x: Tensor, reduction: Reduction) -> Tensor:
    kept, reduced = reduction.kept[::-1], reduction.reduced[::-1]
    sizes = [size for size, _ in kept + reduced]
    view = x.as_strided(sizes, [stride for _, stride in kept + reduced])
    return view.reshape(*[size for size, _ in kept], -1).contiguous()


def _scratch(parts: int, rows: int, form: ElementFormat, device: torch.device) -> tuple[Tensor, Tensor]:
    floats = torch.empty((len(_VALUES), parts * rows), dtype=form.accumulator, device=device)
    return floats, torch.empty((len(_COUNTS), parts * rows), dtype=torch.int32, device=device)


def _factor(turns: int, lanes: int, parts: int, terms: int, form: ElementFormat) -> float:
    """The blocked bound, and the last roundings: of the combination in fp64, whose lows are added plainly."""
    blocked = blocked_sum_error(turns, lanes, terms=terms, unit_roundoff=form.unit_roundoff)
    return blocked + (2.0 * math.log2(2 * parts) + 4.0) * 2.0**-53 * form.unit_roundoff + 2.0**-102


def _power_of_two(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


def reference_statistics(
    x: Tensor,
    *,
    dim: int | Sequence[int] | None = None,
    needs: Sequence[str] = CORE,
    precise: bool = False,
) -> Statistics:
    """Return what :func:`tensor_statistics` returns, by several passes of plain torch in float64."""
    del precise
    dims = tuple(range(x.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    if not x.ndim:
        x, dims = x.reshape(1), (0,)
    wide = x.to(torch.float64)
    magnitude = wide.abs()
    nonzero = torch.where(magnitude > 0, magnitude, math.inf)
    empty = math.prod(x.shape[axis] for axis in dims) == 0
    total = wide.sum(dims)
    normal = element_format(x.dtype, "reference_statistics").smallest_normal
    every = {
        "sum": total,
        "sum_low": torch.zeros_like(total),
        "absolute_sum": magnitude.sum(dims),
        "maximum": torch.zeros_like(total) if empty else magnitude.amax(dims),
        "minimum_nonzero": torch.full_like(total, math.inf) if empty else nonzero.amin(dims),
        "num_nan": wide.isnan().sum(dims),
        "num_inf": wide.isinf().sum(dims),
        "num_zero": (wide == 0).sum(dims),
        "num_subnormal": ((magnitude > 0) & (magnitude < normal)).sum(dims),
    }
    found = {name: value for name, value in every.items() if name in needs or (name == "sum_low" and "sum" in needs)}
    if "exponents" in needs:
        bins = (wide.to(torch.float32).reshape(-1).view(torch.int32) >> 23) & 0xFF
        found["exponents"] = torch.bincount(bins, minlength=256)
    return Statistics(**found)  # type: ignore[arg-type]
