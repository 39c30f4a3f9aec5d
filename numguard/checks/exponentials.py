"""Softmax, log-softmax, log-sum-exp and their backward.

That probabilities lie in [0, 1] and sum to one, and that gradients through a softmax sum to zero, follows from the
elementwise bounds on the same rows, so neither is compared again.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, cost_per_element
from numguard.checks.exponential_examples import (
    LOG_SOFTMAX,
    LOG_SOFTMAX_BACKWARD,
    LOGSUMEXP,
    SAFE_SOFTMAX,
    SOFTMAX,
    SOFTMAX_BACKWARD,
)
from numguard.checks.overwritten_operands import keep_overwritten
from numguard.checks.row_samples import last, sampled_rows
from numguard.checks.same_formula import compare
from numguard.numerics.error_bounds.exponential_bounds import (
    accumulator_of,
    log_softmax_backward_bound,
    log_softmax_bound,
    logsumexp_bound,
    normaliser_error,
    softmax_backward_bound,
    softmax_bound,
    storage_of,
)
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison

FORWARD_COST: Final = 8.0  # float64 exp beside a dozen elementwise operations, per element
BACKWARD_COST: Final = 6.0
_VANISHED: Final = 1e4  # exp(-d) is zero in float64 from d = 746, so p d is zero there whatever d is


class Row(NamedTuple):
    """What every exponential operator needs of its rows, float64: all but ``distance`` have one element a row."""

    maximum: Tensor
    distance: Tensor
    terms: Tensor
    normaliser: Tensor
    weighted_distance: Tensor


def normalise(x: Tensor, arithmetic: Arithmetic, *, keep_infinite: bool = False) -> Row:
    """Return m, d = m - x, exp(-d), Z and the sum of p d of the rows of ``x`` (float64, rows last).

    Parameters
    ----------
    keep_infinite
        Shift rows whose maximum is infinite by zero, as log-sum-exp does.
    """
    maximum = arithmetic.maximum(x, (-1,), True)
    if keep_infinite:
        maximum = torch.where(maximum.abs() == torch.inf, 0.0, maximum)
    distance = maximum - x
    terms = torch.exp(-distance)
    normaliser = arithmetic.total(terms, (-1,), True)
    weighted = arithmetic.total(terms * distance.clamp(max=_VANISHED), (-1,), True) / normaliser
    return Row(maximum, distance, terms, normaliser, weighted)


def _softmax(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    source = call["self"] if captured is None else captured
    if not source.numel():
        return ()
    safe = call.op == "aten::_safe_softmax"
    if safe and call["dtype"] is not None:
        source = source.to(call["dtype"])
    x, result = last(source.detach(), call["dim"]), last(call.output.detach(), call["dim"])
    rows = sampled_rows(x.shape[:-1], FORWARD_COST * x.shape[-1], probe)
    x, result = x[rows].double(), result[rows]
    accumulator, storage = accumulator_of(source.dtype), storage_of(result.dtype)
    row = normalise(x, probe.arithmetic)
    p = row.terms / row.normaliser
    error = normaliser_error(row.weighted_distance, x.shape[-1], accumulator)
    distance = row.distance.clamp(max=_VANISHED)
    if safe:
        p, error, distance = (torch.where(row.maximum == -torch.inf, 0.0, part) for part in (p, error, distance))
    strict = softmax_bound(p, distance, error, accumulator)
    permissive = softmax_bound(p, distance, error, accumulator, storage) if storage else None
    return (compare("result", result, p, strict, accumulator, permissive=permissive),)


def _log_softmax(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    source = call["self"] if captured is None else captured
    if not source.numel():
        return ()
    x, result = last(source.detach(), call["dim"]), last(call.output.detach(), call["dim"])
    rows = sampled_rows(x.shape[:-1], FORWARD_COST * x.shape[-1], probe)
    x, result = x[rows].double(), result[rows]
    accumulator, storage = accumulator_of(source.dtype), storage_of(result.dtype)
    row = normalise(x, probe.arithmetic)
    logarithm = row.normaliser.log()
    error = normaliser_error(row.weighted_distance, x.shape[-1], accumulator)
    strict = log_softmax_bound(row.distance, logarithm, error, accumulator)
    permissive = log_softmax_bound(row.distance, logarithm, error, accumulator, storage) if storage else None
    return (compare("result", result, -row.distance - logarithm, strict, accumulator, permissive=permissive),)


def _logsumexp(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    source, dims = call["self"].detach(), call["dim"]
    if not source.numel():
        return ()
    reduced = sorted({dim % max(1, source.dim()) for dim in dims}) if source.dim() else []
    kept = [dim for dim in range(source.dim()) if dim not in reduced]
    sizes = [source.shape[dim] for dim in reduced]
    x = source.permute([*kept, *reduced])
    result = call.output.detach().reshape(x.shape[: len(kept)])
    rows = sampled_rows(result.shape, FORWARD_COST * prod(sizes), probe)
    x = x[rows].double()
    x, result = x.reshape(*x.shape[: len(kept)], -1), result[rows]
    accumulator, storage = accumulator_of(source.dtype), storage_of(result.dtype)
    row = normalise(x, probe.arithmetic, keep_infinite=True)
    logarithm, weighted = row.normaliser.log()[..., 0], row.weighted_distance[..., 0]
    exact = row.maximum[..., 0] + logarithm
    # Reduced dimensions that do not merge may be summed one after the other, stored in between.
    stores = 1 + (prod(sizes) // min(sizes) if len(reduced) > 1 else 0)
    strict, permissive = (
        logsumexp_bound(exact, logarithm, weighted, x.shape[-1], accumulator, kind, stores) for kind in (None, storage)
    )
    return (compare("result", result, exact, strict, accumulator, permissive=permissive if storage else None),)


def _backward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    """Compare ``y (g - sum g y)`` or ``g - exp(y) sum g`` from the saved output y."""
    if not call["output"].numel():
        return ()
    logarithmic = call.op.startswith("aten::_log_softmax")
    tensors = (call["grad_output"], call["output"] if captured is None else captured, call.output)
    grad, saved, result = (last(tensor.detach(), call["dim"]) for tensor in tensors)
    rows = sampled_rows(grad.shape[:-1], BACKWARD_COST * grad.shape[-1], probe)
    g, y, result = grad[rows].double(), saved[rows].double(), result[rows]
    accumulator, storage = accumulator_of(grad.dtype, saved.dtype), storage_of(result.dtype)
    factor = y.exp() if logarithmic else y
    terms = g if logarithmic else g * y
    total, mass = probe.arithmetic.total(torch.stack((terms, terms.abs())), (-1,), True)
    exact = g - factor * total if logarithmic else y * (g - total)
    bound = log_softmax_backward_bound if logarithmic else softmax_backward_bound
    strict = bound(g, factor, total, mass, accumulator)
    permissive = bound(g, factor, total, mass, accumulator, storage) if storage else None
    return (compare("grad_input", result, exact, strict, accumulator, permissive=permissive),)


CHECKS: tuple[Check, ...] = (
    Check(
        name="softmax",
        family="exponentials",
        ops=("aten::_softmax", "aten::_softmax.out"),
        judge=_softmax,
        capture=keep_overwritten,
        cost=cost_per_element("self", FORWARD_COST),
        advice="Compute the softmax in float32, or on another device, and compare this row.",
        silent=SOFTMAX.silent,
        fires=SOFTMAX.fires,
    ),
    Check(
        name="safe_softmax",
        family="exponentials",
        ops=("aten::_safe_softmax",),
        judge=_softmax,
        cost=cost_per_element("self", FORWARD_COST),
        silent=SAFE_SOFTMAX.silent,
        fires=SAFE_SOFTMAX.fires,
        advice="Compute the softmax in float32, or on another device, and compare this row.",
    ),
    Check(
        name="log_softmax",
        family="exponentials",
        ops=("aten::_log_softmax", "aten::_log_softmax.out"),
        judge=_log_softmax,
        capture=keep_overwritten,
        cost=cost_per_element("self", FORWARD_COST),
        advice="Compute the logits' log-softmax in float32: log_softmax(x, dim, dtype=torch.float32).",
        silent=LOG_SOFTMAX.silent,
        fires=LOG_SOFTMAX.fires,
    ),
    Check(
        name="logsumexp",
        family="exponentials",
        ops=("aten::logsumexp", "aten::logsumexp.out"),
        judge=_logsumexp,
        cost=cost_per_element("self", FORWARD_COST),
        silent=LOGSUMEXP.silent,
        fires=LOGSUMEXP.fires,
        advice="Convert to float32 before logsumexp; in 16 bits it is composed of five rounded operations.",
    ),
    Check(
        name="softmax_backward",
        family="exponentials",
        ops=("aten::_softmax_backward_data",),
        judge=_backward,
        cost=cost_per_element("output", BACKWARD_COST),
        advice="Repeat the backward step of this softmax in float32 and compare.",
        silent=SOFTMAX_BACKWARD.silent,
        fires=SOFTMAX_BACKWARD.fires,
    ),
    Check(
        name="log_softmax_backward",
        family="exponentials",
        ops=("aten::_log_softmax_backward_data",),
        judge=_backward,
        cost=cost_per_element("output", BACKWARD_COST),
        advice="Repeat the backward step of this log-softmax in float32 and compare.",
        silent=LOG_SOFTMAX_BACKWARD.silent,
        fires=LOG_SOFTMAX_BACKWARD.fires,
    ),
)
