"""Checks of embedding lookups and of sums by slot: embedding gradients, index_add, scatter_add, index_put."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, checks_of
from numguard.checks.exact_results import exact_sums, exact_values
from numguard.checks.judged_sums import judged_slots
from numguard.checks.observed_slots import adds_widely
from numguard.checks.order_replay import replay, reproduces
from numguard.checks.repeated_sums import accepted_values
from numguard.checks.scatter_examples import EXAMPLES
from numguard.checks.sign_rules import of_one_sign
from numguard.checks.slot_sums import SlotSum, overwritten_base, slot_sum_of
from numguard.checks.two_bounds import bounded_twice
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.numerics.error_bounds.scatter_bounds import slot_bound
from numguard.numerics.formats import accumulator_dtype
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Compared, Comparison, NotCovered


def _lookup(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    weight, output = call["weight"].detach(), call.output.detach()
    if weight.dtype.is_complex:
        raise NotCovered("complex numbers")
    if not output.numel():
        return ()
    width = weight.shape[-1]
    index = call["indices"].reshape(-1)
    rows = probe.rows(index.numel(), width)
    index = index[rows].to(torch.int64).unsqueeze(-1)
    exact = weight.gather(0, index.expand(-1, width)).to(torch.float64)
    computed = output.reshape(-1, width)[rows].to(torch.float64)
    return (exact_values("result", computed, exact),)


def _sums(call: OpCall, captured: Any, probe: Probe) -> Sequence[Compared]:
    summed = slot_sum_of(call, probe)
    result = summed.result
    if result is None or not result.numel():
        return ()
    base = captured if captured is not None else summed.base
    judged = judged_slots(summed, base, probe.arithmetic)
    if judged is not None:
        return (judged,)
    columns = result.shape[1]
    source = summed.source.to(torch.float64)
    if summed.scale != 1:
        source = source * summed.scale
    if summed.index.numel():
        ones = torch.ones(source.shape[0], 1, dtype=torch.float64, device=source.device)
        table = torch.cat((source, source.abs(), ones), dim=1)
        totals = probe.arithmetic.slot_totals(summed.num_slots + 1, summed.index, table)[:-1]
        exact, mass, hits = totals[:, :columns], totals[:, columns:-1], totals[:, -1:]
    else:
        exact = mass = torch.zeros(result.shape, dtype=torch.float64, device=result.device)
        hits = exact[:, :1]
    if summed.averaged:
        exact, mass = exact / hits.clamp(min=1.0), mass / hits.clamp(min=1.0)
    if base is not None:
        wide = base.to(torch.float64)
        wide = wide if summed.keeps_base else torch.where(hits > 0, 0.0, wide)
        exact, mass = exact + wide, mass + wide.abs()
    if not result.dtype.is_floating_point:
        return (exact_sums("result", result, exact, mass),)
    comparison = _bounded(summed, result, exact, mass, hits)
    if comparison.permissive is None:
        return (comparison,)
    comparisons = [comparison]
    if summed.scale == 1 and not summed.averaged:
        comparisons.append(of_one_sign("result", result, exact, mass, hits + 1.0))
    repeated = replayed(summed, base, comparison, probe)
    return comparisons if repeated is None else [*comparisons, repeated]


def _bounded(summed: SlotSum, result: Tensor, exact: Tensor, mass: Tensor, hits: Tensor) -> Comparison:
    scaled = summed.scale != 1 or summed.averaged

    def bound(dtype: torch.dtype) -> Tensor:
        limits = torch.finfo(dtype)
        return slot_bound(mass, hits, UNIT_ROUNDOFF[dtype], limits.smallest_normal, limits.max, scaled=scaled)

    is_proved = result.device.type == "cpu" and accumulator_dtype(result.dtype) == result.dtype
    return bounded_twice(
        "result",
        result,
        exact,
        bound,
        SHADOW_ROUNDOFF * (hits + 4.0) * mass,
        model="proved" if is_proved else None,
        propagates_nonfinite=False,
    )


def replayed(summed: SlotSum, base: Tensor | None, comparison: Comparison, probe: Probe) -> Comparison | None:
    """Return the comparison with the additions repeated in 16 bits, where the bound can say little.

    A result is right when it has the bits of the replay, or lies within the strict bound because wider sums were
    used after all.
    """
    result = comparison.computed
    if result.device.type != "cpu" or result.dtype not in (torch.float16, torch.bfloat16):
        return None
    if summed.form is None or summed.scale != 1 or summed.source.dtype != result.dtype:
        return None
    if not summed.index.numel() or not reproduces(summed.form, result.dtype):
        return None
    again = replay(summed.num_slots, summed.index, summed.source, base, probe.limit)
    if again is None:
        return None
    computed = result[again.slots]
    exact, strict, error = (
        x[again.slots] if isinstance(x, Tensor) else x
        for x in (comparison.exact, comparison.strict, comparison.shadow_error)
    )
    assert isinstance(exact, Tensor)
    expected = accepted_values(computed, again.value.to(torch.float64), exact, strict, error)
    return Comparison(
        output="replay",
        computed=computed.to(torch.float64),
        exact=expected,
        strict=0.0,
        rounds_output=False,
        model="calibrated",
    )


def _lookup_cost(call: OpCall) -> float:
    return float(call["indices"].numel() * call["weight"].shape[-1])


def _cost(call: OpCall) -> float:
    sizes = [value.numel() for value in call.arguments.values() if isinstance(value, Tensor)]
    slots = call.arguments.get("num_weights", 0) * (
        call["grad_output"].shape[-1] if "grad_output" in call.arguments else 0
    )
    return float(sum(sizes) + slots)


_ADVICE: Final = (
    "Repeat the call in float32: if only the 16-bit result is off, keep this gradient in float32; if float32 is "
    "wrong as well, drain the device."
)

CHECKS: tuple[Check, ...] = (
    *checks_of(
        "scatters",
        {"embedding": (_lookup, ("embedding",))},
        EXAMPLES,
        cost=_lookup_cost,
        advice="A lookup copies rows and must be exact: check the indices, then drain the device.",
    ),
    *checks_of(
        "scatters",
        {
            "embedding_backward": (_sums, ("embedding_dense_backward",)),
            "index_add": (_sums, ("index_add", "index_add_", "index_add.out")),
            "scatter_add": (
                _sums,
                (
                    *("scatter_add", "scatter_add_", "scatter_add.out"),
                    *("scatter_reduce.two", "scatter_reduce_.two", "scatter_reduce.two_out"),
                ),
            ),
            "index_put": (_sums, ("index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put")),
        },
        EXAMPLES,
        capture=overwritten_base,
        cost=_cost,
        adds_widely=adds_widely,
        advice=_ADVICE,
    ),
)
