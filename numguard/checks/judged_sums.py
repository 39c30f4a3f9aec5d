"""Sums by rows and by slots that a fused route forms, bounds and judges in one pass over the caller's memory.

The formulas are those of :mod:`numguard.numerics.error_bounds.reduction_bounds` and
:mod:`numguard.numerics.error_bounds.scatter_bounds`.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from numguard.backends.judged_sums import slotting_record, summing_record
from numguard.checks.reduced_rows import Rows, model_of
from numguard.checks.slot_sums import SlotSum
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, smallest_rounding
from numguard.numerics.formats import accumulator_dtype
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.comparison import JudgedComparison

if TYPE_CHECKING:
    from numguard.backends.judged_sums import Slotting, Summing

_cached_summing_record = lru_cache(maxsize=1024)(summing_record)


def _format(dtype: torch.dtype) -> tuple[float, float, float]:
    return UNIT_ROUNDOFF[dtype], smallest_rounding(dtype), float(torch.finfo(dtype).max)


_cached_format = lru_cache(maxsize=16)(_format)


def judged_rows(
    rows: Rows,
    arithmetic: Arithmetic,
    *,
    limit: float,
    permissive_growth: float | None = None,
    division: float | None = None,
) -> JudgedComparison | None:
    """Return the comparison of sums or means by rows, judged; None where the route cannot read the tensors.

    Parameters
    ----------
    rows
        At least one term each.
    limit, permissive_growth
        As the bounds take them.
    division
        Relative error of the division of a mean; None for a sum.
    """
    if arithmetic.fused is None or rows.result.dtype == torch.float64 or not rows.source.numel():
        return None
    divisor = 1.0 if division is None else float(rows.num_terms)
    by: Summing = _cached_summing_record(
        growth=rows.growth.strict,
        permissive_growth=permissive_growth,
        limit=limit,
        lost=rows.lost / divisor,
        error=arithmetic.height(rows.num_terms) * SHADOW_ROUNDOFF / divisor,
        divisor=divisor,
        division=division or 0.0,
        result=_cached_format(rows.result.dtype),
    )
    judged = arithmetic.fused.row_sums(rows.source, rows.num_kept, rows.result, by)
    if judged is None:
        return None
    return JudgedComparison("result", judged, rows.result, model_of(rows.result), propagates_nonfinite=True)


@lru_cache(maxsize=16)
def _slotting(result: torch.dtype) -> "Slotting":
    return slotting_record(shadow=SHADOW_ROUNDOFF, result=_format(result))


def judged_slots(summed: SlotSum, base: Tensor | None, arithmetic: Arithmetic) -> JudgedComparison | None:
    """Return the comparison of sums by slot, judged; None for 16-bit and scaled ones and what the route cannot read."""
    result = summed.result
    assert result is not None
    plain = summed.scale == 1 and not summed.averaged and (base is None or summed.keeps_base)
    if arithmetic.fused is None or not plain or not summed.index.numel() or result.dtype not in UNIT_ROUNDOFF:
        return None
    if accumulator_dtype(result.dtype) != result.dtype:
        return None
    judged = arithmetic.fused.slot_sums(
        summed.num_slots, summed.index, summed.source, base, result, _slotting(result.dtype)
    )
    return None if judged is None else JudgedComparison("result", judged, result)
