"""Overlapping windows that are added up again: ``fold``, and the gradients of ``unfold`` and of ``Tensor.unfold``."""

from collections.abc import Sequence
from math import prod
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, checks_of
from numguard.checks.fold_examples import EXAMPLES
from numguard.checks.reduced_rows import require_numbers
from numguard.checks.row_samples import sampled_rows
from numguard.checks.slot_reductions import Slots, total_by_slot, totals_by_slot
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

COST: Final = 12.0


class Planes(NamedTuple):
    """Planes of a result, and the windows that are added up in each.

    Attributes
    ----------
    source
        ``[P, K]`` elements of the windows.
    places
        ``[K]`` where they go in their plane; S for nowhere.
    result
        ``[P, S]``.
    """

    source: Tensor
    places: Tensor
    result: Tensor


def _folded(call: OpCall) -> Planes:
    """Return the planes of ``col2im``, whose source is ``[N, C * k1 * k2, L1 * L2]``."""
    sizes, device = list(call["output_size"]), call["self"].device
    places = torch.zeros(1, 1, dtype=torch.int64, device=device)
    inside = torch.ones(1, 1, dtype=torch.bool, device=device)
    parts = zip(sizes, call["kernel_size"], call["dilation"], call["padding"], call["stride"], strict=True)
    for size, kernel, dilation, padding, stride in parts:
        count = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        steps = torch.arange(count, device=device) * stride - padding
        place = torch.arange(kernel, device=device).unsqueeze(1) * dilation + steps  # [k, l]
        inside = inside[:, None, :, None] & ((place >= 0) & (place < size))[None, :, None, :]
        places = places[:, None, :, None] * size + place[None, :, None, :]
        places, inside = (part.flatten(2, 3).flatten(0, 1) for part in (places, inside))  # [k1 k2, l1 l2]
    slots = prod(sizes)
    flat = torch.where(inside, places, slots).reshape(-1)
    return Planes(call["self"].detach().reshape(-1, flat.numel()), flat, call.output.detach().reshape(-1, slots))


def _unfolded(call: OpCall) -> Planes:
    """Return the lines of the gradient of ``Tensor.unfold``, whose source is ``[..., L, ..., size]``."""
    incoming, result, step = call["grad_in"].detach(), call.output.detach(), call["step"]
    if not result.dim():
        raise NotCovered("windows of a number")
    dim = call["dim"] % result.dim()
    windows = incoming.movedim(dim, -2)
    count, size = windows.shape[-2:]
    places = torch.arange(count, device=incoming.device).unsqueeze(1) * step
    places = (places + torch.arange(size, device=incoming.device)).reshape(-1)
    lines = result.movedim(dim, -1)
    return Planes(windows.reshape(-1, count * size), places, lines.reshape(-1, lines.shape[-1]))


def _judge(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    require_numbers(call.output)
    if not call.output.numel() or not call.output.dtype.is_floating_point:
        return ()
    planes = _folded(call) if call.op == "aten::col2im" else _unfolded(call)
    (num_planes, slots), terms = planes.result.shape, planes.places.numel()
    if not terms:
        return ()
    (picked,) = sampled_rows((num_planes,), COST * (slots + terms), probe)
    result, source = planes.result[picked], planes.source[picked].to(torch.float64)
    first = torch.arange(result.shape[0], device=result.device).unsqueeze(1) * slots
    places = torch.where(planes.places < slots, planes.places + first, result.numel())
    base = torch.zeros(result.numel(), dtype=torch.float64, device=result.device)
    summed = Slots(places.reshape(-1), source.reshape(-1), base, result.reshape(-1), keeps_base=False)
    hits = total_by_slot(summed, torch.ones_like(summed.source), probe)
    return (totals_by_slot(summed, hits, probe, divides=False),)


def _cost(call: OpCall) -> float:
    source: Tensor = call["self" if call.op == "aten::col2im" else "grad_in"]
    return COST * float(source.numel())


CHECKS: tuple[Check, ...] = checks_of(
    "scatters",
    {"fold": (_judge, ("col2im",)), "unfold_backward": (_judge, ("unfold_backward",))},
    EXAMPLES,
    cost=_cost,
    advice="Repeat the call in float32; if only the 16-bit sums are off, keep them wider; else drain the device.",
)
