"""Which rows of a call are checked: one slice per dimension, so that a sample is a view."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Size, Tensor

from numguard.checks.check import Probe


def sampled_rows(
    shape: Size | tuple[int, ...], cost: float, probe: Probe, *, in_pieces: bool = False
) -> tuple[slice, ...]:
    """Return one slice for every dimension of ``shape`` so that the rows they pick stay within the probe's limit.

    Parameters
    ----------
    shape
        Sizes of the dimensions that number the rows.
    cost
        Operations that one row costs.
    probe
        Limit and offset; every row is reached by some offset.
    in_pieces
        Whether the caller reads a long row piece by piece.

    Raises
    ------
    NotCovered
        Where one row is too long for any check.

    Notes
    -----
    The longest dimension is thinned first. What the offset leaves over inside its step picks the rows of the next.
    """
    slices = [slice(None)] * len(shape)
    remaining = cost
    for size in shape:
        remaining *= size
    if remaining:
        probe.afford(cost, in_pieces=in_pieces)
    if not in_pieces:
        probe = replace(probe, limit=min(probe.limit, probe.held))
    for dim in sorted(range(len(shape)), key=lambda number: -shape[number]):
        if remaining <= probe.limit or not shape[dim]:
            break
        picked = probe.rows(shape[dim], remaining / shape[dim])
        slices[dim] = picked
        remaining *= len(range(shape[dim])[picked]) / shape[dim]
        probe = replace(probe, offset=probe.offset * (picked.step or 1) % 1.0)
    return tuple(slices)


def view_of(tensor: Tensor, sizes: Sequence[int], strides: Sequence[int], picked: Sequence[slice]) -> Tensor:
    """Return a view of a tensor's memory with these sizes and strides, of which some rows are picked.

    Permuting and slicing one after the other would come to the same and cost two operators more.

    Parameters
    ----------
    sizes, strides
        Of all dimensions, in any order.
    picked
        Slices of the first of them.
    """
    sizes, strides, first = list(sizes), list(strides), tensor.storage_offset()
    for dim, chosen in enumerate(picked):
        if chosen.step is not None:
            start = chosen.start or 0
            first += start * strides[dim]
            sizes[dim] = -((start - sizes[dim]) // chosen.step)
            strides[dim] *= chosen.step
    return (tensor.detach() if tensor.requires_grad else tensor).as_strided(sizes, strides, first)


def last(tensor: Tensor, dim: int) -> Tensor:
    """Return a view with ``dim`` last; a number becomes a row of one element."""
    return tensor.movedim(dim, -1) if tensor.dim() else tensor.reshape(1)
