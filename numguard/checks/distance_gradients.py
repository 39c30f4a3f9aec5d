"""Gradients of distances between the rows of two matrices."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, checks_of
from numguard.checks.distance_examples import EXAMPLES
from numguard.checks.distances import LARGEST_POWER
from numguard.checks.reduced_rows import model_of, require_numbers
from numguard.checks.row_samples import sampled_rows
from numguard.numerics.error_bounds.distance_bounds import GradientReach, distance_gradient_bound
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

COST: Final = 8.0  # difference, two powers, product, magnitude


def _judge(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    first, second, result = call["x1"].detach(), call["x2"].detach(), call.output.detach()
    incoming, distance, power = call["grad"].detach(), call["cdist"].detach(), float(call["p"])
    require_numbers(first, second, incoming)
    if 0.0 < power < 1.0 or LARGEST_POWER < power < float("inf"):
        raise NotCovered(f"gradients of distances with p={power:g}")
    count = second.shape[-2]
    if not result.numel() or not incoming.numel() or not count:
        return ()
    picked = sampled_rows(tuple(result.shape), COST * count, probe)
    lead, columns = picked[:-1], picked[-1]
    shape = result.shape[:-2]
    # [*, i, j, m]: all rows of the other matrix meet in each element.
    a = first.expand(*shape, *first.shape[-2:])[(*lead, columns)].to(torch.float64).unsqueeze(-2)
    b = second.expand(*shape, *second.shape[-2:])[(*picked[:-2], slice(None), columns)].to(torch.float64).unsqueeze(-3)
    g = incoming.expand(*shape, *incoming.shape[-2:])[lead].to(torch.float64).unsqueeze(-1)
    r = distance.expand(*shape, *distance.shape[-2:])[lead].to(torch.float64).unsqueeze(-1)
    gap = a - b
    terms = torch.where(r == 0, 0.0, g * _slopes(gap, r, power, result.dtype))
    exact, mass = probe.arithmetic.total(torch.stack((terms, terms.abs())), (-2,), False)
    extremes = torch.stack((gap.abs() + r, g.abs().expand(gap.shape), (1.0 / r).expand(gap.shape)))
    extremes[2] = torch.where(r > 0, extremes[2], 0.0)
    sizes, back, closeness = probe.arithmetic.maximum(extremes, (-2,), False)
    strict = distance_gradient_bound(mass, GradientReach(sizes, back, 1.0 / closeness), power, count, result.dtype)
    steps = min(power, LARGEST_POWER)  # of the powers, unless there are none
    return (
        Comparison(
            output="grad",
            computed=result[picked],
            exact=exact,
            strict=strict,
            shadow_error=SHADOW_ROUNDOFF * (probe.arithmetic.height(count) + 4.0 * steps + 8.0) * mass,
            model=model_of(result),
            propagates_nonfinite=power not in (0.0, 1.0, float("inf")),  # the sign of a NaN need not be one
        ),
    )


def _slopes(gap: Tensor, distance: Tensor, power: float, dtype: torch.dtype) -> Tensor:
    """Return the derivative of ``distance`` by each ``gap``; at zero, and of counts, it is taken for zero."""
    if power == 0.0:
        return torch.zeros_like(gap)
    sign = torch.where(gap.isnan() | distance.isnan(), torch.nan, gap.sign())
    if power == 1.0:
        return sign
    if power == float("inf"):  # of the differences as the operator forms them
        return torch.where((gap.to(dtype).abs() == distance.to(dtype)) | sign.isnan(), sign, 0.0)
    return sign * (gap.abs() / distance) ** (power - 1.0)


def _cost(call: OpCall) -> float:
    return COST * float(call["x1"].numel() * call["x2"].shape[-2])


CHECKS: tuple[Check, ...] = checks_of(
    "distances",
    {"cdist_backward": (_judge, ("_cdist_backward",))},
    EXAMPLES,
    cost=_cost,
    advice="Form this gradient in float64; if that differs as well, drain the device.",
)
