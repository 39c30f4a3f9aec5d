"""Which part of a matrix product is formed again, and which part a checksum covers."""

from dataclasses import replace
from functools import lru_cache
from typing import Final, NamedTuple

from torch import Tensor

from numguard.checks.check import Probe, every, spacing
from numguard.checks.gemm import Gemm

ALL: Final = slice(None)
READINGS: Final = 4  # passes of the checksum over its operands: value, size, square, and the copy in float64
Shape = tuple[int, int, int]


class Block(NamedTuple):
    """Evenly spaced batches, rows and columns of a product."""

    batches: slice = ALL
    rows: slice = ALL
    columns: slice = ALL

    def of(self, gemm: Gemm) -> Gemm:
        """Return the product restricted to this block, as views."""
        added = None if gemm.added is None else self.cut(gemm.added)
        return replace(gemm, a=gemm.a[self.batches, self.rows], b=gemm.b[self.batches, :, self.columns], added=added)

    def cut(self, matrix: Tensor) -> Tensor:
        """Return this block of a matrix ``[B, M, N]``."""
        return matrix[self.batches, self.rows, self.columns]


class Spacing(NamedTuple):
    """Of how many batches, rows and columns one is taken."""

    batches: int
    rows: int
    columns: int

    @property
    def complete(self) -> bool:
        """True where nothing is left out."""
        return self == (1, 1, 1)

    def block(self, shape: Shape, offset: float) -> Block:
        """Return the block that an offset picks."""
        return Block(*map(every, self, shape, (offset,) * 3))


def operations_of_an_element(num_terms: int) -> int:
    """Return what one element costs: its value and its mass."""
    return 2 * max(1, num_terms)


@lru_cache(maxsize=4096)
def element_spacing(shape: Shape, num_terms: int, limit: float) -> Spacing:
    """Return which elements to form again: rows first, then batches, then columns where one row is too many."""
    batches, rows, columns = shape
    terms = operations_of_an_element(num_terms)
    row = spacing(rows, batches * columns * terms, limit)
    cost = -(-rows // row) * terms
    batch = spacing(batches, columns * cost, limit)
    return Spacing(batch, row, spacing(columns, -(-batches // batch) * cost, limit))


@lru_cache(maxsize=4096)
def checksum_spacing(shape: Shape, num_terms: int, limit: float) -> Spacing:
    """Return what the checksum covers: all of the product where reading it once is within the limit."""
    batches, rows, columns = shape
    terms, width = READINGS * max(1, num_terms), READINGS * columns
    row = spacing(rows, batches * (terms + width), limit)
    taken = -(-rows // row)
    batch = spacing(batches, taken * (terms + width) + terms * width, limit)
    return Spacing(batch, row, spacing(columns, -(-batches // batch) * (READINGS * taken + terms), limit))


def blocks_of(shape: Shape, num_terms: int, probe: Probe, *, is_summed: bool) -> tuple[Block, Block | None]:
    """Return the elements to form again and, where these are not all, what a checksum covers beside them.

    Parameters
    ----------
    shape, num_terms
        ``(B, M, N)`` and K.
    is_summed
        Whether checksums say anything of this product.
    """
    probe.afford(operations_of_an_element(num_terms))
    elements = element_spacing(shape, num_terms, probe.limit)
    block = elements.block(shape, probe.offset)
    if not is_summed or elements.complete:
        return block, None
    return block, checksum_spacing(shape, num_terms, probe.limit).block(shape, probe.offset)
