"""Every convolution, its transpose and their gradients as sums over windows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.windows import Axis, Sliding, gathered
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import NotCovered

CHUNK: Final = 1 << 20  # elements of windows that lie in memory at once

Product = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """What a convolution and its gradients have in common.

    Parameters
    ----------
    axes
        One window for each spatial dimension.
    groups
        Independent groups of channels.
    transposed
        Whether the forward pass spreads its windows instead of gathering them.
    """

    axes: tuple[Sliding, ...]
    groups: int
    transposed: bool

    @property
    def kernel_size(self) -> int:
        """Elements of a window."""
        size = 1
        for axis in self.axes:
            size *= axis.kernel
        return size

    def windows(
        self, places: Sequence[slice], outputs: Sequence[int], source: Tensor, *, spread: bool
    ) -> tuple[Axis, ...]:
        """Return the windows of the picked places along every dimension of ``source``.

        Parameters
        ----------
        places, outputs
            Picked places of each dimension, and how many there are.
        spread
            Whether to take the places that a window is spread over, in place of those that it gathers.
        """
        sizes = source.shape[-len(self.axes) :]
        parts = zip(self.axes, places, outputs, sizes, strict=True)
        return tuple(
            (axis.under if spread else axis.over)(place, output, size, source.device)
            for axis, place, output, size in parts
        )


def geometry_of(call: OpCall) -> Geometry:
    """Return the windows of a call.

    Raises
    ------
    NotCovered
        For unbatched inputs, and tensors that are complex or not strided.
    """
    weight = call["weight"]
    count = weight.dim() - 2
    for name in ("input", "weight", "bias", "grad_output"):
        value = call.arguments.get(name)
        if isinstance(value, Tensor) and (value.is_complex() or value.layout != torch.strided):
            raise NotCovered(f"{'complex numbers' if value.is_complex() else f'{value.layout} tensors'}")
    if call["input"].dim() != count + 2:
        raise NotCovered("a convolution without a batch dimension")
    if call["input"].dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise NotCovered(f"convolutions of {call['input'].dtype}")

    def each(values: Any) -> list[int]:
        listed = list(values)
        return listed * count if len(listed) == 1 else listed

    stride, padding, dilation = (each(call[name]) for name in ("stride", "padding", "dilation"))
    parts = zip(weight.shape[2:], stride, padding, dilation, strict=True)
    axes = tuple(Sliding(kernel=k, stride=s, padding=p, dilation=d) for k, s, p, d in parts)
    return Geometry(axes=axes, groups=call["groups"], transposed=call["transposed"])


def in_groups(tensor: Tensor, groups: int) -> Tensor:
    """Return ``[N, groups, channels / groups, *spatial]``, a view of any layout."""
    grouped: Tensor = tensor.detach().unflatten(1, (groups, tensor.shape[1] // groups))  # type: ignore[no-untyped-call]
    return grouped


def weight_in_groups(weight: Tensor, groups: int) -> Tensor:
    """Return ``[groups, first / groups, second, *kernel]``: the first dimension of a weight is the one in groups."""
    grouped: Tensor = weight.detach().unflatten(0, (groups, weight.shape[0] // groups))  # type: ignore[no-untyped-call]
    return grouped


def sums_over_windows(source: Tensor, factors: Tensor, axes: Sequence[Axis], product: Product) -> Tensor:
    """Return ``[n, g, c, *o]``, the sums of windows of ``source [n, g, b, *spatial]`` times ``factors [g, b K, c]``.

    A few samples or lines at a time: windows overlap, so that they fill more memory than their source.
    """
    terms = factors.shape[0] * factors.shape[1] * _places(axes)
    if source.shape[0] > 1 and terms * source.shape[0] > CHUNK:
        parts = [
            sums_over_windows(some, factors, axes, product) for some in torch.split(source, max(1, CHUNK // terms))
        ]
        return torch.cat(parts)
    lines = axes[0].positions.shape[0]
    if lines > 1 and terms > CHUNK:
        step = max(1, lines * CHUNK // terms)
        pieces = zip(torch.split(axes[0].positions, step), torch.split(axes[0].valid, step), strict=True)
        parts = [sums_over_windows(source, factors, (Axis(*piece), *axes[1:]), product) for piece in pieces]
        return torch.cat(parts, dim=3)
    count = len(axes)
    windows = gathered(source.to(torch.float64), axes)  # [n, g, b, *o, *k]
    rows = windows.permute(0, 1, *range(3, 3 + count), 2, *range(3 + count, 3 + 2 * count))
    rows = rows.reshape(source.shape[0], source.shape[1], _places(axes), factors.shape[1])
    value = product(rows, factors.unsqueeze(0)).transpose(-1, -2)  # [n, g, c, prod o]
    return value.reshape(*value.shape[:3], *(axis.positions.shape[0] for axis in axes))


def window_products(small: Tensor, source: Tensor, axes: Sequence[Axis], product: Product) -> Tensor:
    """Return ``[g, a, b, *k]``, the sums over samples and places of ``small [n, g, a, *o]`` times the windows.

    Parameters
    ----------
    source
        ``[n, g, b, *spatial]``.
    """
    terms = source.shape[1] * source.shape[2] * _places(axes)
    for axis in axes:
        terms *= axis.size
    if source.shape[2] > 1 and terms > CHUNK:
        step = max(1, source.shape[2] * CHUNK // terms)
        parts = [window_products(small, some, axes, product) for some in torch.split(source, step, dim=2)]
        return torch.cat(parts, dim=2)
    count, groups, width = len(axes), source.shape[1], source.shape[2]
    shape = (groups, small.shape[2], width, *(axis.size for axis in axes))
    total = torch.zeros(shape, dtype=torch.float64, device=source.device)
    step = max(1, CHUNK // max(1, terms))
    for left, right in zip(torch.split(small, step), torch.split(source, step), strict=True):
        windows = gathered(right.to(torch.float64), axes)
        rows = windows.permute(1, 0, *range(3, 3 + count), 2, *range(3 + count, 3 + 2 * count))
        rows = rows.reshape(groups, right.shape[0] * _places(axes), -1)
        columns = left.to(torch.float64).permute(1, 2, 0, *range(3, 3 + count)).reshape(groups, shape[1], rows.shape[1])
        total = total + product(columns, rows).reshape(shape)
    return total


def _places(axes: Sequence[Axis]) -> int:
    places = 1
    for axis in axes:
        places *= axis.positions.shape[0]
    return places
