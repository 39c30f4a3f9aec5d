"""How a tensor of any strides is seen by a kernel: kept positions times reduced positions, without a copy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import triton
import triton.language as tl
from torch import Tensor

#: Levels of sizes and strides that an index is decoded into, after neighbouring dimensions have been joined.
MAX_LEVELS: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Reduction:
    """A reduction over some dimensions: sizes and strides in elements, innermost first, joined where possible.

    Parameters
    ----------
    kept, reduced
        ``(size, stride)`` by level; empty where there is a single position.
    shape
        Of the result.
    """

    kept: tuple[tuple[int, int], ...]
    reduced: tuple[tuple[int, int], ...]
    shape: tuple[int, ...]

    @property
    def num_kept(self) -> int:
        """Elements of the result."""
        return math.prod(size for size, _ in self.kept)

    @property
    def num_reduced(self) -> int:
        """Elements that go into each."""
        return math.prod(size for size, _ in self.reduced)

    @property
    def is_dense(self) -> bool:
        """Whether everything is reduced and lies without gaps, in whatever order."""
        return not self.kept and (not self.reduced or (len(self.reduced) == 1 and self.reduced[0][1] == 1))


def reduction_of(x: Tensor, dim: int | Sequence[int] | None) -> Reduction:
    """Return the reduction of a tensor over ``dim``; over everything where that is None.

    Raises
    ------
    IndexError
        For a dimension that the tensor does not have.
    ValueError
        For a dimension that is named twice.
    """
    dims = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    for axis in dims:
        if not -max(1, x.ndim) <= axis < max(1, x.ndim):
            raise IndexError(f"dimension {axis} is out of range for a tensor of shape {tuple(x.shape)}")
    chosen = {axis % x.ndim for axis in dims} if x.ndim else set()
    if x.ndim and len(chosen) != len(dims):
        raise ValueError(f"dim={tuple(dims)} names a dimension of shape {tuple(x.shape)} twice")
    levels = [(x.shape[axis], x.stride(axis)) for axis in range(x.ndim)]
    kept = [level for axis, level in enumerate(levels) if axis not in chosen]
    # Order matters to nobody within the reduced part: the smallest stride first reads memory in order.
    reduced = sorted((level for axis, level in enumerate(levels) if axis in chosen), key=lambda level: -level[1])
    return Reduction(kept=_joined(kept), reduced=_joined(reduced), shape=tuple(size for size, _ in kept))


def _joined(levels: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Join ``(size, stride)`` pairs, outermost first, wherever a step of one is a full run of the next."""
    joined: list[tuple[int, int]] = []
    for size, stride in reversed(levels):
        if size == 1:
            continue
        if joined and stride == joined[-1][0] * joined[-1][1]:
            joined[-1] = (joined[-1][0] * size, joined[-1][1])
        else:
            joined.append((size, stride))
    return tuple(joined)


def three_levels(levels: tuple[tuple[int, int], ...]) -> tuple[int, int, int, int, int]:
    """Return ``size_0, size_1, stride_0, stride_1, stride_2`` for :func:`offset_of`."""
    padded = (*levels, *[(1, 0)] * (MAX_LEVELS - len(levels)))
    return padded[0][0], padded[1][0], padded[0][1], padded[1][1], padded[2][1]


@triton.jit
def offset_of(index, size_0, size_1, stride_0, stride_1, stride_2, LEVELS: tl.constexpr):
    """Return the offset in elements, int64, of the position with a linear index, innermost level first."""
    index = index.to(tl.int64)
    if LEVELS <= 1:
        offset = index * stride_0
    elif LEVELS == 2:
        offset = (index % size_0) * stride_0 + (index // size_0) * stride_1
    else:
        rest = index // size_0
        offset = (index % size_0) * stride_0 + (rest % size_1) * stride_1 + (rest // size_1) * stride_2
    return offset
