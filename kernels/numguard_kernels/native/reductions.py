"""Sums, sums of magnitudes and largest magnitudes of tensors, whole or along dimensions, from one read."""

import ctypes
import struct
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from numguard_kernels.native.library import DTYPES

NUM_EXPONENTS: Final = 256
# Passed and read one by one, five arguments and four results cost 1 us, a third of what torch takes to sum 1e5 numbers.
_packed: Final = struct.Struct("5q").pack
_unpacked: Final = struct.Struct("4d").unpack
_Four: Final = ctypes.c_double * 4


class Mode(IntEnum):
    """How sums are formed. The bounds are in :mod:`numguard_kernels.native.error_bounds`."""

    BLOCKED = 0  # float32 blocks of sixteen flushed to float64: as fast as memory
    DOUBLE = 1  # float64 lanes
    TWO_FLOAT = 2  # pairs of float64: an ill-conditioned sum comes out right


class Totals(NamedTuple):
    """Of a whole tensor. ``high + low`` is the sum, unevaluated; ``largest`` is NaN where an element is."""

    high: float
    low: float
    mass: float
    largest: float


class Counts(NamedTuple):
    """Counts of a whole tensor, the smallest magnitude that is not zero (inf for none), and exponents if asked for.

    ``exponents`` counts the exponent fields of the elements as float32: zeros and numbers below ``2**-126`` in bin 0,
    infinities, NaN and what is beyond float32 in bin 255.
    """

    num_nan: int
    num_inf: int
    num_zero: int
    num_subnormal: int
    smallest: float
    exponents: Tensor | None


class RowTotals(NamedTuple):
    """One of each for every kept position, float64; ``high + low`` is the sum."""

    high: Tensor
    low: Tensor
    mass: Tensor
    largest: Tensor


def total_of(library: ctypes.CDLL, x: Tensor, mode: Mode, num_threads: int = 1) -> Totals:
    """Return the totals of all elements; a tensor with gaps is walked by its strides."""
    if not x.is_contiguous():
        rows = row_totals_of(library, x, 0, mode, num_threads)
        return Totals(*(float(part) for part in rows))
    out = _Four()
    packed = _packed(x.data_ptr(), DTYPES[x.dtype], x.numel(), mode, num_threads)
    library.ng_statistics(packed, ctypes.addressof(out))
    return Totals._make(_unpacked(out))


def counts_of(library: ctypes.CDLL, x: Tensor, *, with_exponents: bool = False) -> Counts:
    """Return what only a second look costs: counts by class, the smallest magnitude, exponents."""
    x = x.detach().contiguous()
    counts, smallest = (ctypes.c_int64 * 4)(), ctypes.c_double()
    exponents = torch.zeros(NUM_EXPONENTS, dtype=torch.int64) if with_exponents else None
    library.ng_counts(
        x.data_ptr(),
        DTYPES[x.dtype],
        x.numel(),
        float(torch.finfo(x.dtype).smallest_normal),
        ctypes.addressof(counts),
        ctypes.addressof(smallest),
        exponents.data_ptr() if exponents is not None else 0,
    )
    num_nan, num_inf, num_zero, num_subnormal = counts
    return Counts(num_nan, num_inf, num_zero, num_subnormal, smallest.value, exponents)


def row_totals_of(library: ctypes.CDLL, x: Tensor, num_kept: int, mode: Mode, num_threads: int = 1) -> RowTotals:
    """Return totals over all but the first ``num_kept`` dimensions, whatever the strides, without a copy."""
    walk = walk_of(x.shape, x.stride(), num_kept)
    out = torch.empty((4, *walk.sizes), dtype=torch.float64)
    if x.numel() == 0:
        out.zero_()
    elif out.numel():
        first, step = out.data_ptr(), 8 * (out.numel() // 4)
        library.ng_reduce(
            x.data_ptr(),
            DTYPES[x.dtype],
            *walk.kept,
            *walk.reduced,
            mode,
            num_threads,
            first,
            first + step,
            first + 2 * step,
            first + 3 * step,
        )
    return RowTotals(*(part.permute(walk.back) for part in out.unbind()))


class Walk(NamedTuple):
    """Kept and reduced dimensions as the library takes them, and how its results get back into order."""

    kept: tuple[int, Any, Any]
    reduced: tuple[int, Any, Any]
    sizes: tuple[int, ...]
    back: tuple[int, ...]

    @property
    def in_order(self) -> bool:
        """Whether results come in the order of the kept dimensions."""
        return self.back == tuple(range(len(self.back)))


@lru_cache(maxsize=4096)
def walk_of(shape: tuple[int, ...], strides: tuple[int, ...], num_kept: int) -> Walk:
    """Walk memory forward: largest strides outermost, neighbours joined where they lie in one piece."""
    dims = list(zip(shape, strides, strict=True))
    order = sorted(range(num_kept), key=lambda dim: -strides[dim])
    back = tuple(sorted(range(num_kept), key=order.__getitem__))
    sizes = tuple(shape[dim] for dim in order)
    kept = _joined([dims[dim] for dim in order])
    reduced = _joined(sorted(dims[num_kept:], key=lambda dim: -dim[1])) or [(1, 1)]
    return Walk(_arrays(kept), _arrays(reduced), sizes, back)


def _joined(dims: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for size, stride in dims:
        if size == 1:
            continue
        if joined and joined[-1][1] == size * stride:
            joined[-1] = (joined[-1][0] * size, stride)
        else:
            joined.append((size, stride))
    return joined


def _arrays(dims: list[tuple[int, int]]) -> tuple[int, Any, Any]:
    sizes = (ctypes.c_int64 * max(1, len(dims)))(*(size for size, _ in dims))
    strides = (ctypes.c_int64 * max(1, len(dims)))(*(stride for _, stride in dims))
    return len(dims), sizes, strides
