"""Distances between the rows of two matrices: what ``torch.cdist`` runs."""

from collections.abc import Sequence
from typing import Any, Final

import torch

from numguard.checks.check import Check, Probe, checks_of
from numguard.checks.distance_examples import EXAMPLES
from numguard.checks.reduced_rows import model_of, require_numbers
from numguard.checks.row_samples import sampled_rows
from numguard.checks.sign_rules import not_negative
from numguard.numerics.error_bounds.distance_bounds import distance_bound, product_distance_bound
from numguard.numerics.error_bounds.exponential_bounds import accumulator_of
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

COST: Final = 6.0  # difference, power, magnitude
LARGEST_POWER: Final = 16.0
BY_PRODUCT: Final = 25  # rows from which ``cdist`` uses inner products by itself


def _judge(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    first, second, result = call["x1"].detach(), call["x2"].detach(), call.output.detach()
    require_numbers(first, second)
    power = float(call.arguments.get("p", 2.0))
    if 0.0 < power < 1.0 or LARGEST_POWER < power < float("inf"):
        raise NotCovered(f"distances with p={power:g}")
    length = first.shape[-1]
    if not result.numel() or not length:
        return ()
    picked = sampled_rows(tuple(result.shape), COST * length, probe)
    lead = torch.broadcast_shapes(first.shape[:-2], second.shape[:-2])  # type: ignore[no-untyped-call]
    a = first.expand(*lead, *first.shape[-2:])[picked[:-1]].to(torch.float64).unsqueeze(-2)
    b = second.expand(*lead, *second.shape[-2:])[(*picked[:-2], picked[-1])].to(torch.float64).unsqueeze(-3)
    gap = (a - b).abs()
    total = probe.arithmetic.total
    if power == float("inf"):
        exact = probe.arithmetic.maximum(gap, (-1,), False)
    elif power == 0.0:
        exact = total(torch.where(gap.isnan(), gap, (gap != 0).to(torch.float64)), (-1,), False)
    else:
        exact = total(gap if power == 1.0 else gap**power, (-1,), False) ** (1.0 / power)
    accumulator = accumulator_of(result.dtype)
    strict = distance_bound(exact, power, length, accumulator)
    permissive = None
    if power == 2.0:
        squares = total(a * a, (-1,), False) + total(b * b, (-1,), False)
        # Operator by operator: the squares |a|^2 and |b|^2 are rounded to the format of the result in between.
        between = result.dtype if call.op == "aten::_euclidean_dist" else accumulator
        permissive = strict.maximum(product_distance_bound(exact, squares, length, between))
    own = (probe.arithmetic.height(length) + 4.0 * (power if power < LARGEST_POWER else 1.0) + 8.0) * exact
    return (
        Comparison(
            output="result",
            computed=result[picked],
            exact=exact,
            strict=strict,
            permissive=permissive if _may_multiply(call) else None,
            shadow_error=SHADOW_ROUNDOFF * own + (UNIT_ROUNDOFF[torch.float64] if power == 0.0 else 0.0),
            model=model_of(result),
            propagates_nonfinite=power not in (0.0, float("inf")) and result.dtype != torch.float64,
        ),
        not_negative("result", result[picked]),
    )


def _may_multiply(call: OpCall) -> bool:
    """Return whether the operator may form distances from inner products."""
    if call.op == "aten::_euclidean_dist":
        return True
    mode = call["compute_mode"]
    long = max(call["x1"].shape[-2], call["x2"].shape[-2]) > BY_PRODUCT
    return float(call["p"]) == 2.0 and (mode == 1 or (mode in (None, 0) and long))


def _cost(call: OpCall) -> float:
    first, second = call["x1"], call["x2"]
    return COST * float(first.numel() * second.shape[-2])


CHECKS: tuple[Check, ...] = checks_of(
    "distances",
    {"cdist": (_judge, ("_cdist_forward", "_euclidean_dist"))},
    EXAMPLES,
    cost=_cost,
    advice="Set compute_mode='donot_use_mm_for_euclid_dist', which does not cancel for close points.",
)
