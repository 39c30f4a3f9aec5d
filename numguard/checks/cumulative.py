"""Cumulative sums, in place too."""

from collections.abc import Sequence

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, cost_per_element
from numguard.checks.cumulative_examples import CUMSUM
from numguard.checks.exact_results import exact_integers
from numguard.checks.integer_totals import joined, limbs_of
from numguard.checks.prefixes import ROW_COST, accumulators_of, keep_rows, prefix_comparison, prefixes_of
from numguard.checks.reduced_rows import is_narrowing
from numguard.numerics.error_bounds.reduction_bounds import prefix_sum_bound
from numguard.numerics.formats import unit_roundoff
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered


def _judge(call: OpCall, captured: Tensor | None, probe: Probe) -> Sequence[Comparison]:
    prefixes = prefixes_of(call, captured, probe)
    if prefixes is None:
        return ()
    source, result = prefixes
    add = probe.arithmetic.prefix_totals
    if not result.dtype.is_floating_point:
        if source.dtype.is_floating_point or result.dtype == torch.bool:
            raise NotCovered("cumulative sums of floating-point numbers as integers, or as truth values")
        total = joined([add(limb, -1) for limb in limbs_of(source)], result.shape[-1])
        return (exact_integers("result", result, total),)
    narrows = is_narrowing(source.dtype, result.dtype)
    return (_floats(source.to(torch.float64), result, narrows, probe.arithmetic),)


def _floats(x: Tensor, result: Tensor, narrows: bool, arithmetic: Arithmetic) -> Comparison:
    exact, mass = arithmetic.prefix_totals(x, -1), arithmetic.prefix_totals(x.abs(), -1)
    if result.dtype == torch.float64:
        overflowed = (arithmetic.prefix_totals(x - x, -1) == 0.0) & ~torch.isfinite(exact)
        exact = torch.where(overflowed, torch.finfo(result.dtype).max, exact)
    length = result.shape[-1]
    position = torch.arange(length, dtype=torch.float64, device=x.device)
    kinds = accumulators_of(result)
    limits = torch.finfo(result.dtype if narrows else kinds.permissive)
    strict, permissive = (prefix_sum_bound(mass, position, unit_roundoff(kind), limits.max) for kind in kinds)
    if narrows:  # once per element; twice the unit roundoff allows for its part in the errors of the additions
        cast = 2.0 * unit_roundoff(result.dtype) * mass + length * limits.smallest_normal
        strict, permissive = strict + cast, permissive + cast
    return prefix_comparison(result, exact, strict, permissive, arithmetic.height(length) * SHADOW_ROUNDOFF * mass)


CHECKS: tuple[Check, ...] = (
    Check(
        name="cumsum",
        family="cumulative",
        ops=("aten::cumsum", "aten::cumsum_", "aten::cumsum.out"),
        judge=_judge,
        capture=keep_rows,
        cost=cost_per_element("self", ROW_COST),
        silent=CUMSUM.silent,
        fires=CUMSUM.fires,
        advice="Repeat this cumulative sum in float64 on another device; in 16 bits, cumulate in float32.",
    ),
)
