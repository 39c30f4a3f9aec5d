"""Products, means and extrema by slot: scatter_reduce and index_reduce; and counts: bincount and histc."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, checks_of
from numguard.checks.exact_results import claims, exact_numbers, exact_values
from numguard.checks.overwritten_operands import keep_overwritten
from numguard.checks.reduced_rows import require_numbers
from numguard.checks.slot_reduction_examples import EXAMPLES
from numguard.checks.slot_sums import flat_places
from numguard.checks.two_bounds import bounded_twice
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.numerics.error_bounds.scatter_bounds import slot_bound
from numguard.numerics.error_bounds.slot_product_bounds import slot_product_bound
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

COST: Final = 12.0


class Slots(NamedTuple):
    """Values and the slots that they go to, both flat; what the slots held and what they hold, ``[S]``.

    A place of S is nowhere.
    """

    places: Tensor
    source: Tensor
    base: Tensor
    result: Tensor
    keeps_base: bool


def _slots(call: OpCall, captured: Tensor | None, probe: Probe) -> Slots:
    own = call["self"].detach() if captured is None else captured
    indexed = "index_reduce" in call.op
    source = (call["source"] if indexed else call["src"]).detach()
    index, result = call["index"], call.output.detach()
    require_numbers(own, source, result)
    if not own.dtype.is_floating_point:
        raise NotCovered("reductions of integers by slot")
    if own.dim() == 0:
        own, source, index, result = (part.reshape(1) for part in (own, source, index, result))
    probe.afford(COST * (own.numel() + source.numel()))
    dim = call["dim"] % own.dim()
    if indexed:
        index = index.reshape([-1 if number == dim else 1 for number in range(own.dim())])
        index = index.expand(source.shape)
    else:
        source = source[tuple(slice(size) for size in index.shape)]
    place = flat_places(own.shape, dim, index)
    source, own = (part.to(torch.float64).reshape(-1) for part in (source, own))
    return Slots(place.reshape(-1), source, own, result.reshape(-1), bool(call["include_self"]))


def _judge(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    if call["reduce"] == "sum" or not call.output.numel():
        return ()  # scatter_add judges sums
    return (reduced_by_slot(_slots(call, captured, probe), call["reduce"], probe),)


def reduced_by_slot(slots: Slots, reduce: str, probe: Probe) -> Comparison:
    """Compare with the reduction of that name: ``"sum"``, ``"mean"``, ``"prod"``, ``"amax"``, ``"max"`` and so on."""
    hits = total_by_slot(slots, torch.ones_like(slots.source), probe)
    if reduce in ("amax", "amin", "max", "min"):
        return largest_by_slot(slots, hits, 1.0 if reduce in ("amax", "max") else -1.0, probe)
    if reduce in ("mean", "sum"):
        return totals_by_slot(slots, hits, probe, divides=reduce == "mean")
    return product_by_slot(slots, hits, probe)


def total_by_slot(slots: Slots, values: Tensor, probe: Probe) -> Tensor:
    """Return the sums of some values that go where the sources of ``slots`` go."""
    count = slots.base.numel()
    return probe.arithmetic.slot_totals(count + 1, slots.places, values.unsqueeze(-1))[:-1].squeeze(-1)


def largest_by_slot(slots: Slots, hits: Tensor, sign: float, probe: Probe) -> Comparison:
    """The last of each slot when values are sorted by slot and then by size; NaN sorts last."""
    values = sign * slots.source
    by_value = values.argsort(stable=True)
    order = by_value[slots.places[by_value].argsort(stable=True)]
    ends = probe.arithmetic.prefix_totals(hits, 0).to(torch.int64) - 1
    best = torch.full_like(slots.base, -torch.inf)
    if values.numel():
        best = values[order].take(ends.clamp(0, values.numel() - 1))
    kept = sign * slots.base
    exact = torch.where(hits > 0, torch.maximum(best, kept) if slots.keeps_base else best, kept)
    return exact_values("result", slots.result, sign * exact)


def totals_by_slot(slots: Slots, hits: Tensor, probe: Probe, *, divides: bool) -> Comparison:
    """The sum, with the old value where it counts, divided by how many were added where a mean is wanted."""
    total, mass = total_by_slot(slots, slots.source, probe), total_by_slot(slots, slots.source.abs(), probe)
    counts = hits + (1.0 if slots.keeps_base else 0.0)
    base = slots.base if slots.keeps_base else torch.where(hits > 0, 0.0, slots.base)
    divisor = counts.clamp(min=1.0) if divides else torch.ones_like(counts)
    exact, mass = (total + base) / divisor, (mass + base.abs()) / divisor

    def bound(dtype: torch.dtype) -> Tensor:
        limits, unit = torch.finfo(dtype), UNIT_ROUNDOFF[dtype]
        # Beyond the consecutive integers that the format holds, a divisor that is counted in it may stop.
        counted = torch.where((counts * unit <= 1.0) | (divisor == 1.0), 0.0, torch.inf)
        added = slot_bound(mass, hits, unit, limits.smallest_normal, limits.max, scaled=True)
        added = torch.where(mass * divisor < 0.5 * limits.max, added, torch.inf)
        return added + torch.where(hits > 0, counted, 0.0)

    return bounded_twice("result", slots.result, exact, bound, SHADOW_ROUNDOFF * (hits + 8.0) * mass)


def product_by_slot(slots: Slots, hits: Tensor, probe: Probe) -> Comparison:
    """Sign, zeros and logarithm of the product are sums by slot."""
    base = slots.base if slots.keeps_base else torch.where(hits > 0, 1.0, slots.base)
    places = torch.arange(base.numel(), device=base.device)
    factors, index = torch.cat((slots.source, base)), torch.cat((slots.places, places))
    zero = factors == 0
    logs = torch.where(zero, 0.0, factors.abs().log2())
    marks = (part.to(torch.float64) for part in (zero, factors < 0, factors.isinf()))
    table = torch.stack((logs.clamp(min=0.0), logs.clamp(max=0.0), *marks), dim=-1)
    above, below, zeros, negatives, infinite = probe.arithmetic.slot_totals(base.numel() + 1, index, table)[:-1].unbind(
        -1
    )
    sign = 1.0 - 2.0 * (negatives % 2.0)
    exact = torch.where(zeros > 0, torch.where(infinite > 0, torch.nan, 0.0 * above), sign * torch.exp2(above + below))

    def bound(dtype: torch.dtype) -> Tensor:
        return slot_product_bound(exact, above, below, hits + 1.0, UNIT_ROUNDOFF[dtype], torch.finfo(dtype))

    # Errors of the logarithms and of their sums, which exp2 turns into relative ones.
    own = SHADOW_ROUNDOFF * (hits + 8.0) * (above - below + 2.0) * exact.abs()
    return bounded_twice("result", slots.result, exact, bound, own)


# counts ---------------------------------------------------------------------------------------------------------


def _bincount(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    index, weights, result = call["self"], call["weights"], call.output.detach()
    if not result.numel():
        return ()
    probe.afford(COST * (index.numel() + result.numel()))
    values = torch.ones(index.numel(), dtype=torch.float64, device=index.device)
    if weights is not None:
        require_numbers(weights)
        values = weights.detach().to(torch.float64).reshape(-1)
    table = torch.stack((values, values.abs(), torch.ones_like(values)), dim=-1)
    exact, mass, hits = probe.arithmetic.slot_totals(result.numel(), index.to(torch.int64), table).unbind(-1)
    if not result.dtype.is_floating_point:
        return (exact_numbers("result", result, exact),)
    limits = torch.finfo(result.dtype)
    strict = slot_bound(mass, hits, UNIT_ROUNDOFF[result.dtype], limits.smallest_normal, limits.max, scaled=False)
    return (
        Comparison(
            output="result",
            computed=result,
            exact=exact,
            strict=strict,
            shadow_error=SHADOW_ROUNDOFF * (hits + 4.0) * mass,
            model="proved" if result.device.type == "cpu" else "assumed",
            propagates_nonfinite=result.dtype != torch.float64,
        ),
    )


def _histogram(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    """Every element inside the range is counted once: the counts are whole, and their sum is known."""
    source, result = call["self"].detach(), call.output.detach()
    require_numbers(source)
    if not result.numel():
        return ()
    probe.afford(COST * source.numel())
    low, high = float(call["min"]), float(call["max"])
    flat = source.to(torch.float64).reshape(1, -1)
    counted = ~flat.isnan()
    if low != high:
        counted = counted & (flat >= low) & (flat <= high)
    total = probe.arithmetic.total
    expected = total(counted.to(torch.float64), (1,), False)
    bins = result.to(torch.float64).reshape(1, -1)
    found, broken = (
        total(bins, (1,), False),
        total(((bins != bins.floor()) | (bins < 0)).to(torch.float64), (1,), False),
    )
    whole = min(1.0 / UNIT_ROUNDOFF[result.dtype], 2.0**53) if result.dtype.is_floating_point else 2.0**53
    expected = torch.where(expected <= whole, expected, torch.nan)
    return (
        exact_numbers("total", found, expected),
        claims("counts", broken),
    )


def _cost(call: OpCall) -> float:
    return COST * float(sum(part.numel() for part in call.arguments.values() if isinstance(part, Tensor)))


CHECKS: tuple[Check, ...] = (
    *checks_of(
        "scatters",
        {
            "slot_reduction": (
                _judge,
                (
                    *("scatter_reduce.two", "scatter_reduce_.two", "scatter_reduce.two_out"),
                    *("index_reduce", "index_reduce_", "index_reduce.out"),
                ),
            ),
        },
        EXAMPLES,
        capture=keep_overwritten,
        cost=_cost,
        advice="Repeat the reduction in float32 or float64; if only the 16-bit result is off, keep it wider.",
    ),
    *checks_of(
        "scatters",
        {"bincount": (_bincount, ("bincount",)), "histc": (_histogram, ("histc",))},
        EXAMPLES,
        cost=_cost,
        advice="Counts must be exact: repeat them on another device, and drain this one if they differ.",
    ),
)
