"""Linear maps along one dimension: what interpolation and padding make of a line of elements.

Every map is a matrix ``[out, in]``. The source of output o is ``scale * (o + 1/2) - 1/2``, or ``scale * o`` where the
corners are aligned, as ``aten/src/ATen/native/UpSample.h`` documents it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

UNKNOWN: Final = 2.0**100  # roundoffs that a weight may err by where two implementations may take different elements
DOUBTFUL: Final = 2.0**-20  # what stands in ``touches`` for a weight that may be zero


class AxisMap(NamedTuple):
    """A map along one dimension, ``[out, in]`` each, float64.

    Attributes
    ----------
    weights
        The exact weights.
    slack
        What a computed weight may err by, in roundoffs of the accumulator.
    touches
        1 where a NaN of the source must show in the result, :data:`DOUBTFUL` where it may, 0 elsewhere.
    """

    weights: Tensor
    slack: Tensor
    touches: Tensor

    def transposed(self) -> "AxisMap":
        """Return the map of the gradient."""
        return AxisMap(*(part.transpose(0, 1) for part in self))

    def picked(self, rows: slice) -> "AxisMap":
        """Return some of the outputs."""
        return AxisMap(*(part[rows] for part in self))


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """How one dimension is resized.

    Parameters
    ----------
    size, num_outputs
        Elements of the source and of the result.
    align_corners
        Whether the first and the last elements of both coincide.
    factor
        Scale factor that the user gave, or None: then it is the ratio of the sizes.
    """

    size: int
    num_outputs: int
    align_corners: bool = False
    factor: float | None = None

    @property
    def scale(self) -> float:
        """Elements of the source per element of the result."""
        if self.align_corners:
            return (self.size - 1) / (self.num_outputs - 1) if self.num_outputs > 1 else 0.0
        if self.factor is not None and self.factor > 0.0:
            return 1.0 / self.factor
        return self.size / max(1, self.num_outputs)

    def sources(self, device: torch.device) -> Tensor:
        """Return where the outputs lie in the source, ``[out]``."""
        places = torch.arange(self.num_outputs, dtype=torch.float64, device=device)
        return places * self.scale if self.align_corners else (places + 0.5) * self.scale - 0.5


def _scattered(index: Tensor, values: Tensor | float, size: int) -> Tensor:
    """Return ``[out, in]`` with values ``[out, k]`` added up at ``index [out, k]``."""
    every = torch.arange(size, device=index.device)
    total = torch.zeros(index.shape[0], size, dtype=torch.float64, device=index.device)
    for tap in range(index.shape[1]):
        value = values[:, tap : tap + 1] if isinstance(values, Tensor) else values
        total = total + (index[:, tap : tap + 1] == every).to(torch.float64) * value
    return total


def _touches(definite: Tensor, doubtful: Tensor) -> Tensor:
    return torch.where(definite, 1.0, DOUBTFUL * doubtful.to(torch.float64))


def copied(index: Tensor, size: int) -> AxisMap:
    """Return the map that takes element ``index[o]`` for output o."""
    weights = _scattered(index.unsqueeze(1), 1.0, size)
    return AxisMap(weights, torch.zeros_like(weights), weights)


def nearest(axis: Axis, exact: bool, device: torch.device) -> AxisMap:
    """Return the map of nearest neighbours: element ``floor(scale * o)``, or ``floor(scale * (o + 1/2))`` if exact.

    Notes
    -----
    The scale is a float32 number, whatever the dtype. Where that and the exact product lie on two sides of a whole
    number, nothing is said.
    """
    places = torch.arange(axis.num_outputs, dtype=torch.float64, device=device) + (0.5 if exact else 0.0)
    single = places.to(torch.float32) * torch.tensor(axis.scale, dtype=torch.float32, device=device)
    wide = (places * axis.scale).floor().clamp(max=axis.size - 1).to(torch.int64)
    narrow = single.floor().clamp(max=axis.size - 1).to(torch.int64)
    plain = copied(narrow, axis.size)
    either = torch.maximum(plain.weights, _scattered(wide.unsqueeze(1), 1.0, axis.size))
    doubtful = (wide != narrow).unsqueeze(1) & (either > 0)
    return AxisMap(
        plain.weights,
        doubtful.to(torch.float64) * UNKNOWN,
        torch.where(doubtful, DOUBTFUL, plain.touches),
    )


def reflected(size: int, before: int, after: int, device: torch.device) -> AxisMap:
    """Return the map of a padding that mirrors the line at its ends."""
    place = torch.arange(-before, size + after, device=device).abs()
    return copied((size - 1) - ((size - 1) - place).abs(), size)


def replicated(size: int, before: int, after: int, device: torch.device) -> AxisMap:
    """Return the map of a padding that repeats the ends."""
    return copied(torch.arange(-before, size + after, device=device).clamp(0, size - 1), size)


def _linear_weights(t: Tensor) -> Tensor:
    return torch.stack((1.0 - t, t), dim=1)


def _cubic_weights(t: Tensor) -> Tensor:
    """Return the four weights of a cubic convolution with a = -3/4 (Keys, IEEE Trans. ASSP 29, 1981)."""
    parts = []
    for distance in (t + 1.0, t, 1.0 - t, 2.0 - t):
        near = (1.25 * distance - 2.25) * distance * distance + 1.0
        far = -0.75 * (((distance - 5.0) * distance + 8.0) * distance - 4.0)
        parts.append(torch.where(distance <= 1.0, near, far))
    return torch.stack(parts, dim=1)


def _interpolated(
    axis: Axis, source: Tensor, weigh: Callable[[Tensor], Tensor], taps: int, evaluation: float
) -> AxisMap:
    """Return the map of an interpolation by ``taps`` neighbours, whose weights are evaluated to ``evaluation`` ulp."""
    floor = source.floor().clamp(0 if taps == 2 else -1, axis.size - 1)
    t = (source - floor).clamp(0.0, 1.0)
    first = floor.to(torch.int64).unsqueeze(1) + torch.arange(taps, device=source.device) - (taps // 2 - 1)
    index = first.clamp(0, axis.size - 1)
    weights = _scattered(index, weigh(t), axis.size)
    # Scale, product and difference round once each; a weight moves at most 3/2 times as far as the source.
    error = (1.5 * 4.0 * (source.abs() + 1.0) + evaluation).unsqueeze(1)
    beyond = first[:, :1] + torch.arange(-1, taps + 1, device=source.device)
    near = (source - source.round()).abs() < 2.0**-18 * (source.abs() + 1.0)
    around = _scattered(beyond.clamp(0, axis.size - 1), 1.0, axis.size) > 0
    inside = _scattered(index, 1.0, axis.size) > 0
    slack = torch.where(inside | (around & near.unsqueeze(1)), error, 0.0)
    definite = inside & (weights.abs() > 2.0**-10) & ~near.unsqueeze(1)
    return AxisMap(weights, slack, _touches(definite, slack > 0))


def linear(axis: Axis, device: torch.device) -> AxisMap:
    """Return the map of linear interpolation."""
    source = axis.sources(device).clamp(min=0.0)
    return _interpolated(axis, source, _linear_weights, 2, 2.0)


def cubic(axis: Axis, device: torch.device) -> AxisMap:
    """Return the map of cubic convolution.

    Notes
    -----
    Horner's rule on a cubic errs by at most 8 u times the polynomial of absolute values, which is below 36 on [1, 2]
    (Higham, ASNA 2nd ed., section 5.1).
    """
    return _interpolated(axis, axis.sources(device), _cubic_weights, 4, 300.0)


def filtered(axis: Axis, device: torch.device, *, cubic_filter: bool) -> AxisMap:
    """Return the map of antialiased interpolation: a filter as wide as the scale, its weights made to sum to one.

    Notes
    -----
    The filter is a triangle, or a cubic convolution with a = -1/2; its argument errs by ``4 u`` of the source over the
    width, its slope is at most 3/2, and the sum of the weights before they are normalised is close to the width. Each
    implementation cuts the filter where it is close to zero, at a place that rounding moves.
    """
    width = max(1.0, axis.scale)
    places = torch.arange(axis.num_outputs, dtype=torch.float64, device=device)
    # With aligned corners the filter still stands at scale * (o + 1/2), as in _compute_indices_weights_aa.
    center = axis.scale * (places + 0.5)
    support = width * (2.0 if cubic_filter else 1.0)
    every = torch.arange(axis.size, dtype=torch.float64, device=device)
    first = (center - support + 0.5).trunc().clamp(min=0.0).unsqueeze(1)
    stop = (center + support + 0.5).trunc().clamp(max=float(axis.size)).unsqueeze(1)
    argument = (every - center.unsqueeze(1) + 0.5).abs() / width
    raw = _cubic_filter(argument) if cubic_filter else (1.0 - argument).clamp(min=0.0)
    raw = torch.where((every >= first) & (every < stop), raw, 0.0)
    total = raw[:, 0]
    for column in raw.unbind(1)[1:]:
        total = total + column
    weights = raw / total.unsqueeze(1)
    reached = argument < (2.0 if cubic_filter else 1.0) + 1.0 / width
    count = (2.0 * support + 2.0) / width
    error = (
        (1.5 * 4.0 * (center + support + 1.0).unsqueeze(1) / width + 60.0) * (1.0 + count) / total.abs().unsqueeze(1)
    )
    slack = torch.where(reached, error, 0.0)
    return AxisMap(weights, slack, _touches(weights.abs() > 2.0**-10, reached))


def _cubic_filter(x: Tensor) -> Tensor:
    """Return the cubic convolution with a = -1/2 (Keys, IEEE Trans. ASSP 29, 1981) at distances ``x``."""
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = -0.5 * (((x - 5.0) * x + 8.0) * x - 4.0)
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))
