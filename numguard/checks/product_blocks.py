"""Which part of a matrix product is formed again, and which part a checksum covers."""

from dataclasses import replace
from typing import Final, NamedTuple

from torch import Tensor

from numguard.checks.check import Probe
from numguard.checks.gemm import Gemm

ALL: Final = slice(None)
READINGS: Final = 4  # passes of the checksum over its operands: value, size, square, and the copy in float64
Shape = tuple[int, int, int]


class Block(NamedTuple):
    """Evenly spaced batches, rows and columns of a product."""

    batches: slice = ALL
    rows: slice = ALL
    columns: slice = ALL

    @property
    def complete(self) -> bool:
        """True where nothing is left out."""
        return self.rows == ALL and self.columns == ALL and self.batches == ALL

    def of(self, gemm: Gemm) -> Gemm:
        """Return the product restricted to this block, as views."""
        added = None if gemm.added is None else self.cut(gemm.added)
        return replace(gemm, a=gemm.a[self.batches, self.rows], b=gemm.b[self.batches, :, self.columns], added=added)

    def cut(self, matrix: Tensor) -> Tensor:
        """Return this block of a matrix ``[B, M, N]``."""
        return matrix[self.batches, self.rows, self.columns]


def _taken(count: int, chosen: slice) -> int:
    return len(range(count)[chosen])


def _sampled(shape: Shape, num_terms: int, probe: Probe) -> Block:
    """Return the elements to form again: rows first, then batches, then columns where one row is too many."""
    batches, rows, columns = shape
    terms = 2 * max(1, num_terms)  # the value and its mass
    probe.afford(terms)
    chosen_rows = probe.rows(rows, batches * columns * terms)
    cost = _taken(rows, chosen_rows) * terms
    chosen_batches = probe.rows(batches, columns * cost)
    cost *= _taken(batches, chosen_batches)
    return Block(batches=chosen_batches, rows=chosen_rows, columns=probe.rows(columns, cost))


def _summed(shape: Shape, num_terms: int, probe: Probe) -> Block:
    """Return the block that the checksum covers: all of the product where reading it once is within the limit."""
    batches, rows, columns = shape
    terms = READINGS * max(1, num_terms)
    columns *= READINGS
    chosen_rows = probe.rows(rows, batches * (terms + columns))
    taken = _taken(rows, chosen_rows)
    chosen_batches = probe.rows(batches, taken * (terms + columns) + terms * columns)
    cost = _taken(batches, chosen_batches) * (READINGS * taken + terms)
    chosen_columns = probe.rows(shape[2], cost)
    return Block(batches=chosen_batches, rows=chosen_rows, columns=chosen_columns)


def blocks_of(shape: Shape, num_terms: int, probe: Probe, *, is_summed: bool) -> tuple[Block, Block | None]:
    """Return the elements to form again and, where these are not all, what a checksum covers beside them.

    Parameters
    ----------
    shape, num_terms
        ``(B, M, N)`` and K.
    is_summed
        Whether checksums say anything of this product.
    """
    block = _sampled(shape, num_terms, probe)
    return block, _summed(shape, num_terms, probe) if is_summed and not block.complete else None
