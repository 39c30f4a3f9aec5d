"""Losses of a prediction and a target element by element, summed or averaged or neither, and their gradients.

What PyTorch composes (``l1_loss``, ``kl_div``, ``cosine_embedding_loss``, ``poisson_nll_loss``) reaches the dispatcher
as elementwise operators and a mean, and is judged there.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, checks_of, cost_per_element
from numguard.checks.losses import MEAN, NONE
from numguard.checks.pointwise_loss_examples import EXAMPLES
from numguard.checks.reduced_rows import CHUNK, model_of, require_numbers
from numguard.checks.row_samples import sampled_rows
from numguard.numerics.error_bounds.exponential_bounds import accumulator_of, storage_of
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, smallest_rounding
from numguard.numerics.error_bounds.loss_bounds import RULES, Element, LossRule
from numguard.numerics.error_bounds.summation_bounds import sum_bound
from numguard.numerics.tree_heights import summation_height
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

COST: Final = 16.0  # value and error of one element


def _rule(call: OpCall) -> LossRule:
    name = call.op.removeprefix("aten::").partition(".")[0].removesuffix("_backward")
    if name == "smooth_l1_loss" and not call["beta"] > 0:
        raise NotCovered("smooth_l1_loss with beta=0")
    return RULES[name]


def _operands(call: OpCall) -> dict[str, Tensor]:
    """Return the tensors of a call, broadcast against each other."""
    names = [name for name in ("self", "target", "weight", "pos_weight") if call.arguments.get(name) is not None]
    tensors = [call[name].detach() for name in names]
    require_numbers(*tensors)
    if not all(tensor.dtype.is_floating_point for tensor in tensors[:2]):
        raise NotCovered("losses of integers")
    alike = torch.broadcast_tensors(*tensors)  # type: ignore[no-untyped-call]
    return dict(zip(names, alike, strict=True))


def _element(call: OpCall, operands: dict[str, Tensor]) -> tuple[Element, Tensor | float]:
    wide = {name: tensor.to(torch.float64) for name, tensor in operands.items()}
    parameter = call.arguments.get("beta", call.arguments.get("delta", 1.0))
    return Element(wide["self"], wide["target"], float(parameter), wide.get("pos_weight")), wide.get("weight", 1.0)


def _magnitude(weight: Tensor | float) -> Tensor | float:
    return weight.abs() if isinstance(weight, Tensor) else abs(weight)


def _losses(call: OpCall, rule: LossRule, operands: dict[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return losses with their strict, permissive and own bounds, element by element."""
    element, weight = _element(call, operands)
    loss = rule.value(element) * weight
    bounds = []
    for unit, floor, largest in _formats(dtype):
        error = rule.value_error(element, unit, largest) * _magnitude(weight) + unit * loss.abs()
        error = error + 4.0 * floor * (1.0 + _magnitude(weight))
        bounds.append(torch.where(loss.abs() < largest, error, torch.inf))
    return [loss, *bounds]


def _formats(dtype: torch.dtype) -> Iterator[tuple[float, float, float]]:
    """Yield unit roundoff, underflow and largest number: of the accumulator, of the results, of the shadow.

    Operators on 16-bit results may do every step in these; a float32 step may flush what is below the normal range.
    """
    wide = torch.finfo(accumulator_of(dtype))
    first = UNIT_ROUNDOFF[accumulator_of(dtype)], float(wide.smallest_normal), float(wide.max)
    yield first
    storage = storage_of(dtype)
    if storage is None:
        yield first
    else:
        yield UNIT_ROUNDOFF[storage], smallest_rounding(storage), float(torch.finfo(storage).max)
    yield SHADOW_ROUNDOFF, 0.0, float(torch.finfo(torch.float64).max)


def _compare(output: str, computed: Tensor, exact: Tensor, bounds: Sequence[Tensor]) -> Comparison:
    strict, permissive, own = bounds
    return Comparison(
        output=output,
        computed=computed,
        exact=exact,
        strict=strict,
        permissive=permissive if storage_of(computed.dtype) is not None else None,
        shadow_error=torch.nan_to_num(own, posinf=0.0),
        model=model_of(computed),
        propagates_nonfinite=computed.dtype != torch.float64,
    )


def _forward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    rule, operands, result = _rule(call), _operands(call), call.output.detach()
    if not operands["self"].numel():
        return ()
    if call["reduction"] == NONE:
        picked = sampled_rows(tuple(result.shape), COST, probe)
        loss, *bounds = _losses(call, rule, {name: part[picked] for name, part in operands.items()}, result.dtype)
        return (_compare("result", result[picked], loss, bounds),)
    return (_reduced(call, rule, operands, result, probe),)


