"""Cumulative sums, in place too."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, cost_per_element
from numguard.checks.cumulative_examples import CUMSUM
from numguard.checks.integer_products import exact_comparison
from numguard.checks.integer_totals import joined, limbs_of
from numguard.checks.reduced_rows import is_narrowing, model_of, require_numbers
from numguard.checks.row_samples import last, sampled_rows
from numguard.numerics.error_bounds.reduction_bounds import prefix_sum_bound
from numguard.numerics.formats import accumulator_dtype, unit_roundoff
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

COST: Final = 3.0  # the value, its magnitude and the bound, per element


class Accumulators(NamedTuple):
    """What the partial results are rounded to: the best that this operator is known to use, and the least it may."""

    strict: torch.dtype
    permissive: torch.dtype


def accumulators_of(result: Tensor) -> Accumulators:
    """Return float64 and float32 for float32 on the CPU, whose kernel adds in ``at::acc_type``, float64 there."""
    wide = accumulator_dtype(result.dtype)
    if result.device.type != "cpu":
        return Accumulators(wide, result.dtype)
    return Accumulators(torch.float64 if result.dtype == torch.float32 else wide, wide)


def picked_rows(shape: torch.Size, probe: Probe) -> tuple[slice, ...]:
    """Return which rows, of the last dimension, are checked."""
    return sampled_rows(shape[:-1], COST * max(1, shape[-1]), probe)


def keep_rows(call: OpCall, probe: Probe) -> Tensor | None:
    """Copy the rows that ``judge`` will look at, where the operator overwrites them."""
    source = call["self"].detach()
    if source.layout != torch.strided:
        return None
    written = call.arguments.get("out", source if call.overload._schema.name.endswith("_") else None)
    if written is None or written.untyped_storage().data_ptr() != source.untyped_storage().data_ptr():
        return None
    rows = last(source, call["dim"])
    return rows[picked_rows(rows.shape, probe)].clone()


def _judge(call: OpCall, captured: Tensor | None, probe: Probe) -> Sequence[Comparison]:
    require_numbers(call["self"], call.output)
    result = last(call.output.detach(), call["dim"])
    if not result.numel():
        return ()
    picked = picked_rows(result.shape, probe)
    result = result[picked]
    source = last(call["self"].detach(), call["dim"])[picked] if captured is None else captured
    add = probe.arithmetic.prefix_totals
    if not result.dtype.is_floating_point:
        if source.dtype.is_floating_point or result.dtype == torch.bool:
            raise NotCovered("cumulative sums of floating-point numbers as integers, or as truth values")
        total = joined([add(limb, -1) for limb in limbs_of(source)], result.shape[-1])
        return (exact_comparison("result", result, total),)
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


def prefix_comparison(
    result: Tensor, exact: Tensor, strict: Tensor, permissive: Tensor, shadow_error: Tensor
) -> Comparison:
    """Compare what was cumulated, with the permissive bound where this build accumulates in another way."""
    kinds = accumulators_of(result)
    return Comparison(
        output="result",
        computed=result,
        exact=exact,
        strict=strict,
        permissive=None if kinds.strict == kinds.permissive else permissive,
        shadow_error=shadow_error,
        model=model_of(result),
        propagates_nonfinite=True,
    )


CHECKS: tuple[Check, ...] = (
    Check(
        name="cumsum",
        family="cumulative",
        ops=("aten::cumsum", "aten::cumsum_", "aten::cumsum.out"),
        judge=_judge,
        capture=keep_rows,
        cost=cost_per_element("self", COST),
        silent=CUMSUM.silent,
        fires=CUMSUM.fires,
        advice="Repeat this cumulative sum in float64 on another device; in 16 bits, cumulate in float32.",
    ),
)
