"""What every reduction is judged on: the rows that are added up, beside the results that they make."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from math import prod
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor

from numguard.checks.check import Probe
from numguard.checks.row_samples import sampled_rows, view_of
from numguard.numerics.error_bounds.summation_bounds import sum_bound
from numguard.numerics.formats import accumulator_dtype, unit_roundoff
from numguard.numerics.tree_heights import num_stored_partials, reduction_layout, summation_height
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.comparison import NotCovered

CHUNK: Final = 1 << 14  # elements converted to float64 at once: memory that the allocator keeps, in the core's cache
FLOATS: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGERS: Final = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)

_WIDENING: Final = {(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.bool, torch.float32)}

Terms = Callable[[Tensor], Iterator[Tensor]]


class Growth(NamedTuple):
    """Errors of a sum relative to the sum of absolute values; the permissive one None where it is the strict one."""

    strict: float
    permissive: float | None


class Rows(NamedTuple):
    """Some results of a reduction and what they were made of.

    Attributes
    ----------
    source
        View of the caller's tensor, kept dimensions first; at least one more follows.
    num_kept
        How many dimensions are kept.
    result
        The results, of the kept dimensions' shape.
    num_terms
        Elements per result.
    growth
        Of a sum of these rows by the kernel behind ``torch.sum``.
    lost
        What the elements of a row may lose, in all, below the range of a narrower dtype that they are cast to first.
    """

    source: Tensor
    num_kept: int
    result: Tensor
    num_terms: int
    growth: Growth
    lost: float = 0.0


def is_narrowing(given: torch.dtype, taken: torch.dtype) -> bool:
    """Return whether a cast from one dtype to another of :data:`FLOATS` may change numbers.

    Some kernels cast the elements first, as documented for ``dtype=``, others only the result: where a cast may
    change numbers, bounds allow for both.
    """
    return given != taken and taken != torch.float64 and (given, taken) not in _WIDENING


def require_numbers(*tensors: Tensor) -> None:
    """Raise NotCovered for complex, sparse, nested, quantized and meta tensors and dtypes without known rounding."""
    for tensor in tensors:
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
            raise NotCovered(f"{str(tensor.layout).removeprefix('torch.')} or quantized tensors")
        if tensor.device.type == "meta":
            raise NotCovered("meta tensors hold no numbers")
        if tensor.dtype.is_complex:
            raise NotCovered("complex numbers")
        if tensor.dtype not in FLOATS and tensor.dtype not in INTEGERS:
            raise NotCovered(f"{str(tensor.dtype).removeprefix('torch.')} numbers")


def model_of(tensor: Tensor) -> Literal["calibrated", "assumed"]:
    """Return what a bound assumes of the implementation, in the words of ``Finding.model``."""
    return "calibrated" if tensor.device.type == "cpu" else "assumed"


def rows_of(
    source: Tensor,
    result: Tensor,
    dims: Any,
    probe: Probe,
    *,
    cost: float,
    dtype: torch.dtype | None = None,
    stores_runs: bool = False,
    in_pieces: bool = True,
) -> Rows:
    """Return the rows of a reduction over ``dims`` that the probe picks, with their results.

    Parameters
    ----------
    source, result
        Input and output of the operator.
    dims
        Reduced dimensions: a number, several, or None or none for all.
    probe
        Picks whole results.
    cost
        Operations per element of ``source``.
    dtype
        In which the kernel stores sums, where that is not the dtype of the result.
    stores_runs
        True where the kernel adds every run of adjacent elements to a result in 16 bits, as that of ``nansum`` does;
        those of ``sum`` and ``mean`` keep a float32 copy of such results (``should_use_acc_buffer`` in
        ``aten/src/ATen/native/ReduceOpsUtils.h``).
    in_pieces
        Whether the rows are read piece by piece, as :func:`row_totals` does.

    Raises
    ------
    NotCovered
        As :func:`require_numbers`, where the result's shape is not that of a reduction, and where a single result
        costs more than the probe allows.
    """
    require_numbers(source, result)
    listed = () if dims is None else (dims,) if isinstance(dims, int) else tuple(dims)
    kept, reduced = _dimensions(source.dim(), listed)
    shape = [source.shape[dim] for dim in kept]
    num_terms = prod([source.shape[dim] for dim in reduced])
    if result.numel() != prod(shape):
        raise NotCovered(f"a result of shape {tuple(result.shape)} for an input of shape {tuple(source.shape)}")
    growth = _growth(source, dtype or result.dtype, reduced, stores_runs)
    picked: tuple[slice, ...] = ()
    if num_terms * cost * prod(shape) > probe.limit:
        picked = sampled_rows(tuple(shape), cost * max(1, num_terms), probe, in_pieces=in_pieces)
    sizes, strides = source.shape, source.stride()
    order = kept + reduced
    alone = () if reduced else (1,)  # at least one dimension follows those that are kept
    view = view_of(source, [*(sizes[dim] for dim in order), *alone], [*(strides[dim] for dim in order), *alone], picked)
    if result.is_contiguous():
        flat = view_of(result, shape, [prod(shape[dim + 1 :]) for dim in range(len(shape))], picked)
    else:
        flat = result.detach().reshape(shape)[picked]
    if not is_narrowing(source.dtype, result.dtype) or result.dtype not in FLOATS:
        return Rows(view, len(shape), flat, num_terms, growth)
    lost = num_terms * float(torch.finfo(result.dtype).smallest_normal)
    return Rows(view, len(shape), flat, num_terms, _narrowed(growth, unit_roundoff(result.dtype)), lost)


def row_totals(rows: Tensor, num_kept: int, terms: Terms, arithmetic: Arithmetic) -> tuple[list[Tensor], int]:
    """Return totals over all but the first ``num_kept`` dimensions, and the additions that a term passed through.

    Parameters
    ----------
    rows
        Kept dimensions first, any real dtype.
    terms
        Yields what is to be added up, in float64, from a piece of ``rows``.
    arithmetic
        The route.
    """
    if rows.numel() <= CHUNK:
        dims = tuple(range(num_kept, rows.dim()))
        return [arithmetic.total(part, dims, False) for part in terms(rows)], arithmetic.height(_terms_in(rows, dims))
    shape = list(rows.shape)
    dim = shape.index(max(shape))
    step = max(1, shape[dim] * CHUNK // rows.numel())
    pieces = torch.split(rows, step, dim=dim)
    if dim < num_kept:
        parts = [row_totals(piece, num_kept, terms, arithmetic) for piece in pieces]
        columns = zip(*(part[0] for part in parts), strict=True)
        return [torch.cat(column, dim=dim) for column in columns], max(part[1] for part in parts)
    # One after the other: small results that are kept between the pieces keep the allocator from reusing their memory.
    totals, height = row_totals(pieces[0], num_kept, terms, arithmetic)
    for piece in pieces[1:]:
        more, other = row_totals(piece, num_kept, terms, arithmetic)
        totals, height = [total + part for total, part in zip(totals, more, strict=True)], max(height, other)
    return totals, height + len(pieces) - 1


def _narrowed(growth: Growth, unit_roundoff: float) -> Growth:
    """Return the growth with one rounding of every element before it is added."""
    strict = growth.strict + unit_roundoff * (1.0 + growth.strict)
    if growth.permissive is None:
        return Growth(strict, None)
    return Growth(strict, growth.permissive + unit_roundoff * (1.0 + growth.permissive))


def _terms_in(rows: Tensor, dims: tuple[int, ...]) -> int:
    return prod([rows.shape[dim] for dim in dims])


@lru_cache(maxsize=4096)
def _dimensions(rank: int, dims: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    reduced = {dim % rank for dim in dims} if dims and rank else set(range(rank))
    return tuple(dim for dim in range(rank) if dim not in reduced), tuple(sorted(reduced))


def _growth(source: Tensor, dtype: torch.dtype, reduced: tuple[int, ...], stores_runs: bool) -> Growth:
    """Return the growth of a sum in ``dtype``, to which the kernel casts the input first where it differs."""
    if dtype not in FLOATS:
        return Growth(0.0, None)
    strides = source.stride()
    if dtype != source.dtype and not source.is_contiguous():
        strides = torch.empty_like(source, dtype=dtype, device="meta").stride()  # the cast may have changed them
    key = tuple(source.shape), strides, reduced, dtype, source.device.type, torch.get_num_threads()
    return _growth_of(*key, stores_runs)


@lru_cache(maxsize=4096)
def _growth_of(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    reduced: tuple[int, ...],
    dtype: torch.dtype,
    device_type: str,
    num_threads: int,
    stores_runs: bool,
) -> Growth:
    layout = reduction_layout(shape, strides, reduced)
    on_cpu, n, unit = device_type == "cpu", layout.num_terms, unit_roundoff(accumulator_dtype(dtype))
    height = max(0, n - 1)
    if on_cpu:
        height = summation_height(
            n, dtype=dtype, num_threads=num_threads, adjacent=layout.adjacent, num_chunks=layout.num_chunks
        )
    strict = float(sum_bound(1.0, height, unit, num_terms=n))
    chunks = layout.num_chunks if stores_runs else 1
    stores = num_stored_partials(n, dtype=dtype, device_type=device_type, num_threads=num_threads, num_chunks=chunks)
    if not stores:
        return Growth(strict, None)
    stored = sum_bound(
        1.0, height, unit, num_terms=n, num_stored_partials=stores, storage_roundoff=unit_roundoff(dtype)
    )
    return Growth(strict, float(stored))
