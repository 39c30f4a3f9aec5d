"""Sums, means and maxima of bags of embeddings, their gradients, and the gradients of the weights of samples."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from numguard.checks.bag_examples import EXAMPLES
from numguard.checks.check import Check, Probe, checks_of
from numguard.checks.exact_results import exact_numbers
from numguard.checks.reduced_rows import require_numbers
from numguard.checks.row_samples import sampled_rows
from numguard.checks.slot_reductions import Slots, largest_by_slot, total_by_slot, totals_by_slot
from numguard.checks.two_bounds import bounded_twice
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.numerics.error_bounds.summation_bounds import dot_bound
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

COST: Final = 12.0
SUM, MEAN, MAX = range(3)  # of the argument ``mode``


class Bags(NamedTuple):
    """Which rows of the weight go into which bags, ``[n]`` each; rows of the padding index go into none.

    Attributes
    ----------
    row
        Numbers of rows.
    bag
        Numbers of bags.
    counts
        Whether the row counts.
    """

    row: Tensor
    bag: Tensor
    counts: Tensor


def _bags_of(call: OpCall, num_bags: int) -> Bags:
    index = call["indices"].reshape(-1).to(torch.int64)
    given = call.arguments.get("offset2bag")
    if given is not None and given.numel() == index.numel():
        bag = given.to(torch.int64)
    elif "offsets" in call.arguments and call["offsets"].numel():
        offsets = call["offsets"].to(torch.int64).contiguous()
        place = torch.arange(index.numel(), device=index.device)
        bag = torch.searchsorted(offsets, place, right=True) - 1  # rows behind the last offset: num_bags, nowhere
    elif index.numel():
        raise NotCovered("a gradient of bags without their offsets")
    else:
        bag = index
    padding = call["padding_idx"]
    return Bags(index, bag, index != padding if padding >= 0 else torch.ones_like(index, dtype=torch.bool))


def _columns(width: int, rows: int, probe: Probe) -> slice:
    """Return which columns of a table are checked when all rows of each are read."""
    return sampled_rows((width,), COST * rows, probe)[0]


def _factor(call: OpCall, bags: Bags) -> Tensor | None:
    weights = call["per_sample_weights"]
    return None if weights is None else weights.detach().to(torch.float64).reshape(-1, 1)


# forward --------------------------------------------------------------------------------------------------------


def _forward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    weight, result, mode = call["weight"].detach(), call.output[0].detach(), call["mode"]
    require_numbers(weight, result)
    if not weight.dtype.is_floating_point:
        raise NotCovered("bags of integers")
    if not result.numel():
        return ()
    num_bags = result.shape[0]
    bags = _bags_of(call, num_bags)
    columns = _columns(weight.shape[1], bags.row.numel() + num_bags, probe)
    rows = weight[:, columns][bags.row].to(torch.float64)
    factor = _factor(call, bags)
    source = rows if factor is None else rows * factor
    slots = _slots(source, torch.where(bags.counts, bags.bag, num_bags).unsqueeze(1), result[:, columns])
    hits = total_by_slot(slots, torch.ones_like(slots.source), probe)
    if mode == MAX:
        return (largest_by_slot(slots, hits, 1.0, probe),)
    compared = totals_by_slot(slots, hits, probe, divides=mode == MEAN)
    return (compared, _sizes(call.output[2], hits.reshape(num_bags, -1)[:, 0])) if mode == MEAN else (compared,)


def _sizes(given: Tensor, hits: Tensor) -> Comparison:
    """Compare the numbers of rows that the gradient of means will divide by."""
    return exact_numbers("bag_size", given, hits)


def _slots(source: Tensor, place: Tensor, result: Tensor) -> Slots:
    """Return elements ``[n, C]`` that go to rows ``place`` of ``[S, C]``, ``[n, 1]`` or ``[n, C]``; S is nowhere."""
    columns = torch.arange(source.shape[1], device=source.device)
    places = (place * source.shape[1] + columns).clamp(max=result.numel()).reshape(-1)
    base = torch.zeros(result.numel(), dtype=torch.float64, device=source.device)
    return Slots(places, source.reshape(-1), base, result.reshape(-1), keeps_base=False)


# backward -------------------------------------------------------------------------------------------------------


def _backward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    result, grad, mode = call.output.detach(), call["grad"].detach(), call["mode"]
    require_numbers(result, grad)
    if not result.numel():
        return ()
    bags = _bags_of(call, grad.shape[0])
    columns = _columns(grad.shape[1], bags.row.numel() + result.shape[0], probe)
    back, slots_of = grad[:, columns].to(torch.float64), result[:, columns]
    if mode == MAX:
        # Each goes to the row that was the largest, or to none: empty bags have none.
        largest, empty = call["maximum_indices"][:, columns], (call["bag_size"] == 0).unsqueeze(1)
        slots = _slots(back, torch.where(empty | (largest < 0), result.shape[0], largest), slots_of)
    else:
        source = back[bags.bag]
        factor = _factor(call, bags)
        source = source if factor is None else source * factor
        if mode == MEAN:
            source = source / call["bag_size"].to(torch.float64).clamp(min=1.0)[bags.bag].unsqueeze(1)
        slots = _slots(source, torch.where(bags.counts, bags.row, result.shape[0]).unsqueeze(1), slots_of)
    hits = total_by_slot(slots, torch.ones_like(slots.source), probe)
    return (totals_by_slot(slots, hits, probe, divides=call["scale_grad_by_freq"] and mode != MAX),)


def _sample_weights(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    """The gradient of the weight of a sample is the inner product of its row with the gradient of its bag."""
    result, grad, weight = call.output.detach(), call["grad"].detach(), call["weight"].detach()
    require_numbers(result, grad, weight)
    if not result.numel():
        return ()
    bags, width = _bags_of(call, grad.shape[0]), grad.shape[1]
    (picked,) = sampled_rows(tuple(result.shape), COST * width, probe)
    products = grad[bags.bag[picked]].to(torch.float64) * weight[bags.row[picked]].to(torch.float64)
    products = torch.where(bags.counts[picked].unsqueeze(1), products, 0.0)
    exact, mass = probe.arithmetic.total(torch.stack((products, products.abs())), (-1,), False)

    def bound(dtype: torch.dtype) -> Tensor:
        limits = torch.finfo(dtype)
        error = dot_bound(
            mass, width, UNIT_ROUNDOFF[dtype], num_terms=width, smallest_normal=float(limits.smallest_normal)
        )
        return torch.where(mass < 0.5 * limits.max, torch.as_tensor(error), torch.inf)

    own = SHADOW_ROUNDOFF * (probe.arithmetic.height(width) + 4.0) * mass
    return (bounded_twice("result", result[picked], exact, bound, own),)


def _cost(call: OpCall) -> float:
    table = call["weight"] if "weight" in call.arguments else call["grad"]
    return COST * float(call["indices"].numel() * table.shape[1])


_ADVICE: Final = (
    "Repeat the call in float32: if only the 16-bit result is off, keep these embeddings or their gradient in "
    "float32; if float32 is wrong as well, drain the device."
)

CHECKS: tuple[Check, ...] = checks_of(
    "scatters",
    {
        "embedding_bag": (_forward, ("_embedding_bag", "_embedding_bag_forward_only")),
        "embedding_bag_backward": (_backward, ("_embedding_bag_backward", "_embedding_bag_dense_backward")),
        "sample_weight_backward": (_sample_weights, ("_embedding_bag_per_sample_weights_backward",)),
    },
    EXAMPLES,
    cost=_cost,
    advice=_ADVICE,
)
