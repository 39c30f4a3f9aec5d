"""Plain matrix products judged by one call of a fused route, on addresses and strides: no view is made on the way."""

from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor

from numguard.backends.dot import dtype_number
from numguard.checks.check import Probe
from numguard.checks.freivalds import first_sign
from numguard.checks.judged_products import checksum_of, comparison_of, judging
from numguard.checks.matmul_precision import (
    Flags,
    Precision,
    flags_now,
    precision_of,
    reads_subnormals_as_zero,
    with_stored_sums,
)
from numguard.checks.product_blocks import Block, Shape, blocks_of
from numguard.shadow.arithmetic import Part
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import JudgedComparison

if TYPE_CHECKING:
    from numguard.backends.dot import Judging

#: Names of the two factors.
_PLAIN: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "aten::mm": ("self", "mat2"),
        "aten::bmm": ("self", "mat2"),
        "aten::addmm": ("mat1", "mat2"),
        "aten::baddbmm": ("batch1", "batch2"),
    }
)
_NOTHING: Final = (0, 0, 0, 0, 0)


class _Grid(NamedTuple):
    """A batch of matrices in the caller's memory: address, dtype by number and size, strides in elements."""

    address: int
    dtype: int
    itemsize: int
    batch: int
    row: int
    column: int

    def part(self, rows: range | None, columns: range | None, batches: range) -> tuple[int, int, int, int, int]:
        """Return the words of a part; None stands for all."""
        batch, row, column = self.batch * batches.step, self.row, self.column
        first = self.batch * batches.start
        if rows is not None:
            first += row * rows.start
            row *= rows.step
        if columns is not None:
            first += column * columns.start
            column *= columns.step
        return self.address + first * self.itemsize, self.dtype, batch, row, column


def _grid(tensor: Tensor, shape: Shape | None = None) -> _Grid | None:
    """Return a tensor of matrices, spread to a shape where one is given; None for dtypes that the route cannot read."""
    number = dtype_number(tensor.dtype)
    if number is None:
        return None
    strides: Sequence[int] = tensor.stride()
    if shape is not None:
        sizes = tensor.shape
        strides = [stride if size != 1 else 0 for size, stride in zip(sizes, strides, strict=True)]
    strides = (0,) * (3 - len(strides)) + tuple(strides)
    return _Grid(tensor.data_ptr(), number, tensor.element_size(), *strides)


@lru_cache(maxsize=4096)
def _records(
    dtypes: tuple[torch.dtype, torch.dtype],
    flags: Flags,
    adds: bool,
    scalars: tuple[float, float],
    num_terms: int,
    num_rows: int,
    heights: tuple[int, int],
    flushes: bool,
) -> "tuple[Precision, Judging, Judging]":
    """Return the models, and what elements and checksums over ``num_rows`` rows are judged by."""
    dtype, output = dtypes
    precision = with_stored_sums(precision_of(dtype, output, "cpu", flags), output, adds=adds, num_sums=1)
    alpha, beta = scalars
    propagates = dtype != torch.float64 and alpha != 0
    return (
        precision,
        judging(precision, output, num_terms + 1, 1, alpha, beta, (0, heights[1]), flushes, False, propagates),
        judging(precision, output, num_terms, num_rows, alpha, beta, heights, flushes, False, False),
    )


class _Product(NamedTuple):
    a: _Grid
    b: _Grid
    result: _Grid
    added: _Grid | None

    def part(self, picked: tuple[range, range, range], num_terms: int) -> Part:
        batches, rows, columns = picked
        words = array("q", self.a.part(rows, None, batches))
        words.extend(self.b.part(None, columns, batches))
        words.extend(self.result.part(rows, columns, batches))
        words.extend(_NOTHING if self.added is None else self.added.part(rows, columns, batches))
        return words, array("q", (len(batches), len(rows), len(columns), num_terms))


def _picked(block: Block, shape: Shape) -> tuple[range, range, range]:
    batches, rows, columns = shape
    return range(batches)[block.batches], range(rows)[block.rows], range(columns)[block.columns]


def _read(call: OpCall, names: tuple[str, str]) -> tuple[_Product, Shape, int] | None:
    """Return a product with its shape and number of terms; None where something about it is not plain."""
    a, b, result = call[names[0]], call[names[1]], call.output
    beta = call.arguments.get("beta", 0)
    added = call["self"] if beta != 0 else None
    if not a.dtype.is_floating_point or a.dtype != b.dtype or a.element_size() == 1 or not result.numel():
        return None
    shape = (a.shape[0] if a.dim() == 3 else 1, result.shape[-2], result.shape[-1])
    num_terms = a.shape[-1]
    if not num_terms or result.dim() != a.dim():
        return None
    grids = _grid(a), _grid(b), _grid(result), None if added is None else _grid(added, shape)
    if grids[0] is None or grids[1] is None or grids[2] is None or (added is not None and grids[3] is None):
        return None
    return _Product(grids[0], grids[1], grids[2], grids[3]), shape, num_terms


def _view(result: Tensor, grid: _Grid, picked: tuple[range, range, range]) -> Tensor:
    """Return the picked elements of a result, ``[B, M, N]``."""
    batches, rows, columns = picked
    return result.detach().as_strided(
        (len(batches), len(rows), len(columns)),
        (grid.batch * batches.step, grid.row * rows.step, grid.column * columns.step),
        result.storage_offset() + grid.batch * batches.start + grid.row * rows.start + grid.column * columns.start,
    )


def judged_contraction(call: OpCall, probe: Probe) -> Sequence[JudgedComparison] | None:
    """Return the comparisons of elements and checksums of a product, judged; None where the route cannot read it."""
    names, fused = _PLAIN.get(call.op), probe.arithmetic.fused
    read = None if names is None or fused is None else _read(call, names)
    if names is None or fused is None or read is None:
        return None
    product, shape, num_terms = read
    a, result = call[names[0]], call.output
    block, summed = blocks_of(shape, num_terms, probe, is_summed=True)
    picked = _picked(block, shape)
    covered = None if summed is None else _picked(summed, shape)
    num_rows = 1 if covered is None else len(covered[1])
    height = probe.arithmetic.height
    precision, by, summed_by = _records(
        (a.dtype, result.dtype),
        flags_now(a.dtype, "cpu"),
        product.added is not None,
        (float(call.arguments.get("alpha", 1)), float(call.arguments.get("beta", 0) if product.added else 1)),
        num_terms,
        num_rows,
        (height(num_rows), height(num_terms)),
        reads_subnormals_as_zero(a.dtype),
    )
    judged = fused.parts(
        (a, call[names[1]], result, call["self"] if product.added is not None else None),
        product.part(picked, num_terms),
        by,
        None if covered is None else product.part(covered, num_terms),
        summed_by,
        first_sign(probe.offset),
    )
    if judged is None:
        return None
    elements, sums = judged
    comparisons = [comparison_of("result", partial(_view, result, product.result, picked), elements, by, precision)]
    if sums is not None:
        comparisons.append(checksum_of(sums, summed_by, precision))
    return comparisons