def _pieces(operands: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield parts of at most :data:`CHUNK` elements; no operand is copied as a whole."""
    first = operands["self"]
    if first.numel() <= CHUNK:
        yield operands
        return
    dim = max(range(first.dim()), key=lambda number: first.shape[number])
    step = max(1, first.shape[dim] * CHUNK // first.numel())
    parts = [torch.split(tensor, step, dim=dim) for tensor in operands.values()]
    for some in zip(*parts, strict=True):
        yield from _pieces(dict(zip(operands, some, strict=True)))


def _reduced(call: OpCall, rule: LossRule, operands: dict[str, Tensor], result: Tensor, probe: Probe) -> Comparison:
    """Compare the sum or the mean: the errors of the losses, and those of adding them up."""
    count, dtype = operands["self"].numel(), result.dtype
    probe.afford(COST * count, in_pieces=True)
    totals, height = torch.zeros(5, dtype=torch.float64, device=result.device), 0
    for piece in _pieces(operands):
        loss, *bounds = (part.reshape(-1) for part in _losses(call, rule, piece, dtype))
        totals = totals + probe.arithmetic.total(torch.stack((loss, loss.abs(), *bounds)), (1,), False)
        height += 1
    height += probe.arithmetic.height(min(count, CHUNK))
    exact, mass, *errors = totals.unbind()
    accumulator = accumulator_of(dtype)
    adds = max(0, count - 1)
    if result.device.type == "cpu":
        adds = summation_height(count, dtype=dtype, num_threads=torch.get_num_threads(), adjacent=True, num_chunks=1)
    mean = call["reduction"] == MEAN
    bounds = []
    for number, (unit, _, largest) in enumerate(_formats(dtype)):
        high, add_unit = (adds, UNIT_ROUNDOFF[accumulator]) if number < 2 else (height, SHADOW_ROUNDOFF)
        grown = torch.as_tensor(sum_bound(1.0, high, add_unit, num_terms=count), dtype=torch.float64)
        error = errors[number] + grown * (mass + errors[number]) + 4.0 * unit * exact.abs() * mean
        error = torch.where(mass < 0.5 * largest, error, torch.inf)
        bounds.append(error / count if mean else error)
    return _compare("result", result, exact / count if mean else exact, bounds)


def _backward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    rule, operands, result = _rule(call), _operands(call), call.output.detach()
    if not result.numel() or rule.slope is None or rule.slope_error is None:
        return ()
    if result.shape != operands["self"].shape:
        raise NotCovered("a gradient of another shape than the loss")
    picked = sampled_rows(tuple(result.shape), COST, probe)
    element, weight = _element(call, {name: part[picked] for name, part in operands.items()})
    incoming = call["grad_output"].detach()
    incoming = incoming.expand(result.shape)[picked].to(torch.float64)
    share = 1.0 / operands["self"].numel() if call["reduction"] == MEAN else 1.0
    factor = incoming * share * weight
    exact, bounds = rule.slope(element) * factor, []
    slope = rule.slope(element).abs()
    reach = slope if rule.reach is None else slope.maximum(rule.reach(element))
    for unit, floor, largest in _formats(result.dtype):
        error = rule.slope_error(element, unit, largest) * factor.abs() + 6.0 * unit * exact.abs()
        # A product that underflows loses what it would have been multiplied by.
        lost = 4.0 * floor * (1.0 + incoming.abs()) * (1.0 + slope) * (1.0 + _magnitude(weight))
        fits = reach * (1.0 + incoming.abs()) * (1.0 + _magnitude(weight)) < 0.5 * largest
        bounds.append(torch.where(fits, error + lost, torch.inf))
    bounds[2] = SHADOW_ROUNDOFF * 16.0 * exact.abs()
    return (_compare("grad_input", result[picked], exact, bounds),)


_FORWARD_ADVICE: Final = "Compute the loss with reduction='none' in float32 and add it up on another device; compare."
_BACKWARD_ADVICE: Final = "Repeat the backward step of the loss in float32 on another device and compare elementwise."

CHECKS: tuple[Check, ...] = (
    *checks_of(
        "losses",
        {name: (_forward, (name,)) for name in RULES},
        EXAMPLES,
        cost=cost_per_element("self", COST),
        advice=_FORWARD_ADVICE,
    ),
    *checks_of(
        "losses",
        {f"{name}_backward": (_backward, (f"{name}_backward",)) for name in RULES if RULES[name].slope is not None},
        EXAMPLES,
        cost=cost_per_element("self", COST),
        advice=_BACKWARD_ADVICE,
    ),
)
