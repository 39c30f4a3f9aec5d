"""Variances and standard deviations of rows, alone and with their means."""

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, checks_of, cost_per_element
from numguard.checks.moment_examples import EXAMPLES
from numguard.checks.overwritten_operands import keep_overwritten
from numguard.checks.reduced_rows import model_of, require_numbers, rows_of
from numguard.checks.row_moments import RowMoments, moments_of
from numguard.checks.sign_rules import not_negative
from numguard.numerics.error_bounds.exponential_bounds import accumulator_of, bounded_while
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.numerics.error_bounds.moment_bounds import mean_bound, root_bound, variance_bound
from numguard.numerics.error_bounds.normalisation_bounds import any_order_height
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

COST: Final = 6.0  # value, magnitude, deviation and square, per element


def _accumulator(source: Tensor) -> torch.dtype:
    """Return the format of Welford's updates: on the CPU float64 for float32, float32 for 16 bits.

    ``std_var_kernel`` in ``aten/src/ATen/native/cpu/ReduceOpsKernel.cpp``.
    """
    if source.device.type == "cpu" and source.dtype == torch.float32:
        return torch.float64
    return accumulator_of(source.dtype)


def _divisor(call: OpCall, num_terms: int) -> float:
    correction = call["correction"]
    return max(0.0, num_terms - (1.0 if correction is None else float(correction)))


def _mean_error(row: RowMoments, accumulator: torch.dtype, source: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bounds of a mean that is returned, and of the one from which deviations are taken.

    Over all elements of a contiguous float32 tensor the CPU takes deviations from a mean rounded to float32
    (``std_var_all_cpu`` in ``aten/src/ATen/native/ReduceOps.cpp``).
    """
    height = any_order_height(row.num_terms)
    plain = mean_bound(row.mean, row.mean_magnitude, row.num_terms, height, accumulator)
    if accumulator == accumulator_of(source.dtype):
        return plain, plain
    rounded = mean_bound(row.mean, row.mean_magnitude, row.num_terms, height, torch.float32)
    return plain, rounded if row.mean.dim() == 0 else plain


def _judge(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    source = call["self"] if captured is None else captured
    outputs = call.output if isinstance(call.output, tuple) else (call.output,)
    require_numbers(source, *outputs)
    if not source.dtype.is_floating_point:
        raise NotCovered("variances of integers")
    rows = [rows_of(source, output, call["dim"], probe, cost=COST) for output in outputs]
    spread = rows[0]
    if not spread.result.numel() or not spread.num_terms:
        return ()
    row = moments_of(spread.source, spread.num_kept, probe.arithmetic)
    accumulator = _accumulator(source)
    returned, inner = _mean_error(row, accumulator, source)
    compared = _spread(call, spread.result, row, inner, accumulator)
    comparisons = [compared, not_negative(compared.output, spread.result)]
    if len(rows) == 2:
        comparisons.append(
            Comparison(
                output="mean",
                computed=rows[1].result,
                exact=row.mean,
                strict=returned,
                shadow_error=SHADOW_ROUNDOFF * (row.height + 2.0) * row.mean_magnitude,
                model=model_of(source),
                propagates_nonfinite=True,
            )
        )
    return comparisons


def _spread(
    call: OpCall, computed: Tensor, row: RowMoments, mean_error: Tensor, accumulator: torch.dtype
) -> Comparison:
    """Compare the variance or its root with the divisor that the caller wants."""
    height, divisor = any_order_height(row.num_terms), _divisor(call, row.num_terms)
    scale = row.num_terms / divisor if divisor else math.inf
    exact = row.squares / divisor
    bound = variance_bound(row.variance, row.mean, mean_error, height, accumulator) * scale
    bound = bound + 4.0 * UNIT_ROUNDOFF[accumulator] * exact
    second = row.num_terms * (row.variance + row.mean * row.mean)
    bound = bounded_while(4.0 * second, accumulator, bound)
    own_mean = SHADOW_ROUNDOFF * (row.height + 2.0) * row.mean_magnitude
    own = variance_bound(row.variance, row.mean, own_mean, row.height + 4, torch.float64) * scale
    if call.op.startswith("aten::std"):
        root = exact.sqrt()
        own, bound = root_bound(exact, own), root_bound(exact, bound) + 2.0 * UNIT_ROUNDOFF[accumulator] * root
        exact = root
    return Comparison(
        output="result" if not isinstance(call.output, tuple) else call.op.split("::")[1][:3],
        computed=computed,
        exact=exact,
        strict=bound,
        shadow_error=own,
        model=model_of(computed),
        propagates_nonfinite=False,  # a divisor of zero gives inf or NaN, whatever the rows hold
    )


CHECKS: tuple[Check, ...] = checks_of(
    "moments",
    {
        "var": (_judge, ("var.correction", "var.correction_out")),
        "std": (_judge, ("std.correction", "std.correction_out")),
        "var_mean": (_judge, ("var_mean.correction",)),
        "std_mean": (_judge, ("std_mean.correction",)),
    },
    EXAMPLES,
    capture=keep_overwritten,
    cost=cost_per_element("self", COST),
    advice="Take mean and variance in float64 on another device; subtract a large offset first.",
)
