"""Sums and means, also those that skip NaN: ``sum.dim_IntList`` is what the backward of broadcasting runs."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, checks_of, cost_per_element
from numguard.checks.exact_results import exact_integers
from numguard.checks.integer_totals import joined, limbs_of
from numguard.checks.judged_sums import judged_rows
from numguard.checks.overwritten_operands import keep_overwritten
from numguard.checks.reduced_rows import Rows, Terms, model_of, require_numbers, row_totals, rows_of
from numguard.checks.sum_examples import EXAMPLES
from numguard.numerics.error_bounds.reduction_bounds import row_mean_bound, row_sum_bound
from numguard.numerics.formats import accumulator_dtype, unit_roundoff
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Compared, Comparison, NotCovered

COST: Final = 2.0  # the value and its magnitude, per element


def _terms(dtype: torch.dtype, skips_nan: bool) -> Terms:
    """Return what yields the numbers that a kernel with results of ``dtype`` adds, and their magnitudes.

    In float64 a zero for every finite number besides: it tells an infinite total from one that has overflowed.
    """

    def terms(piece: Tensor) -> Iterator[Tensor]:
        wide = piece.to(torch.float64)
        if skips_nan:
            wide = torch.where(wide.isnan(), 0.0, wide)
        yield wide
        yield wide.abs()
        if dtype == torch.float64:
            yield wide - wide

    return terms


def _judge_sum(call: OpCall, captured: Any, probe: Probe) -> Sequence[Compared]:
    return _judge(call, captured, probe, skips_nan=False)


def _judge_nansum(call: OpCall, captured: Any, probe: Probe) -> Sequence[Compared]:
    return _judge(call, captured, probe, skips_nan=True)


def _judge(call: OpCall, captured: Any, probe: Probe, skips_nan: bool) -> Sequence[Compared]:
    source = call["self"] if captured is None else captured
    rows = rows_of(source, call.output, call.arguments.get("dim"), probe, cost=COST, stores_runs=skips_nan)
    if not rows.result.numel():
        return ()
    if not rows.result.dtype.is_floating_point:
        return (_integers(rows, probe),)
    growth, narrowest = rows.growth, rows.result.dtype
    if growth.permissive is None and not rows.lost:
        narrowest = accumulator_dtype(narrowest)
    largest = torch.finfo(narrowest).max
    if not skips_nan:
        judged = judged_rows(rows, probe.arithmetic, limit=largest, permissive_growth=growth.permissive)
        if judged is not None:
            return (judged,)
    exact, mass, height = _totals(rows, probe, skips_nan)
    return (
        Comparison(
            output="result",
            computed=rows.result,
            exact=exact,
            strict=row_sum_bound(mass, growth.strict, largest) + rows.lost,
            permissive=None
            if growth.permissive is None
            else row_sum_bound(mass, growth.permissive, largest) + rows.lost,
            shadow_error=height * SHADOW_ROUNDOFF * mass,
            model=model_of(rows.result),
            propagates_nonfinite=True,
        ),
    )


def _judge_mean(call: OpCall, captured: Any, probe: Probe) -> Sequence[Compared]:
    source = call["self"] if captured is None else captured
    require_numbers(call.output)
    dtype = call.output.dtype
    if not dtype.is_floating_point:
        raise NotCovered("means in integers")
    wide = accumulator_dtype(dtype)
    # 16-bit numbers are added and divided in float32: the CPU casts the whole input first.
    rows = rows_of(source, call.output, call.arguments.get("dim"), probe, cost=COST, dtype=wide)
    if not rows.result.numel():
        return ()
    count, growth = max(1, rows.num_terms), rows.growth.strict
    largest = torch.finfo(dtype if rows.lost else wide).max
    judged = judged_rows(rows, probe.arithmetic, limit=largest, division=2.0 * unit_roundoff(wide))
    if judged is not None:
        return (judged,)
    total, mass, height = _totals(rows, probe, skips_nan=False)
    bound = row_mean_bound(mass, total, count, growth, 2.0 * unit_roundoff(wide), largest)
    return (
        Comparison(
            output="result",
            computed=rows.result,
            exact=total / rows.num_terms if rows.num_terms else torch.full_like(total, torch.nan),
            strict=bound + rows.lost / count,
            shadow_error=height * SHADOW_ROUNDOFF * mass / count,
            model=model_of(rows.result),
            propagates_nonfinite=True,
        ),
    )


def _totals(rows: Rows, probe: Probe, skips_nan: bool) -> tuple[Tensor, Tensor, int]:
    """Return totals, totals of magnitudes, and the additions that a term of either passed through."""
    dtype = rows.result.dtype
    fused = probe.arithmetic.fused
    if fused is not None and not skips_nan and dtype != torch.float64:
        sums = fused.rows(rows.source, rows.num_kept)
        if sums is not None:
            return *sums, probe.arithmetic.height(rows.num_terms)
    totals, height = row_totals(rows.source, rows.num_kept, _terms(dtype, skips_nan), probe.arithmetic)
    total, mass = totals[:2]
    for excuse in totals[2:]:
        overflowed = (excuse == 0.0) & ~torch.isfinite(total)
        total = torch.where(overflowed, torch.finfo(dtype).max, total)
    return total, mass, height


def _integers(rows: Rows, probe: Probe) -> Comparison:
    if rows.source.dtype.is_floating_point:
        raise NotCovered("sums of floating-point numbers as integers")
    if rows.result.dtype == torch.bool:
        (hits,), _ = row_totals(rows.source, rows.num_kept, _hits, probe.arithmetic)
        return exact_integers("result", rows.result, (hits > 0).to(torch.int64))
    totals, _ = row_totals(rows.source, rows.num_kept, limbs_of, probe.arithmetic)
    return exact_integers("result", rows.result, joined(totals, rows.num_terms))


def _hits(piece: Tensor) -> Iterator[Tensor]:
    yield (piece != 0).to(torch.float64)


CHECKS: tuple[Check, ...] = checks_of(
    "sums",
    {
        "sum": (_judge_sum, ("sum", "sum.dim_IntList", "sum.IntList_out", "sum.out")),
        "mean": (_judge_mean, ("mean", "mean.dim", "mean.out", "mean.dtype_out")),
        "nansum": (_judge_nansum, ("nansum", "nansum.out")),
    },
    EXAMPLES,
    capture=keep_overwritten,
    cost=cost_per_element("self", COST),
    advice="Repeat this sum in float64 on another device: if they differ, drain this one or go back a build.",
)
