"""Negative log likelihood, forward and backward: with log-softmax, what ``F.cross_entropy`` runs."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, checks_of, cost_per_element
from numguard.checks.loss_examples import EXAMPLES
from numguard.checks.observed_order import cascade_height, cascade_total
from numguard.checks.reduced_rows import model_of
from numguard.checks.repeated_sums import accepted_beside
from numguard.checks.row_samples import sampled_rows
from numguard.numerics.error_bounds.exponential_bounds import (
    accumulator_of,
    nll_backward_bound,
    nll_mean_bound,
    storage_of,
    weighted_sum_bound,
)
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.call import OpCall, bind
from numguard.shadow.comparison import Comparison

NONE, MEAN, SUM = 0, 1, 2  # the operator's codes of ``reduction``
FORWARD_COST: Final = 8.0  # one gathered element and its weight
BACKWARD_COST: Final = 2.0

aten = torch.ops.aten


class Targets(NamedTuple):
    """Targets with the class dimension last and of size one; ``counted`` is False where they are ignored."""

    classes: Tensor
    counted: Tensor
    weight: Tensor | None


def _classes_last(tensor: Tensor) -> Tensor:
    return tensor.movedim(1, -1) if tensor.dim() > 1 else tensor


def _targets(call: OpCall, rows: tuple[slice, ...]) -> Targets:
    target, weight = call["target"][rows].unsqueeze(-1).long(), call["weight"]
    counted = target != call["ignore_index"]
    classes = target.clamp(0, max(0, _classes_last(call["self"]).shape[-1] - 1))
    return Targets(classes, counted, None if weight is None else weight.detach().take(classes).double())


def _height(counted: Tensor) -> int:
    """Return the height of the sum over all targets; any order where the kernel is not the CPU's."""
    if counted.device.type != "cpu" or counted.numel() <= 32:
        return max(1, counted.numel())
    return max(1, min(counted.numel(), cascade_height(counted.reshape(-1).numpy())))


def _compare(output: str, computed: Tensor, exact: Tensor, strict: Tensor | float, **optional: Any) -> Comparison:
    return Comparison(
        output=output,
        computed=computed,
        exact=exact,
        strict=strict,
        model=model_of(computed),
        propagates_nonfinite=True,
        **optional,
    )


