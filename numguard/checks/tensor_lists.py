"""Samples of lists of tensors, joined, so that the number of operations does not grow with the number of tensors."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from numguard.checks.check import Probe
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF

ELEMENTS_PER_TENSOR: Final = 256  # a share phi of wrong elements is missed with probability (1 - phi)^256
DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Some elements of some tensors of a list; the same elements of every list with the same shapes.

    Parameters
    ----------
    numbers
        Positions of the tensors in the list.
    windows
        For each of them the slices that pick its elements: views, whatever the strides.
    sizes
        Elements picked from each.
    """

    numbers: tuple[int, ...]
    windows: tuple[tuple[slice, ...], ...]
    sizes: tuple[int, ...]

    def of(self, tensors: Sequence[Tensor], *, copies: bool = True) -> Tensor:
        """Return a contiguous vector of the selected elements in the tensors' own dtype.

        Parameters
        ----------
        copies
            Whether it must be a new one, because the tensors will be overwritten.
        """
        if len(self.numbers) == 1:
            picked = tensors[self.numbers[0]][self.windows[0]]
            row = picked.reshape(-1).contiguous()  # a copy already where there are gaps
            return row.clone() if copies and row.data_ptr() == picked.data_ptr() else row
        return torch.cat(
            [tensors[number][window].reshape(-1) for number, window in zip(self.numbers, self.windows, strict=True)]
        )

    def spread(self, values: Tensor) -> Tensor:
        """Return a vector of the selection's length from one value per selected tensor."""
        return torch.cat([value.expand(size) for value, size in zip(values.unbind(), self.sizes, strict=True)])

    def segments(self, name: str) -> tuple[tuple[str, int], ...]:
        """Return ``("param[3]", 256)`` for every tensor, in the order of the elements."""
        return tuple((f"{name}[{number}]", size) for number, size in zip(self.numbers, self.sizes, strict=True))

    def label(self, name: str) -> str:
        """Return ``"param[3]"`` for one tensor and ``"param"`` for several."""
        return f"{name}[{self.numbers[0]}]" if len(self.numbers) == 1 else name


def lattice(shape: Sequence[int], limit: float, fraction: float) -> tuple[slice, ...]:
    """Return slices that pick about ``limit`` evenly spread elements of a tensor, at least one.

    Parameters
    ----------
    shape
        Shape of the tensor.
    limit
        Largest number of elements wanted; exceeded by at most a factor of two per dimension.
    fraction
        A number in [0, 1) that picks among the shifted lattices: every element lies on one of them.
    """
    steps = _steps(tuple(shape), limit)
    if steps is None:
        return (slice(None),) * len(shape)
    number = int(fraction * math.prod(steps))
    windows = []
    for step in steps:
        number, start = divmod(number, step)
        windows.append(slice(start, None, step))
    return tuple(windows)


@lru_cache(maxsize=4096)
def _steps(shape: tuple[int, ...], limit: float) -> tuple[int, ...] | None:
    """Return the steps of a lattice along each dimension; None where it takes every element."""
    remaining = math.prod(shape) / max(1.0, limit)
    if remaining <= 1.0:
        return None
    steps = [1] * len(shape)
    order = sorted(range(len(shape)), key=shape.__getitem__)
    for position, dim in enumerate(order):
        share = remaining ** (1.0 / (len(order) - position))
        steps[dim] = max(1, min(shape[dim], math.ceil(share - 1e-9)))
        remaining /= steps[dim]
    return tuple(steps)


def select(tensors: Sequence[Tensor], numbers: Sequence[int], probe: Probe, cost: float) -> Selection:
    """Choose elements of the tensors at positions ``numbers`` when each element costs ``cost`` operations.

    All elements where the probe's limit allows it; otherwise a few hundred of a few tensors in turn.
    """
    wanted = probe.limit / cost
    if len(numbers) == 1:
        shape = tensors[numbers[0]].shape
        window = lattice(shape, max(1.0, wanted), probe.offset)
        size = math.prod([len(range(*piece.indices(length))) for piece, length in zip(window, shape, strict=True)])
        return Selection(numbers=tuple(numbers), windows=(window,), sizes=(size,))
    num_elements = sum(tensors[number].numel() for number in numbers)
    chosen, per_tensor, fraction = list(numbers), math.inf, probe.offset
    if num_elements > wanted:
        step = -(-len(chosen) // max(1, int(wanted // ELEMENTS_PER_TENSOR)))
        first = min(int(probe.offset * step), len(chosen) - 1)
        fraction = probe.offset * step - first
        chosen = chosen[first::step]
        per_tensor = max(1.0, wanted / len(chosen))
    windows = tuple(lattice(tensors[number].shape, per_tensor, fraction % 1.0) for number in chosen)
    sizes = tuple(
        math.prod(len(range(*window.indices(size))) for window, size in zip(slices, tensors[number].shape, strict=True))
        for number, slices in zip(chosen, windows, strict=True)
    )
    return Selection(numbers=tuple(chosen), windows=windows, sizes=sizes)


def groups_of_one_dtype(lists: Sequence[Sequence[Tensor]]) -> list[list[int]]:
    """Return the positions of the tensors, grouped by the dtypes that stand at one position in all lists."""
    groups: dict[tuple[torch.dtype, ...], list[int]] = {}
    for number, row in enumerate(zip(*lists, strict=True)):
        groups.setdefault(tuple(tensor.dtype for tensor in row), []).append(number)
    return list(groups.values())


def reason_against(lists: Mapping[str, Sequence[Tensor]]) -> str | None:
    """Return why lists of tensors cannot be judged, or None where they can."""
    names = list(lists)
    if any(len(lists[name]) != len(lists[names[0]]) for name in names):
        return "lists of different lengths"
    for row in zip(*lists.values(), strict=True):
        for tensor in row:
            if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
                return f"{str(tensor.layout).removeprefix('torch.')} or quantized tensors are not covered"
            if tensor.dtype not in UNIT_ROUNDOFF or tensor.dtype not in DTYPES:
                return f"{str(tensor.dtype).removeprefix('torch.')} tensors are not covered"
            if tensor.device.type == "meta":
                return "meta tensors hold no numbers"
            if tensor.device != row[0].device or tensor.shape != row[0].shape:
                return "tensors of one parameter differ in shape or device"
    return None


def as_arrays(probe: Probe, device: torch.device) -> tuple[Any, Callable[[Tensor], Any], Callable[[Any], Tensor]]:
    """Return the namespace of the probe's route, the way into its float64 arrays and the way back.

    NumPy where the route is NumPy's, so that no kernel of torch takes part; torch otherwise.
    """
    if probe.arithmetic.is_numpy and device.type == "cpu":
        return np, lambda tensor: tensor.detach().double().numpy(), lambda array: torch.from_numpy(np.asarray(array))
    return torch, lambda tensor: tensor.detach().double(), lambda tensor: tensor
