"""Mean, variance and mean magnitude of the rows of a view, in float64, piece by piece."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from numguard.checks.reduced_rows import CHUNK, row_totals
from numguard.shadow.arithmetic import Arithmetic


class RowMoments(NamedTuple):
    """Moments of rows, float64, of the shape of the kept dimensions.

    Attributes
    ----------
    mean, mean_magnitude
        Means of the values and of their absolute values.
    squares
        Sums of the squared deviations from ``mean``.
    num_terms
        Elements per row.
    height
        Additions that a term of the shadow's sums passed through.
    """

    mean: Tensor
    mean_magnitude: Tensor
    squares: Tensor
    num_terms: int
    height: int

    @property
    def variance(self) -> Tensor:
        """Return the variance with divisor n."""
        return self.squares / self.num_terms


def _values(piece: Tensor) -> Iterator[Tensor]:
    wide = piece.to(torch.float64)
    yield wide
    yield wide.abs()


def moments_of(rows: Tensor, num_kept: int, arithmetic: Arithmetic) -> RowMoments:
    """Return the moments over all but the first ``num_kept`` dimensions of ``rows``, of any real dtype."""
    num_terms = max(1, rows[(0,) * num_kept].numel() if all(rows.shape[:num_kept]) else 1)
    (total, mass), height = row_totals(rows, num_kept, _values, arithmetic)
    mean = total / num_terms
    squares = _squares(rows, num_kept, mean, arithmetic)
    return RowMoments(mean, mass / num_terms, squares, num_terms, height)


def _squares(rows: Tensor, num_kept: int, mean: Tensor, arithmetic: Arithmetic) -> Tensor:
    if rows.numel() <= CHUNK or num_kept == rows.dim():
        deviation = rows.to(torch.float64) - mean.reshape(*mean.shape, *(1,) * (rows.dim() - num_kept))
        return arithmetic.total(deviation * deviation, tuple(range(num_kept, rows.dim())), False)
    shape = list(rows.shape)
    dim = shape.index(max(shape))
    pieces = torch.split(rows, max(1, shape[dim] * CHUNK // rows.numel()), dim=dim)
    if dim < num_kept:
        means = torch.split(mean, max(1, shape[dim] * CHUNK // rows.numel()), dim=dim)
        parts = [_squares(piece, num_kept, own, arithmetic) for piece, own in zip(pieces, means, strict=True)]
        return torch.cat(parts, dim=dim)
    total = _squares(pieces[0], num_kept, mean, arithmetic)
    for piece in pieces[1:]:
        total = total + _squares(piece, num_kept, mean, arithmetic)
    return total
