"""Sums and means by rows, sums by slot and gradients of norms' parameters, with bounds and verdicts from one read."""

import ctypes
from array import array
from typing import Final

from torch import Tensor

from numguard_kernels.native.judgement import NUM_NUMBERS, JudgedElements, memory_for, numbers_at
from numguard_kernels.native.library import DTYPES, Slotting, Summing, Weighing
from numguard_kernels.native.reductions import walk_of

_NOTHING: Final = (0, 0, 0, 0)
_ONE_BOUND: Final = ("exact", "strict", "", "shadow_error")
_TWO_BOUNDS: Final = ("exact", "strict", "permissive", "shadow_error")
_SLOTS: Final = ("exact", "strict", "shadow_error")


def judged_row_sums(
    library: ctypes.CDLL, x: Tensor, num_kept: int, results: Tensor, by: Summing
) -> JudgedElements | None:
    """Judge sums or means over all but the first dimensions; None where the kept ones are not in order of memory.

    Parameters
    ----------
    x
        Any strides and known dtype, at least one element.
    results
        Of the shape of the kept dimensions; copied where there are gaps.
    """
    walk = walk_of(x.shape, x.stride(), num_kept)
    if not walk.in_order:
        return None
    results = results.contiguous()
    count = results.numel()
    out, address = memory_for(4 * count + NUM_NUMBERS)
    library.ng_judged_sums(
        x.data_ptr(),
        DTYPES[x.dtype],
        *walk.kept,
        *walk.reduced,
        results.data_ptr(),
        DTYPES[results.dtype],
        ctypes.addressof(by),
        address,
        address + 32 * count,
    )
    names = _TWO_BOUNDS if by.has_permissive else _ONE_BOUND
    return JudgedElements(out, 0, names, tuple(results.shape), numbers_at(out, 4 * count))


def judged_slot_sums(
    library: ctypes.CDLL,
    num_slots: int,
    index: Tensor,
    source: Tensor,
    base: Tensor | None,
    result: Tensor,
    by: Slotting,
) -> JudgedElements:
    """Judge ``base[s] + sum of source[i] where index[i] == s``; an index of ``num_slots`` is nowhere.

    Parameters
    ----------
    index
        int64, one slot for every row of ``source``.
    source, base, result
        ``[rows, C]``, ``[slots, C]`` or None, ``[slots, C]``; any strides and known dtypes.
    """
    words = array("q", (source.shape[0], num_slots, source.shape[1], index.data_ptr(), index.stride(0)))
    for grid in (source, base, result):
        words.extend(_NOTHING if grid is None else (grid.data_ptr(), DTYPES[grid.dtype], *grid.stride()))
    count = result.numel()
    out, address = memory_for(3 * count + NUM_NUMBERS)
    library.ng_judged_slots(words.buffer_info()[0], ctypes.addressof(by), address, address + 24 * count)
    return JudgedElements(out, 0, _SLOTS, tuple(result.shape), numbers_at(out, 3 * count))


def judged_parameter_gradients(
    library: ctypes.CDLL,
    columns: tuple[Tensor, Tensor, Tensor | None, Tensor],
    results: tuple[Tensor | None, Tensor | None],
    by: Weighing,
) -> tuple[JudgedElements, JudgedElements]:
    """Judge gradients of weight and bias of a norm on columns; an entry whose result is None means nothing.

    Parameters
    ----------
    columns
        dy and x ``[rows, columns]``, mean (None for root-mean-square norms) and rstd ``[rows, 1]``; any strides.
    results
        One number for every column.
    """
    num_rows, num_columns = columns[0].shape
    words = array("q", (num_rows, num_columns))
    for grid in columns:
        words.extend(_NOTHING if grid is None else (grid.data_ptr(), DTYPES[grid.dtype], *grid.stride()))
    for result in results:
        words.extend(_NOTHING if result is None else (result.data_ptr(), DTYPES[result.dtype], 0, *result.stride()))
    size = 4 * num_columns
    out, address = memory_for(2 * (size + NUM_NUMBERS))
    library.ng_judged_parameter_gradients(words.buffer_info()[0], ctypes.addressof(by), address, address + 16 * size)
    names, shape = _TWO_BOUNDS if by.has_permissive else _ONE_BOUND, (num_columns,)
    return (
        JudgedElements(out, 0, names, shape, numbers_at(out, 2 * size)),
        JudgedElements(out, size, names, shape, numbers_at(out, 2 * size + NUM_NUMBERS)),
    )
