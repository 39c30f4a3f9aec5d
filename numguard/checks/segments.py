"""Reductions of consecutive rows, ``segment_reduce``, and their gradients."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, checks_of
from numguard.checks.reduced_rows import require_numbers
from numguard.checks.scatters import replayed
from numguard.checks.segment_examples import EXAMPLES
from numguard.checks.sign_rules import of_one_sign
from numguard.checks.slot_reductions import Slots, reduced_by_slot, total_by_slot
from numguard.checks.slot_sums import SlotSum
from numguard.checks.two_bounds import bounded_twice
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

COST: Final = 12.0
EMPTY: Final = {"sum": 0.0, "mean": torch.nan, "max": -torch.inf, "min": torch.inf, "prod": 1.0}  # of no elements


class Segments(NamedTuple):
    """Which segment the elements of a tensor ``[L, n, R]`` belong to.

    Attributes
    ----------
    places
        ``[L, n, R]`` flat places in a contiguous tensor ``[L, S, R]``; L S R for rows that belong to no segment.
    num_slots
        L S R.
    """

    places: Tensor
    num_slots: int


def _segments_of(call: OpCall, probe: Probe) -> Segments:
    data, axis = call["data"], int(call["axis"])
    lead, count, rest = prod(data.shape[:axis]), data.shape[axis], prod(data.shape[axis + 1 :])
    rows = torch.arange(count, dtype=torch.float64, device=data.device).expand(lead, count).contiguous()
    if call["lengths"] is not None:
        lengths = call["lengths"]
        ends = probe.arithmetic.prefix_totals(lengths.to(torch.float64).reshape(lead, lengths.shape[-1]), 1)
        before = torch.zeros_like(rows, dtype=torch.bool)
    elif call["offsets"] is not None:
        offsets = call["offsets"].to(torch.float64).reshape(lead, call["offsets"].shape[-1])
        ends, before = offsets[:, 1:].contiguous(), rows < offsets[:, :1]
    else:
        raise NotCovered("segments by indices")
    size = ends.shape[1]
    segment = torch.searchsorted(ends, rows, right=True)
    nowhere = before | (segment >= size)
    segment = segment + torch.arange(lead, device=data.device).unsqueeze(1) * size
    places = segment.unsqueeze(-1) * rest + torch.arange(rest, device=data.device)
    num_slots = lead * size * rest
    return Segments(torch.where(nowhere.unsqueeze(-1), num_slots, places), num_slots)


def _forward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    data, result, initial = call["data"].detach(), call.output.detach(), call["initial"]
    require_numbers(data, result)
    if not result.numel():
        return ()
    if initial is not None and call["reduce"] == "mean":
        raise NotCovered("means of segments with an initial value")
    probe.afford(COST * (data.numel() + result.numel()))
    segments = _segments_of(call, probe)
    fill = EMPTY[call["reduce"]] if initial is None else float(initial)
    base = torch.full((result.numel(),), fill, dtype=result.dtype, device=data.device).to(torch.float64)
    values = data.to(torch.float64).reshape(-1)
    slots = Slots(segments.places.reshape(-1), values, base, result.reshape(-1), keeps_base=initial is not None)
    compared = reduced_by_slot(slots, call["reduce"], probe)
    if call["reduce"] != "sum" or initial is not None or compared.permissive is None:
        return (compared,)
    return (compared, *_of_sums(data, slots, compared, probe))


def _of_sums(data: Tensor, slots: Slots, compared: Comparison, probe: Probe) -> list[Comparison]:
    """Return what beside a wide bound can be said of sums in 16 bits: their signs, and the additions repeated."""
    mass, hits = (total_by_slot(slots, part, probe) for part in (slots.source.abs(), torch.ones_like(slots.source)))
    found = [of_one_sign("result", slots.result, compared.exact, mass, hits)]
    summed = SlotSum(
        num_slots=slots.base.numel(),
        index=slots.places,
        source=data.reshape(-1, 1),
        base=None,
        result=slots.result.reshape(-1, 1),
        form=("segment_reduce",),
    )
    columns = replace(compared, computed=slots.result.reshape(-1, 1), exact=compared.exact.reshape(-1, 1))
    strict, error = (torch.as_tensor(part).reshape(-1, 1) for part in (compared.strict, compared.shadow_error))
    repeated = replayed(summed, None, replace(columns, strict=strict, shadow_error=error), probe)
    return found if repeated is None else [*found, repeated]


def _backward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    """Every element takes the gradient of its segment, by a share that depends on the reduction."""
    data, result, grad = call["data"].detach(), call.output.detach(), call["grad"].detach()
    require_numbers(data, result, grad)
    if not result.numel():
        return ()
    probe.afford(COST * (data.numel() + grad.numel()))
    segments, reduce = _segments_of(call, probe), call["reduce"]
    places = segments.places.reshape(-1)
    inside = places < segments.num_slots
    taken = places.clamp(max=max(0, segments.num_slots - 1))
    value = data.to(torch.float64).reshape(-1)
    back = grad.to(torch.float64).reshape(-1).take(taken)
    held = call["output"].detach().to(torch.float64).reshape(-1).take(taken)
    slots = Slots(places, value, torch.zeros(segments.num_slots).double().to(data.device), result, keeps_base=False)
    if reduce == "prod":
        share = held / value
        defined = (value != 0) & value.isfinite() & held.isfinite()  # elsewhere it is the product of all the others
    else:
        chosen = torch.ones_like(value)
        if reduce in ("max", "min"):
            chosen = ((value == held) | value.isnan()).to(torch.float64)
        hits = total_by_slot(slots, chosen, probe).take(taken)
        share = chosen / hits.clamp(min=1.0) if reduce != "sum" else chosen
        defined = torch.ones_like(inside)
    exact = torch.where(inside, back * share, 0.0)
    exact = torch.where(defined, exact, torch.nan)

    def bound(dtype: torch.dtype) -> Tensor:
        unit, limits = UNIT_ROUNDOFF[dtype], torch.finfo(dtype)
        error = 4.0 * unit * exact.abs() + float(limits.smallest_normal) * (1.0 + back.abs() + share.abs())
        in_range = (back * held).abs() < 0.5 * limits.max if reduce == "prod" else exact.abs() < limits.max
        if reduce == "prod":  # the numerator may be subnormal
            error = error + float(limits.smallest_normal) / value.abs().clamp(min=1e-300)
        return torch.where(in_range, error, torch.inf)

    return (bounded_twice("grad_data", result.reshape(-1), exact, bound, propagates_nonfinite=False),)


def _cost(call: OpCall) -> float:
    return COST * float(call["data"].numel())


_ADVICE: Final = "Reduce the segments in float32 or float64; if only the 16-bit result is off, keep it wider."

CHECKS: tuple[Check, ...] = checks_of(
    "scatters",
    {
        "segment_reduce": (_forward, ("segment_reduce",)),
        "segment_reduce_backward": (_backward, ("_segment_reduce_backward",)),
    },
    EXAMPLES,
    cost=_cost,
    advice=_ADVICE,
)
