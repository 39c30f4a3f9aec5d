"""Pooling: maxima with their indices, averages, both over sliding and adaptive windows, and their gradients."""

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, checks_of
from numguard.checks.exact_results import exact_values
from numguard.checks.pooling_examples import EXAMPLES
from numguard.checks.pools import divisors, is_adaptive, longest_window, spatial_count, windows_over, windows_under
from numguard.checks.reduced_rows import require_numbers
from numguard.checks.row_samples import sampled_rows
from numguard.checks.two_bounds import bounded_twice
from numguard.checks.windows import gathered
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.numerics.error_bounds.scatter_bounds import slot_bound
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, Model, NotCovered

TERM_COST: Final = 4.0  # the gathered element, its value and its mass


def _floats(*tensors: Tensor) -> None:
    require_numbers(*tensors)
    if not tensors[0].dtype.is_floating_point:
        raise NotCovered("pools of integers")


def _spatial(tensor: Tensor, count: int) -> tuple[int, ...]:
    return tuple(tensor.shape[-count:])


# maxima ---------------------------------------------------------------------------------------------------------


def _maximum(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    """The maximum is one of the elements of its window, and its index names one that equals it."""
    source, (result, indices) = call["self"].detach(), call.output
    _floats(source)
    if not result.numel():
        return ()
    count = spatial_count(call)
    outputs, sizes = _spatial(result, count), _spatial(source, count)
    picked = sampled_rows(tuple(result.shape), TERM_COST * longest_window(call, outputs, sizes), probe)
    axes = windows_over(call, picked[-count:], outputs, sizes, source.device)
    lead = source[picked[:-count]]
    windows = gathered(lead, axes, -torch.inf).flatten(-count).to(torch.float64)
    exact = probe.arithmetic.maximum(windows, (-1,), False)
    places = torch.arange(prod(sizes), device=source.device).reshape(sizes)
    positions = gathered(places, axes, -1).flatten(-count)  # [*o, K]
    chosen = indices[picked]
    inside = (positions == chosen.unsqueeze(-1)).any(-1)
    found = lead.flatten(-count).gather(-1, chosen.flatten(-count).clamp(0, prod(sizes) - 1))
    found = torch.where(inside, found.reshape(chosen.shape).to(torch.float64), torch.nan)
    # Where the maximum is NaN, an index outside of the window must not pass for one of a NaN.
    found = torch.where(exact.isnan() & ~inside, 0.0, found)
    return tuple(
        exact_values(name, computed, exact)
        for name, computed in (("result", result.detach()[picked]), ("indices", found))
    )


def _scattered(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    """Compare whole planes of a gradient that goes to the places of the maxima."""
    result, incoming, indices = call.output.detach(), call["grad_output"].detach(), call["indices"]
    _floats(incoming)
    if not result.numel() or not incoming.numel():
        return ()
    count = spatial_count(call)
    sizes, slots = _spatial(incoming, count), prod(_spatial(result, count))
    lead = tuple(result.shape[:-count])
    picked = sampled_rows(lead, TERM_COST * (prod(sizes) + slots), probe)
    values = incoming[picked].flatten(-count).reshape(-1, prod(sizes)).to(torch.float64)
    where = indices[picked].flatten(-count).reshape(values.shape)
    offsets = torch.arange(values.shape[0], device=values.device).unsqueeze(1) * slots
    table = torch.stack((values, values.abs(), torch.ones_like(values)), dim=-1).reshape(-1, 3)
    totals = probe.arithmetic.slot_totals(values.shape[0] * slots, (where + offsets).reshape(-1), table)
    exact, mass, hits = totals.unbind(-1)

    def bound(dtype: torch.dtype) -> Tensor:
        limits = torch.finfo(dtype)
        return slot_bound(mass, hits, UNIT_ROUNDOFF[dtype], limits.smallest_normal, limits.max, scaled=False)

    own = SHADOW_ROUNDOFF * (hits + 4.0) * mass
    model: Model = "proved" if result.device.type == "cpu" else "assumed"
    return (bounded_twice("grad_input", result[picked].reshape(-1), exact, bound, own, model=model),)


# averages -------------------------------------------------------------------------------------------------------


def _averaged(
    output: str, computed: Tensor, windows: Tensor, divisor: Tensor | float, probe: Probe, per_term: float
) -> Comparison:
    """Compare sums over the last dimension of ``windows``, divided by ``divisor``.

    Parameters
    ----------
    per_term
        Roundings of each term before it is added: the quotients of a gradient are.
    """
    terms = windows.shape[-1]
    total, mass = probe.arithmetic.total(torch.stack((windows, windows.abs())), (-1,), False)
    exact, mass = total / divisor, mass / abs(divisor)

    def bound(dtype: torch.dtype) -> Tensor:
        unit, limits = UNIT_ROUNDOFF[dtype], torch.finfo(dtype)
        error = (terms + 3.0 + per_term) * (unit * mass + limits.smallest_normal)
        return torch.where(mass * abs(divisor) < 0.99 * limits.max, error, torch.inf)

    own = SHADOW_ROUNDOFF * (probe.arithmetic.height(terms) + 4.0) * mass
    return bounded_twice(output, computed, exact, bound, own)


def _average(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    source, result = call["self"].detach(), call.output.detach()
    _floats(source)
    if not result.numel():
        return ()
    count = spatial_count(call)
    outputs, sizes = _spatial(result, count), _spatial(source, count)
    picked = sampled_rows(tuple(result.shape), TERM_COST * longest_window(call, outputs, sizes), probe)
    axes = windows_over(call, picked[-count:], outputs, sizes, source.device)
    windows = gathered(source[picked[:-count]].to(torch.float64), axes).flatten(-count)
    divisor = divisors(call, picked[-count:], outputs, sizes, source.device)
    return (_averaged("result", result[picked], windows, divisor, probe, 0.0),)


def _average_gradient(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    result, incoming = call.output.detach(), call["grad_output"].detach()
    _floats(incoming)
    if not result.numel() or not incoming.numel():
        return ()
    count = spatial_count(call)
    outputs, sizes = _spatial(incoming, count), _spatial(result, count)
    terms = longest_window(call, sizes, outputs) * (2**count if is_adaptive(call) else 1)
    picked = sampled_rows(tuple(result.shape), TERM_COST * terms, probe)
    axes = windows_under(call, picked[-count:], sizes, outputs, result.device)
    divisor = divisors(call, (slice(None),) * count, outputs, sizes, result.device)
    shares = incoming[picked[:-count]].to(torch.float64) / divisor
    windows = gathered(shares, axes).flatten(-count)
    return (_averaged("grad_input", result[picked], windows, 1.0, probe, 1.0),)


def _forward_cost(call: OpCall) -> float:
    count = spatial_count(call)
    result = call.output[0] if isinstance(call.output, tuple) else call.output
    if not isinstance(result, Tensor):
        return TERM_COST * float(call["self"].numel())
    return TERM_COST * result.numel() * longest_window(call, _spatial(result, count), _spatial(call["self"], count))


def _backward_cost(call: OpCall) -> float:
    return TERM_COST * float(call["grad_output"].numel() + call["self"].numel())


_ADVICE: Final = "Pool in float32 and in the contiguous layout; if that differs as well, drain the device."

CHECKS: tuple[Check, ...] = (
    *checks_of(
        "pooling",
        {
            "max_pool": (
                _maximum,
                ("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool3d"),
            ),
        },
        EXAMPLES,
        cost=_forward_cost,
        advice="A maximum is one of its elements and must be exact: make the input contiguous, then drain the device.",
    ),
    *checks_of(
        "pooling",
        {
            "max_pool_backward": (
                _scattered,
                (
                    *("max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward"),
                    *("adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward"),
                    *("fractional_max_pool2d_backward", "fractional_max_pool3d_backward"),
                ),
            ),
        },
        EXAMPLES,
        cost=_backward_cost,
        advice=_ADVICE,
    ),
    *checks_of(
        "pooling",
        {"average_pool": (_average, ("avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"))},
        EXAMPLES,
        cost=_forward_cost,
        advice=_ADVICE,
    ),
    *checks_of(
        "pooling",
        {
            "average_pool_backward": (
                _average_gradient,
                (
                    *("avg_pool2d_backward", "avg_pool3d_backward"),
                    *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"),
                ),
            ),
        },
        EXAMPLES,
        cost=_backward_cost,
        advice=_ADVICE,
    ),
)
