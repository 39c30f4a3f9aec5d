"""How the elements of batch, group and instance normalisation split into groups that are normalised together."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from numguard.checks.check import Probe
from numguard.checks.reduced_rows import CHUNK, require_numbers
from numguard.checks.row_samples import sampled_rows
from numguard.numerics.error_bounds.channel_norm_bounds import Given, GradientSums
from numguard.shadow.arithmetic import Arithmetic


class Groups(NamedTuple):
    """Some groups of elements, and which of their elements are judged one by one.

    Attributes
    ----------
    num_kept
        Leading dimensions of a grouped view that number the groups.
    picked
        One slice for each of these.
    elements
        One slice for each other dimension.
    num_terms
        Elements of a group.
    """

    num_kept: int
    picked: tuple[slice, ...]
    elements: tuple[slice, ...]
    num_terms: int

    def rows(self, grouped: Tensor) -> Tensor:
        """Return whole groups."""
        return grouped.detach()[self.picked]

    def sampled(self, grouped: Tensor) -> Tensor:
        """Return the judged elements of these groups in float64."""
        return self.as_stored(grouped).to(torch.float64)

    def as_stored(self, grouped: Tensor) -> Tensor:
        """Return the judged elements of these groups in their own dtype."""
        return grouped.detach()[self.picked + self.elements]

    def statistic(self, values: Tensor) -> Tensor:
        """Return one number a group, of the shape ``[*kept]``, ready to broadcast against elements."""
        return values.reshape(*values.shape, *(1,) * len(self.elements))


def groups_of(grouped: Tensor, num_kept: int, cost: float, probe: Probe) -> Groups:
    """Return the groups that the probe picks, each whole, and the elements that it picks from them.

    Parameters
    ----------
    grouped
        View with the dimensions that number the groups first.
    cost
        Operations an element: for its part in the sums and for its own judgement, half each.
    """
    require_numbers(grouped)
    shape = grouped.shape
    num_terms = shape[num_kept:].numel()
    picked = sampled_rows(tuple(shape[:num_kept]), cost * max(1, num_terms) / 2.0, probe, in_pieces=True)
    count = 1
    for size, part in zip(shape[:num_kept], picked, strict=True):
        count *= len(range(size)[part])
    elements = sampled_rows(tuple(shape[num_kept:]), cost * max(1, count) / 2.0, probe)
    return Groups(num_kept, picked, elements, num_terms)


def by_channel(tensor: Tensor) -> Tensor:
    """Return ``[C, N, *spatial]``."""
    return tensor.movedim(1, 0)


def by_group(tensor: Tensor, num_groups: int) -> Tensor:
    """Return ``[N, G, C / G, *spatial]``, a view of any layout."""
    grouped: Tensor = tensor.unflatten(1, (num_groups, tensor.shape[1] // num_groups))  # type: ignore[no-untyped-call]
    return grouped


def _pieces(tensors: Sequence[Tensor], num_kept: int) -> Iterator[tuple[slice, ...]]:
    """Yield slices of all dimensions such that a piece is small; groups that are picked apart come several times."""
    shape = tensors[0].shape
    if tensors[0].numel() <= CHUNK or not tensors[0].numel():
        yield (slice(None),) * len(shape)
        return
    dim = max(range(len(shape)), key=lambda number: shape[number])
    step = max(1, shape[dim] * CHUNK // tensors[0].numel())
    for start in range(0, shape[dim], step):
        here = (slice(None),) * dim + (slice(start, start + step),) + (slice(None),) * (len(shape) - dim - 1)
        for inner in _pieces([tensors[0][here]], num_kept):
            cut = inner[dim]
            first = start + (cut.start or 0)
            last = min(start + step, shape[dim]) if cut.stop is None else min(start + cut.stop, shape[dim])
            yield (*inner[:dim], slice(first, last), *inner[dim + 1 :])


def gradient_sums(
    dy: Tensor, x: Tensor, given: Given, num_kept: int, inner_weight: Tensor | None, arithmetic: Arithmetic
) -> GradientSums:
    """Return the sums of :class:`GradientSums` by groups.

    Parameters
    ----------
    dy, x
        Whole groups, of any dtype.
    given
        Statistics that broadcast against them.
    inner_weight
        Weights that differ within a group, or None.
    """
    shape = dy.shape[:num_kept]
    totals = torch.zeros((6, *shape), dtype=torch.float64, device=dy.device)
    for piece in _pieces((dy,), num_kept):
        kept, dims = piece[:num_kept], tuple(range(num_kept + 1, dy.dim() + 1))
        t, values = dy[piece].to(torch.float64), x[piece].to(torch.float64)
        if inner_weight is not None:
            t = t * inner_weight[_within(inner_weight, piece)]
        mean, rstd = (part[_within(part, piece)] for part in (given.mean, given.rstd))
        terms = torch.stack((t, t * values, t * ((values - mean) * rstd)))
        terms = torch.cat((terms, terms.abs()))
        totals[(slice(None), *kept)] += arithmetic.total(terms, dims, False)
    return GradientSums(*totals)


def _within(tensor: Tensor, piece: tuple[slice, ...]) -> tuple[slice, ...]:
    """Return the slices of a tensor that broadcasts against what ``piece`` cuts."""
    return tuple(slice(None) if size == 1 else part for size, part in zip(tensor.shape, piece, strict=True))
