"""Plain matrix products judged by one call of a fused route, on addresses and strides: no view is made on the way.

A training multiplies matrices of the same layouts in every step. What follows from the layouts is worked out once and
kept as a plan; a call adds where its tensors lie and which rows an offset picks.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from operator import mul
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor

from numguard.backends.dot import dtype_number
from numguard.checks.check import Probe, first_of
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
from numguard.checks.product_blocks import (
    Shape,
    Spacing,
    checksum_spacing,
    element_spacing,
    operations_of_an_element,
)
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
_MOST_PLANS: Final = 4096
Layout = tuple[torch.dtype, torch.Size, tuple[int, ...]]


def _layout(tensor: Tensor) -> Layout:
    return tensor.dtype, tensor.shape, tensor.stride()


class _Grid(NamedTuple):
    """Layout of a batch of matrices: dtype by number, strides of batches, rows and columns in elements, item size."""

    dtype: int
    batch: int
    row: int
    column: int
    itemsize: int


def _grid(layout: Layout, *, is_spread: bool = False) -> _Grid | None:
    """Return the grid of a layout, spread over missing sizes on request; None for dtypes that the route cannot read."""
    dtype, sizes, strides = layout
    number = dtype_number(dtype)
    if number is None:
        return None
    if is_spread:
        strides = tuple(stride if size != 1 else 0 for size, stride in zip(sizes, strides, strict=True))
    return _Grid(number, *(0,) * (3 - len(strides)), *strides, itemsize=dtype.itemsize)  # type: ignore[misc]


class _Part:
    """Some elements of products of one layout, or what a checksum covers: all but where the memory lies."""

    __slots__ = ("_distances", "_num_terms", "_shape", "_spacing", "_strides", "_words")

    def __init__(self, grids: Sequence[_Grid | None], shape: Shape, num_terms: int, spaced: Spacing) -> None:
        self._shape, self._num_terms, self._spacing = shape, num_terms, spaced
        self._words = array("q")
        self._distances: list[tuple[int, int, int]] = []  # in bytes, between batches, rows and columns of the product
        uses = ((1, 1, 0), (1, 0, 1), (1, 1, 1), (1, 1, 1))
        for grid, (batch, row, column) in zip(grids, uses, strict=True):
            if grid is None:
                self._words.extend((0, 0, 0, 0, 0))
                continue
            steps = spaced.batches, spaced.rows if row else 1, spaced.columns if column else 1
            strides = (grid.batch * steps[0], grid.row * steps[1], grid.column * steps[2])
            self._words.extend((0, grid.dtype, *strides))
            distances = (grid.batch * batch, grid.row * row, grid.column * column)
            self._distances.append(tuple(grid.itemsize * distance for distance in distances))  # type: ignore[arg-type]
        result = grids[2]
        assert result is not None
        self._strides = result.batch, result.row, result.column

    def begin(self, offset: float) -> tuple[int, int, int]:
        """Return the first batch, row and column that an offset picks."""
        batch, row, column = map(first_of, self._spacing, self._shape, (offset, offset, offset))
        return batch, row, column

    def num_rows(self, begin: tuple[int, int, int]) -> int:
        """Return how many rows there are from ``begin`` on."""
        return -((begin[1] - self._shape[1]) // self._spacing.rows)

    def sizes(self, begin: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return how many batches, rows and columns there are from ``begin`` on."""
        (batches, _, columns), (batch, _, column) = self._shape, self._spacing
        return -((begin[0] - batches) // batch), self.num_rows(begin), -((begin[2] - columns) // column)

    def placed(self, begin: tuple[int, int, int], addresses: Sequence[int]) -> Part:
        """Return words and sizes of the part of tensors that lie at these addresses."""
        words = self._words[:]
        batch, row, column = begin
        at = 0
        for address, (batches, rows, columns) in zip(addresses, self._distances, strict=True):
            words[at] = address + batch * batches + row * rows + column * columns
            at += 5
        return words, array("q", (*self.sizes(begin), self._num_terms))

    def view(self, result: Tensor, begin: tuple[int, int, int]) -> Tensor:
        """Return the elements of a result, ``[B, M, N]``."""
        strides = tuple(map(mul, self._strides, self._spacing))
        first = result.storage_offset() + sum(map(mul, self._strides, begin))
        return result.detach().as_strided(self.sizes(begin), strides, first)


class _Plan(NamedTuple):
    """How products of one layout are judged within one limit; sums are judged by the number of their rows."""

    least: int
    precision: Precision
    elements: _Part
    by: "Judging"
    summed: _Part | None
    by_sums: "Callable[[int], Judging]"


def _plan(
    layouts: tuple[Layout, Layout, Layout, Layout | None],
    scalars: tuple[float, float],
    flags: tuple[Flags, bool],
    probe: Probe,
) -> _Plan | None:
    """Return the plan for factors, result and addend; None where something about them is not plain."""
    a, b, result, added = layouts
    dtype, sizes, _ = a
    if not dtype.is_floating_point or dtype != b[0] or dtype.itemsize == 1 or 0 in result[1] or not sizes[-1]:
        return None
    if len(result[1]) != len(sizes):
        return None
    shape = (sizes[0] if len(sizes) == 3 else 1, result[1][-2], result[1][-1])
    num_terms = sizes[-1]
    grids = [*map(_grid, (a, b, result)), None if added is None else _grid(added, is_spread=True)]
    if None in grids[:3] or (added is not None and grids[3] is None):
        return None
    height, (alpha, beta), (rounds, flushes) = probe.arithmetic.height, scalars, flags
    precision = with_stored_sums(
        precision_of(dtype, result[0], "cpu", rounds), result[0], adds=added is not None, num_sums=1
    )
    terms_height, propagates = height(num_terms), dtype != torch.float64 and alpha != 0
    by = partial(judging, precision, result[0])

    @cache
    def by_sums(num_rows: int) -> "Judging":
        return by(num_terms, num_rows, alpha, beta, (height(num_rows), terms_height), flushes, False, False)

    spaced = element_spacing(shape, num_terms, probe.limit)
    covered = None if spaced.complete else checksum_spacing(shape, num_terms, probe.limit)
    return _Plan(
        operations_of_an_element(num_terms),
        precision,
        _Part(grids, shape, num_terms, spaced),
        by(num_terms + 1, 1, alpha, beta, (0, terms_height), flushes, False, propagates),
        None if covered is None else _Part(grids, shape, num_terms, covered),
        by_sums,
    )


_plans: dict[tuple[object, ...], _Plan | None] = {}


def judged_contraction(call: OpCall, probe: Probe) -> Sequence[JudgedComparison] | None:
    """Return the comparisons of elements and checksums of a product, judged; None where the route cannot read it."""
    names, fused = _PLAIN.get(call.op), probe.arithmetic.fused
    if names is None or fused is None:
        return None
    given = call.arguments
    a, b, result = given[names[0]], given[names[1]], call.output
    alpha, beta = given.get("alpha", 1), given.get("beta", 0)
    added = given["self"] if beta != 0 else None
    layouts = _layout(a), _layout(b), _layout(result), None if added is None else _layout(added)
    flags = flags_now(a.dtype, "cpu"), reads_subnormals_as_zero(a.dtype)
    key = (*layouts, alpha, beta, flags, probe.limit, id(fused))  # the routes live as long as the process
    try:
        plan = _plans[key]
    except KeyError:
        if len(_plans) >= _MOST_PLANS:
            _plans.clear()
        plan = _plans[key] = _plan(layouts, (float(alpha), float(beta if beta != 0 else 1)), flags, probe)
    if plan is None:
        return None
    probe.afford(plan.least)
    tensors = (a, b, result, added)
    addresses = [tensor.data_ptr() for tensor in tensors if tensor is not None]
    begin, summed, summed_by = plan.elements.begin(probe.offset), None, None
    if plan.summed is not None:
        covered = plan.summed.begin(probe.offset)
        summed, summed_by = plan.summed.placed(covered, addresses), plan.by_sums(plan.summed.num_rows(covered))
    judged = fused.parts(
        tensors, plan.elements.placed(begin, addresses), plan.by, summed, summed_by, first_sign(probe.offset)
    )
    if judged is None:
        return None
    found, sums = judged
    view = partial(plan.elements.view, result, begin)
    comparisons = [comparison_of("result", view, found, plan.by, plan.precision)]
    if sums is not None and summed_by is not None:
        comparisons.append(checksum_of(sums, summed_by, plan.precision))
    return comparisons
