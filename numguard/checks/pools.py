"""Which windows each pooling operator takes, in one or both directions."""

from math import prod
from typing import Any

import torch
from torch import Tensor

from numguard.checks.windows import Axis, Sliding, adaptive, adaptive_under, window_sizes
from numguard.shadow.call import OpCall


def spatial_count(call: OpCall) -> int:
    """Return how many spatial dimensions an operator pools over: its name says so."""
    return 3 if "3d" in call.op else 2


def _each(values: Any, count: int, fallback: Any) -> list[int]:
    listed = [values] * count if isinstance(values, int) else list(values if values is not None else ())
    if not listed:
        listed = list(fallback)
    return listed * count if len(listed) == 1 else listed


def sliding_of(call: OpCall) -> tuple[Sliding, ...]:
    """Return the windows of a pool with a kernel."""
    count = spatial_count(call)
    kernel = _each(call["kernel_size"], count, ())
    stride = _each(call["stride"], count, kernel)
    padding = _each(call["padding"], count, ())
    dilation = _each(call.arguments.get("dilation", 1), count, ())
    parts = zip(kernel, stride, padding, dilation, strict=True)
    return tuple(Sliding(kernel=k, stride=s, padding=p, dilation=d) for k, s, p, d in parts)


def is_adaptive(call: OpCall) -> bool:
    """Return whether the windows follow from the sizes of input and output."""
    return "adaptive" in call.op


def windows_over(
    call: OpCall, places: tuple[slice, ...], outputs: tuple[int, ...], sizes: tuple[int, ...], device: torch.device
) -> tuple[Axis, ...]:
    """Return the windows of sampled outputs in the input."""
    if is_adaptive(call):
        return tuple(adaptive(*part, device) for part in zip(places, outputs, sizes, strict=True))
    parts = zip(sliding_of(call), places, outputs, sizes, strict=True)
    return tuple(axis.over(place, output, size, device) for axis, place, output, size in parts)


def windows_under(
    call: OpCall, places: tuple[slice, ...], inputs: tuple[int, ...], sizes: tuple[int, ...], device: torch.device
) -> tuple[Axis, ...]:
    """Return the outputs whose windows hold sampled inputs."""
    if is_adaptive(call):
        return tuple(adaptive_under(*part, device) for part in zip(places, inputs, sizes, strict=True))
    parts = zip(sliding_of(call), places, inputs, sizes, strict=True)
    return tuple(axis.under(place, size, output, device) for axis, place, size, output in parts)


def longest_window(call: OpCall, outputs: tuple[int, ...], sizes: tuple[int, ...]) -> int:
    """Return the positions of the largest window, valid or not."""
    if is_adaptive(call):
        return prod(-(-size // max(1, output)) + 1 for output, size in zip(outputs, sizes, strict=True))
    return prod(axis.kernel for axis in sliding_of(call))


def divisors(
    call: OpCall, places: tuple[slice, ...], outputs: tuple[int, ...], sizes: tuple[int, ...], device: torch.device
) -> Tensor:
    """Return what an average divides the sums of sampled outputs by, ``[*o]`` in float64.

    With ``count_include_pad`` a window that reaches past the padding, as ``ceil_mode`` allows, is cut there.
    """
    override = call.arguments.get("divisor_override")
    if override is not None:
        return torch.full(
            [len(range(n)[p]) for n, p in zip(outputs, places, strict=True)],
            float(override),
            dtype=torch.float64,
            device=device,
        )
    if is_adaptive(call) or not call["count_include_pad"]:
        return window_sizes(windows_over(call, places, outputs, sizes, device))
    padded = []
    for axis, place, output, size in zip(sliding_of(call), places, outputs, sizes, strict=True):
        shifted = Sliding(kernel=axis.kernel, stride=axis.stride)
        padded.append(shifted.over(place, output, size + 2 * axis.padding, device))
    return window_sizes(padded)