def _replayed(call: OpCall, targets: Targets, picked: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return loss and total weight as the CPU kernel's 16-bit partial sums give them."""
    dtype, counted = picked.dtype, targets.counted.reshape(-1).numpy()
    losses, weights = -picked.reshape(-1), None
    if targets.weight is not None:
        weights = targets.weight.to(dtype).reshape(-1)
        losses = losses * weights
    loss = cascade_total(losses, counted)
    weight = cascade_total(weights, counted) if weights is not None else torch.tensor(float(counted.sum())).to(dtype)
    if loss is None or weight is None:
        return None
    return (loss / weight if call["reduction"] == MEAN else loss), weight


@cache
def replays(dtype: torch.dtype, planar: bool, weighted: bool) -> bool:
    """Return whether this build's CPU kernel forms its 16-bit sums in the order of the replay, tried once.

    Private data with ignored targets at the places where partial sums move up, in every reduction that adds.
    """
    random = np.random.default_rng(20)
    source = torch.from_numpy(random.standard_normal((700, 5))).to(dtype)
    target = torch.from_numpy(random.integers(0, 5, 700))
    target[::7] = -100
    target[64:160:16] = -100
    weight = torch.from_numpy(random.random(5)).to(dtype) if weighted else None
    if planar:
        source, target = source.reshape(7, 10, 10, 5).permute(0, 3, 1, 2), target.reshape(7, 10, 10)
    op = aten.nll_loss2d_forward.default if planar else aten.nll_loss_forward.default
    for reduction in (MEAN, SUM):
        arguments = bind(op, (source, target, weight, reduction, -100), {})
        call = OpCall(overload=op, arguments=arguments, output=op(*arguments.values()))
        targets = _targets(call, ())
        expected = _replayed(call, targets, _classes_last(source).gather(-1, targets.classes))
        if expected is None or any(
            a.float().numpy() != b.float().numpy() for a, b in zip(expected, call.output, strict=True)
        ):
            return False
    return True


def _replay(call: OpCall, targets: Targets, picked: Tensor, bounded: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Compare bit for bit where sums are kept in 16 bits and their order is known."""
    weighted = targets.weight is not None
    if picked.device.type != "cpu" or storage_of(picked.dtype) is None or not picked.numel():
        return ()
    if not replays(picked.dtype, picked.dim() == 4, weighted):
        return ()
    expected = _replayed(call, targets, picked)
    if expected is None:
        return ()
    return tuple(
        _compare(
            f"{beside.output} (replayed)",
            beside.computed,
            accepted_beside(beside, beside.computed, value.double()),
            0.0,
            rounds_output=False,
        )
        for beside, value in zip(bounded, expected, strict=True)
    )


def _forward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    source, (result, total_weight) = _classes_last(call["self"].detach()), call.output
    if not source.shape[-1]:
        return ()
    unreduced = call["reduction"] == NONE and source.dim() > 1
    rows = sampled_rows(result.shape, FORWARD_COST, probe) if unreduced else ()
    targets = _targets(call, rows)
    stored = source[rows].gather(-1, targets.classes)
    picked = stored.double()
    losses = torch.where(targets.counted, -picked if targets.weight is None else -picked * targets.weight, 0.0)
    if unreduced:
        # Without weights the operator copies, so the result must be equal.
        exact, weighted = losses[..., 0], targets.weight is not None
        return (_compare("output", result[rows].detach(), exact, 0.0, rounds_output=weighted),)
    bounded = _reduced(call, targets, losses, (result.detach(), total_weight.detach()), probe)
    return (*bounded, *_replay(call, targets, stored, bounded))


def _reduced(
    call: OpCall, targets: Targets, losses: Tensor, results: tuple[Tensor, Tensor], probe: Probe
) -> Sequence[Comparison]:
    """Compare the sum or the mean, and the total weight beside it."""
    everywhere = tuple(range(1, losses.dim() + 1))
    height, own_height = _height(targets.counted), probe.arithmetic.height(losses.numel())
    weights = torch.where(targets.counted, 1.0 if targets.weight is None else targets.weight, 0.0).double()
    parts = torch.stack((losses, losses.abs(), weights, weights.abs()))
    loss, loss_mass, weight, weight_mass = probe.arithmetic.total(parts, everywhere, False)
    if targets.weight is None:  # a count is exact and rounded once
        weight_mass = torch.zeros_like(weight)

    def loss_bound(height: int, dtype: torch.dtype) -> Tensor:
        if call["reduction"] == MEAN:
            return nll_mean_bound(loss, loss_mass, weight, weight_mass, height, dtype)
        return weighted_sum_bound(loss_mass, height, dtype)

    accumulator, storage = accumulator_of(results[0].dtype), storage_of(results[0].dtype)
    exact = loss / weight if call["reduction"] == MEAN else loss
    strict, strict_weight = loss_bound(height, accumulator), weighted_sum_bound(weight_mass, height, accumulator)
    permissive, permissive_weight = None, None
    if storage:
        permissive, permissive_weight = loss_bound(height, storage), weighted_sum_bound(weight_mass, height, storage)
    # The shadow adds in float64: the same bound with its unit roundoff and its height.
    own = max(1.0, own_height / height) * SHADOW_ROUNDOFF / UNIT_ROUNDOFF[accumulator]
    if accumulator is torch.float64 and own > 1.0:
        own_error, own_weight = (
            loss_bound(own_height, accumulator),
            weighted_sum_bound(weight_mass, own_height, accumulator),
        )
    else:
        own_error, own_weight = own * strict, own * strict_weight
    return (
        _compare("output", results[0], exact, strict, permissive=permissive, shadow_error=own_error),
        _compare(
            "total_weight", results[1], weight, strict_weight, permissive=permissive_weight, shadow_error=own_weight
        ),
    )


def _backward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    """Compare every class of the sampled rows: the target's gradient, and zeros beside it."""
    result = _classes_last(call.output.detach())
    if not result.numel():
        return ()
    unreduced = call["reduction"] == NONE and result.dim() > 1
    rows = sampled_rows(result.shape[:-1], BACKWARD_COST * result.shape[-1], probe)
    targets = _targets(call, rows)
    grad = call["grad_output"].detach()
    scale = grad[rows].double().unsqueeze(-1) if unreduced else grad.double().reshape(())
    if call["reduction"] == MEAN:
        scale = scale / call["total_weight"].detach().double().reshape(())
    at_target = -scale if targets.weight is None else -scale * targets.weight
    hit = torch.arange(result.shape[-1], device=result.device) == targets.classes
    exact = torch.where(hit & targets.counted, at_target, 0.0)
    copies = targets.weight is None and call["reduction"] != MEAN
    accumulator, storage = accumulator_of(result.dtype), storage_of(result.dtype)
    strict = nll_backward_bound(exact, accumulator)
    return (
        _compare(
            "grad_input",
            result[rows],
            exact,
            strict,
            permissive=nll_backward_bound(exact, accumulator, storage) if storage else None,
            shadow_error=nll_backward_bound(exact, torch.float64),
            rounds_output=not copies,
        ),
    )


CHECKS: tuple[Check, ...] = (
    *checks_of(
        "losses",
        {
            "nll_loss": (_forward, ("nll_loss_forward", "nll_loss_forward.output")),
            "nll_loss2d": (_forward, ("nll_loss2d_forward", "nll_loss2d_forward.output")),
        },
        EXAMPLES,
        cost=cost_per_element("target", FORWARD_COST),
        advice="Compute the loss with reduction='none' in float32 and add it on another device; compare.",
    ),
    *checks_of(
        "losses",
        {
            "nll_loss_backward": (_backward, ("nll_loss_backward", "nll_loss_backward.grad_input")),
            "nll_loss2d_backward": (_backward, ("nll_loss2d_backward", "nll_loss2d_backward.grad_input")),
        },
        EXAMPLES,
        cost=cost_per_element("self", BACKWARD_COST),
        advice="Check that no target leaves [0, classes) and repeat the backward step in float32.",
    ),
)
