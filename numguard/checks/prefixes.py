"""What cumulative sums and products have in common: the rows that are checked, and how their results are stored."""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from numguard.checks.check import Probe
from numguard.checks.overwritten_operands import is_overwritten
from numguard.checks.reduced_rows import model_of, require_numbers
from numguard.checks.row_samples import last, sampled_rows
from numguard.numerics.formats import accumulator_dtype
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison

ROW_COST: Final = 3.0  # the value, its magnitude and the bound, per element


class Accumulators(NamedTuple):
    """What the partial results are rounded to: the best that this operator is known to use, and the least it may."""

    strict: torch.dtype
    permissive: torch.dtype


class Prefixes(NamedTuple):
    """Rows ``[*rest, n]`` of the input, and the prefixes that the operator returned for them."""

    source: Tensor
    result: Tensor


def accumulators_of(result: Tensor) -> Accumulators:
    """Return float64 and float32 for float32 on the CPU, whose kernel adds in ``at::acc_type``, float64 there."""
    wide = accumulator_dtype(result.dtype)
    if result.device.type != "cpu":
        return Accumulators(wide, result.dtype)
    return Accumulators(torch.float64 if result.dtype == torch.float32 else wide, wide)


def _picked(shape: torch.Size, probe: Probe) -> tuple[slice, ...]:
    return sampled_rows(shape[:-1], ROW_COST * max(1, shape[-1]), probe)


def keep_rows(call: OpCall, probe: Probe) -> Tensor | None:
    """Copy the rows that :func:`prefixes_of` will return, where the operator overwrites them."""
    if not is_overwritten(call):
        return None
    rows = last(call["self"].detach(), call["dim"])
    return rows[_picked(rows.shape, probe)].clone()


def prefixes_of(call: OpCall, captured: Tensor | None, probe: Probe) -> Prefixes | None:
    """Return the rows that the probe picks, or None where there are no elements.

    Parameters
    ----------
    captured
        What :func:`keep_rows` returned before the call.

    Raises
    ------
    NotCovered
        For tensors without known rounding, and for a row that costs more than a check may.
    """
    require_numbers(call["self"], call.output)
    result = last(call.output.detach(), call["dim"])
    if not result.numel():
        return None
    picked = _picked(result.shape, probe)
    return Prefixes(last(call["self"].detach(), call["dim"])[picked] if captured is None else captured, result[picked])


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
