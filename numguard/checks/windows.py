"""Windows over the spatial dimensions of an image: which elements meet in one result of a convolution or a pool."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Axis(NamedTuple):
    """The windows of some results along one dimension.

    Attributes
    ----------
    positions
        ``[o, k]`` places in the source, inside its range.
    valid
        ``[o, k]`` whether that position belongs to the window.
    """

    positions: Tensor
    valid: Tensor

    @property
    def size(self) -> int:
        """Positions in a window, valid or not."""
        return self.positions.shape[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sliding:
    """A window that slides along one dimension.

    Parameters
    ----------
    kernel, stride, padding, dilation
        As in ``torch.nn.functional.conv2d``.
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def over(self, outputs: slice, num_outputs: int, size: int, device: torch.device) -> Axis:
        """Return the positions ``o * stride - padding + k * dilation`` of sampled outputs, in a source of ``size``."""
        places = torch.arange(num_outputs, device=device)[outputs]
        offsets = torch.arange(self.kernel, device=device) * self.dilation - self.padding
        return _axis(places.unsqueeze(1) * self.stride + offsets, size)

    def under(self, inputs: slice, num_inputs: int, size: int, device: torch.device) -> Axis:
        """Return the outputs, ``size`` in all, whose windows hold sampled inputs: the adjoint of ``over``."""
        places = torch.arange(num_inputs, device=device)[inputs]
        offsets = torch.arange(self.kernel, device=device) * self.dilation - self.padding
        starts = places.unsqueeze(1) - offsets
        whole = starts.div(self.stride, rounding_mode="floor")
        return _axis(torch.where(whole * self.stride == starts, whole, -1), size)


def _axis(index: Tensor, size: int) -> Axis:
    return Axis(index.clamp(0, max(0, size - 1)), (index >= 0) & (index < size))


def adaptive(outputs: slice, num_outputs: int, size: int, device: torch.device) -> Axis:
    """Return the windows ``[floor(o n / m), ceil((o + 1) n / m))`` of adaptive pooling from n elements to m."""
    every = torch.arange(num_outputs, device=device)
    starts = (every * size).div(num_outputs, rounding_mode="floor")
    stops = -((-(every + 1) * size).div(num_outputs, rounding_mode="floor"))
    longest = -(-size // max(1, num_outputs)) + 1
    index = starts[outputs].unsqueeze(1) + torch.arange(longest, device=device)
    inside = index < stops[outputs].unsqueeze(1)
    clamped = _axis(index, size)
    return Axis(clamped.positions, clamped.valid & inside)


def adaptive_under(inputs: slice, num_inputs: int, num_outputs: int, device: torch.device) -> Axis:
    """Return the outputs of adaptive pooling whose windows hold sampled inputs: the adjoint of :func:`adaptive`."""
    places = torch.arange(num_inputs, device=device)[inputs]
    first = (places * num_outputs).div(max(1, num_inputs), rounding_mode="floor") - 1
    longest = -(-num_outputs // max(1, num_inputs)) + 3
    index = first.unsqueeze(1) + torch.arange(longest, device=device)
    starts = (index * num_inputs).div(max(1, num_outputs), rounding_mode="floor")
    stops = -((-(index + 1) * num_inputs).div(max(1, num_outputs), rounding_mode="floor"))
    holds = (places.unsqueeze(1) >= starts) & (places.unsqueeze(1) < stops)
    clamped = _axis(index, num_outputs)
    return Axis(clamped.positions, clamped.valid & holds)


def gathered(source: Tensor, axes: Sequence[Axis], fill: float = 0.0) -> Tensor:
    """Return the windows of the last dimensions of ``source``: ``[*rest, o_1, o_2, ..., k_1, k_2, ...]``.

    Parameters
    ----------
    source
        ``[*rest, n_1, n_2, ...]``.
    axes
        One for each ``n_i``.
    fill
        What stands at positions that do not belong to a window.
    """
    lead, count = source.dim() - len(axes), len(axes)
    for number, axis in enumerate(axes):
        dim = lead + 2 * number
        source = source.index_select(dim, axis.positions.reshape(-1))
        source = source.unflatten(dim, tuple(axis.positions.shape))  # type: ignore[no-untyped-call]
        shape = [1] * source.dim()
        shape[dim], shape[dim + 1] = axis.valid.shape
        source = torch.where(axis.valid.reshape(shape), source, fill)
    outputs, kernel = (tuple(lead + 2 * number + part for number in range(count)) for part in (0, 1))
    return source.permute(*range(lead), *outputs, *kernel)


def window_sizes(axes: Sequence[Axis]) -> Tensor:
    """Return how many positions each window holds: ``[o_1, o_2, ...]``, float64."""
    sizes = torch.ones((), dtype=torch.float64, device=axes[0].positions.device)
    for axis in axes:
        hits = axis.valid.to(torch.float64)
        own = hits[:, 0].clone()
        for column in hits.unbind(1)[1:]:
            own = own + column
        sizes = sizes.unsqueeze(-1) * own
    return sizes
