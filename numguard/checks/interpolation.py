"""Interpolation of images, forward and backward, and the gradients of mirrored and repeated borders."""

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.axis_maps import Axis, AxisMap, cubic, filtered, linear, nearest, reflected, replicated
from numguard.checks.check import Check, Probe, checks_of
from numguard.checks.exact_results import exact_numbers
from numguard.checks.interpolation_examples import EXAMPLES
from numguard.checks.reduced_rows import require_numbers
from numguard.checks.row_samples import sampled_rows
from numguard.checks.same_formula import compare
from numguard.numerics.error_bounds.exponential_bounds import accumulator_of
from numguard.numerics.error_bounds.interpolation_bounds import MapMasses, mapped_bound
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

COST: Final = 8.0  # a product and a sum for the value, its mass, its slack and what is not finite
_DIMENSIONS: Final = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}


def _spatial_count(call: OpCall) -> int:
    return next(count for count in (1, 2, 3) if f"{count}d" in call.op)


def _axes(call: OpCall, sizes: tuple[int, ...], outputs: tuple[int, ...]) -> list[Axis]:
    names = [("scales",), ("scales_h", "scales_w"), ("scales_d", "scales_h", "scales_w")][len(sizes) - 1]
    corners = bool(call.arguments.get("align_corners", False))
    parts = zip(sizes, outputs, names, strict=True)
    return [
        Axis(size=size, num_outputs=output, align_corners=corners, factor=call.arguments.get(name))
        for size, output, name in parts
    ]


def _resized(call: OpCall, sizes: tuple[int, ...], outputs: tuple[int, ...]) -> list[AxisMap]:
    """Return the maps of an interpolation from ``sizes`` to ``outputs``."""
    device, axes = _device(call), _axes(call, sizes, outputs)
    if "nearest" in call.op:
        return [nearest(axis, "exact" in call.op, device) for axis in axes]
    if "_aa" in call.op:
        return [filtered(axis, device, cubic_filter="cubic" in call.op) for axis in axes]
    return [(cubic if "cubic" in call.op else linear)(axis, device) for axis in axes]


def _padded(call: OpCall, sizes: tuple[int, ...], outputs: tuple[int, ...]) -> list[AxisMap]:
    """Return the maps of a padding; its argument names the last dimension first."""
    pads = list(call["padding"])
    pairs = list(zip(pads[::2], pads[1::2], strict=True))[::-1]
    pad = reflected if "reflection" in call.op else replicated
    return [pad(size, *pair, _device(call)) for size, pair in zip(sizes, pairs, strict=True)]


def _device(call: OpCall) -> torch.device:
    device: torch.device = call.output.device
    return device


def _applied(maps: Sequence[Tensor], x: Tensor, probe: Probe) -> Tensor:
    """Return ``x`` with one matrix ``[out, in]`` applied along each of its last dimensions."""
    for number, matrix in enumerate(maps):
        dim = x.dim() - len(maps) + number
        last = x.movedim(dim, -1)
        flat = probe.arithmetic.product(last.reshape(-1, last.shape[-1]).contiguous(), matrix.transpose(0, 1))
        x = flat.reshape(*last.shape[:-1], matrix.shape[0]).movedim(-1, dim)
    return x


def _masses(maps: Sequence[AxisMap], x: Tensor, probe: Probe, unit: float) -> MapMasses:
    """Return what the result is made of: sums of magnitudes, of what errors of weights come to, and of additions."""
    plain = [part.weights.abs() for part in maps]
    wide = [part.weights.abs() + unit * part.slack for part in maps]
    size = x.abs()
    spread = None
    for number, part in enumerate(maps):
        if part.slack.numel():
            factors = [*wide[:number], part.slack, *plain[number + 1 :]]
            error = _applied(factors, size, probe)
            spread = error if spread is None else spread + error
    mass = _applied(plain, size, probe)
    return MapMasses(mass, mass if spread is None else spread, _terms(maps, x.dim()))


def _terms(maps: Sequence[AxisMap], dims: int) -> Tensor:
    """Return how many elements each result is made of, ready to broadcast."""
    total: Tensor | None = None
    for number, part in enumerate(maps):
        count = part.touches.new_zeros(part.touches.shape[0])
        for column in (part.touches > 0).to(torch.float64).unbind(1):
            count = count + column
        shape = [1] * dims
        shape[dims - len(maps) + number] = -1
        total = count.reshape(shape) if total is None else total * count.reshape(shape)
    assert total is not None
    return total


def _mapped(output: str, maps: list[AxisMap], source: Tensor, result: Tensor, exactly: bool, probe: Probe) -> Any:
    """Compare a sampled result with the maps applied to its source."""
    count = len(maps)
    sizes = [part.weights.shape for part in maps]
    reach = [
        size[1] * prod(max(1.0, rest[1] / max(1, rest[0])) for rest in sizes[n + 1 :]) for n, size in enumerate(sizes)
    ]
    picked = sampled_rows(tuple(result.shape), COST * sum(reach), probe)
    maps = [part.picked(rows) for part, rows in zip(maps, picked[-count:], strict=True)]
    x = source[picked[:-count]].to(torch.float64)
    finite = torch.isfinite(x)
    clean = torch.where(finite, x, 0.0)
    computed, accumulator = result[picked], accumulator_of(result.dtype)
    unit = UNIT_ROUNDOFF[accumulator]
    exact = _applied([part.weights for part in maps], clean, probe)
    masses = _masses(maps, clean, probe, unit)
    poison = _applied([part.touches for part in maps], (~finite).to(torch.float64), probe)
    exact = torch.where(poison > 0, torch.nan, exact)
    computed = torch.where((poison > 0) & (poison <= 0.5), torch.nan, computed)  # zero times NaN need not be formed
    if exactly:
        return exact_numbers(output, computed, torch.where(masses.slack > 0, torch.nan, exact))
    strict = mapped_bound(masses, count, accumulator)
    permissive = None if result.dtype == accumulator else mapped_bound(masses, count, result.dtype, wide=accumulator)
    propagates = result.dtype != torch.float64
    return compare(output, computed, exact, strict, accumulator, permissive=permissive, propagates_nonfinite=propagates)


def _forward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    source, result = call["self"].detach(), call.output.detach()
    require_numbers(source)
    if not source.dtype.is_floating_point:
        raise NotCovered("interpolation of integers")
    if not result.numel():
        return ()
    count = _spatial_count(call)
    maps = _resized(call, tuple(source.shape[-count:]), tuple(result.shape[-count:]))
    return (_mapped("result", maps, source, result, "nearest" in call.op, probe),)


def _backward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    incoming, result = call["grad_output"].detach(), call.output.detach()
    require_numbers(incoming)
    if not result.numel() or not incoming.numel():
        return ()
    count = _spatial_count(call)
    maps_of = _padded if "pad" in call.op else _resized
    maps = maps_of(call, tuple(result.shape[-count:]), tuple(incoming.shape[-count:]))
    transposed = [part.transposed() for part in maps]
    return (_mapped("grad_input", transposed, incoming, result, False, probe),)


def _cost(call: OpCall) -> float:
    source = call["grad_output"] if "backward" in call.op else call["self"]
    return COST * float(source.numel() * sum(source.shape[-_spatial_count(call) :]))


_UPSAMPLING: Final = (
    *(f"{name}{count}d" for name in ("upsample_nearest", "_upsample_nearest_exact") for count in (1, 2, 3)),
    *(f"upsample_{name}{count}d" for name, count in _DIMENSIONS.items()),
    *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
)
_PADDING: Final = tuple(f"{name}_pad{count}d" for name in ("reflection", "replication") for count in (1, 2, 3))
_ADVICE: Final = "Resize in float32 and in the contiguous layout; if that differs as well, drain the device."

CHECKS: tuple[Check, ...] = checks_of(
    "interpolation",
    {
        "interpolate": (_forward, _UPSAMPLING),
        "interpolate_backward": (_backward, [f"{op}_backward" for op in _UPSAMPLING]),
        "padding_backward": (_backward, [f"{op}_backward" for op in _PADDING]),
    },
    EXAMPLES,
    cost=_cost,
    advice=_ADVICE,
)
