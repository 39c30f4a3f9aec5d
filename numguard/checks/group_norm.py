"""Group normalisation, forward and backward, in the contiguous and the channels_last layout."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.batch_norm import Statistics, compare, statistics_of
from numguard.checks.channels import Groups, by_channel, by_group, gradient_sums, groups_of
from numguard.checks.check import Check, Probe, cost_per_element
from numguard.checks.group_norm_examples import BACKWARD, FORWARD
from numguard.checks.reduced_rows import require_numbers
from numguard.checks.row_moments import RowMoments, moments_of
from numguard.numerics.error_bounds.channel_norm_bounds import (
    Given,
    GradientSums,
    gathered_gradient_bound,
    normalised_gradient_bounds,
    scaled_bound,
)
from numguard.numerics.error_bounds.exponential_bounds import accumulator_of, bounded_while
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.numerics.error_bounds.moment_bounds import mean_bound, one_pass_variance_bound, reciprocal_root_bound
from numguard.numerics.error_bounds.normalisation_bounds import any_order_height, chunked_height
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison

FORWARD_COST: Final = 16.0
BACKWARD_COST: Final = 32.0
COLUMN_COST: Final = 10.0


def _is_channels_last(tensor: Tensor) -> bool:
    """Return whether a CPU kernel takes its path for channels_last: two passes over the pixels, sums of squares."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if tensor.dim() not in formats or tensor.is_contiguous():
        return False
    return tensor.is_contiguous(memory_format=formats[tensor.dim()])


def _affine(parameter: Tensor | None, call: OpCall, groups: Groups, dims: int, fallback: float) -> Tensor | float:
    """Return weight or bias of the judged elements, ready to broadcast against ``[N, G, C / G, *spatial]``."""
    if parameter is None:
        return fallback
    table = parameter.detach().to(torch.float64).reshape(1, call["group"], -1, *(1,) * (dims - 3))
    return table[:, groups.picked[1]][:, :, groups.elements[0]]


def _one_pass(row: RowMoments, eps: float, given: Statistics, accumulator: torch.dtype) -> Statistics:
    """Return the statistics with the errors of mean(x^2) - mean(x)^2 where these are the larger ones."""
    n = row.num_terms
    mean_error = mean_bound(row.mean, row.mean_magnitude, n, any_order_height(n), accumulator)
    error = one_pass_variance_bound(row.variance, row.mean, n, accumulator).maximum(given.variance_error)
    error = bounded_while(4.0 * n * (row.variance + row.mean * row.mean), accumulator, error)
    relative = reciprocal_root_bound(error, row.variance + eps, accumulator)
    return given._replace(mean_error=mean_error, rstd_error=relative, variance_error=error)


def _forward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    source = call["input"]
    if not source.numel():
        return ()
    grouped, eps, accumulator = by_group(source, call["group"]), call["eps"], accumulator_of(source.dtype)
    groups = groups_of(grouped, 2, FORWARD_COST, probe)
    n = groups.num_terms
    row = moments_of(groups.rows(grouped), 2, probe.arithmetic)
    on_cpu = source.device.type == "cpu"
    height = (chunked_height if on_cpu else any_order_height)(n)
    if accumulator is torch.float64:
        height = max(height, row.height)
    taller = max(1.0, (row.height + 4.0) / height)
    strict = statistics_of(row, eps, height, accumulator)
    permissive = _one_pass(row, eps, strict, accumulator) if on_cpu and _is_channels_last(source) else None
    x = groups.sampled(grouped)
    dims = grouped.dim()
    weight = _affine(call["weight"], call, groups, dims, 1.0)
    bias = _affine(call["bias"], call, groups, dims, 0.0)
    stands = Given(groups.statistic(row.mean), groups.statistic(strict.rstd), weight)
    exact = (x - stands.mean) * stands.rstd * weight + bias

    def outcome(errors: Statistics | None) -> tuple[Tensor, Tensor, Tensor] | None:
        if errors is None:
            return None
        mean_error, rstd_error = groups.statistic(errors.mean_error), groups.statistic(errors.rstd_error)
        bound = scaled_bound(x, stands, mean_error, rstd_error, bias, accumulator)
        return bound, errors.mean_error, errors.rstd * errors.rstd_error

    bounds, wider = outcome(strict), outcome(permissive)
    assert bounds is not None
    shape = (source.shape[0], call["group"])
    mean, rstd = (part.detach().reshape(shape)[groups.picked] for part in call.output[1:])
    results = (groups.as_stored(by_group(call.output[0], call["group"])), mean, rstd)
    values = (exact, row.mean, strict.rstd)
    return tuple(
        compare(
            name,
            results[part],
            values[part],
            bounds[part],
            accumulator,
            permissive=None if wider is None else wider[part],
            taller=taller,
            propagates_nonfinite=name != "rstd",
        )
        for part, name in enumerate(("output", "mean", "rstd"))
    )


# backward -------------------------------------------------------------------------------------------------------


def _input_gradient(call: OpCall, probe: Probe) -> Comparison:
    num_groups, accumulator = call["group"], accumulator_of(call["input"].dtype)
    grouped, incoming = by_group(call["input"], num_groups), by_group(call["grad_out"], num_groups)
    groups = groups_of(grouped, 2, BACKWARD_COST, probe)
    shape = (call["input"].shape[0], num_groups)
    mean, rstd = (
        groups.statistic(call[name].detach().reshape(shape)[groups.picked].to(torch.float64))
        for name in ("mean", "rstd")
    )
    given = Given(mean, rstd)
    whole = groups._replace(elements=(slice(None),) * len(groups.elements))
    weight = None if call["weight"] is None else _affine(call["weight"], call, whole, grouped.dim(), 1.0)
    inner = weight if isinstance(weight, Tensor) else None
    sums = gradient_sums(groups.rows(incoming), groups.rows(grouped), given, 2, inner, probe.arithmetic)
    n, sums = groups.num_terms, GradientSums(*(groups.statistic(part) for part in sums))
    x, t = groups.sampled(grouped), groups.sampled(incoming)
    if inner is not None:
        t = t * inner[:, :, groups.elements[0]]
    exact = rstd * (t - sums.t / n - (x - mean) * rstd * (sums.txhat / n))
    strict, raw = normalised_gradient_bounds(t, x, given, sums, n, accumulator)
    computed = groups.as_stored(by_group(call.output[0], num_groups))
    taller = max(1.0, (probe.arithmetic.height(n) + 6.0) / (n + 6.0))
    return compare("grad_input", computed, exact, strict, accumulator, permissive=raw, taller=taller)


def _parameter_gradients(call: OpCall, probe: Probe) -> list[Comparison]:
    """Compare dgamma and dbeta of sampled channels.

    The operator forms ``sum_n (sum dy x - mean sum dy) rstd``, which cancels where the mean is large: permissive.
    """
    source, num_groups, accumulator = call["input"], call["group"], accumulator_of(call["input"].dtype)
    grouped, incoming = by_channel(source), by_channel(call["grad_out"])
    groups = groups_of(grouped, 1, COLUMN_COST, probe)
    channels = torch.arange(source.shape[1], device=source.device)[groups.picked] // (source.shape[1] // num_groups)
    shape = (channels.numel(), source.shape[0], *(1,) * (source.dim() - 2))
    mean, rstd = (
        call[name].detach().reshape(source.shape[0], num_groups).to(torch.float64)[:, channels].t().reshape(shape)
        for name in ("mean", "rstd")
    )
    sums = _by_sample(groups.rows(incoming), groups.rows(grouped), Given(mean, rstd), probe)
    n = groups.num_terms
    unit, pixels = UNIT_ROUNDOFF[accumulator], source[0, 0].numel()
    masses = rstd.abs().reshape(shape[:2]) * (
        sums.tx_mass + mean.abs().reshape(shape[:2]) * sums.t_mass
    )  # of dy x and mean dy, scaled
    total = probe.arithmetic.total
    exact, raw_mass, mass, plain, plain_mass = total(
        torch.stack((sums.txhat, masses, sums.txhat_mass, sums.t, sums.t_mass)), (2,), False
    )
    spread = 4.0 * unit * raw_mass
    comparisons = []
    taller = max(1.0, (probe.arithmetic.height(pixels) + source.shape[0] + 8.0) / (n + 6.0))
    for name, result, value, own, slack, raw in (
        ("grad_weight", call.output[1], exact, mass, spread, raw_mass),
        ("grad_bias", call.output[2], plain, plain_mass, torch.zeros_like(spread), None),
    ):
        if result is None or not result.numel():
            continue
        strict = gathered_gradient_bound(own, slack, n, accumulator, None)
        wide = None if raw is None else strict + (n + 8.0) * unit * raw
        computed = result.detach()[groups.picked]
        if wide is not None:
            wide = bounded_while(4.0 * raw_mass * (1.0 + raw_mass), accumulator, wide)
        comparisons.append(compare(name, computed, value, strict, accumulator, permissive=wide, taller=taller))
    return comparisons


def _by_sample(dy: Tensor, x: Tensor, given: Given, probe: Probe) -> GradientSums:
    """Return the sums over the pixels of each channel and sample, ``[C, N]``."""
    if dy.dim() == 2:
        dy, x = dy.unsqueeze(-1), x.unsqueeze(-1)
        given = Given(given.mean.unsqueeze(-1), given.rstd.unsqueeze(-1))
    return gradient_sums(dy, x, given, 2, None, probe.arithmetic)


def _backward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    require_numbers(call["grad_out"])
    if not call["input"].numel():
        return ()
    comparisons = [_input_gradient(call, probe)] if call.output[0] is not None else []
    if any(result is not None for result in call.output[1:]):
        comparisons += _parameter_gradients(call, probe)
    return comparisons


CHECKS: tuple[Check, ...] = (
    Check(
        name="group_norm",
        family="moments",
        ops=("aten::native_group_norm",),
        judge=_forward,
        cost=cost_per_element("input", FORWARD_COST),
        advice="Make the input contiguous: if that mends it, the layout's kernel is at fault; else compare rstd.",
        silent=FORWARD.silent,
        fires=FORWARD.fires,
    ),
    Check(
        name="group_norm_backward",
        family="moments",
        ops=("aten::native_group_norm_backward",),
        judge=_backward,
        cost=cost_per_element("input", BACKWARD_COST + COLUMN_COST),
        advice="Repeat the backward pass in float32 with contiguous tensors and compare dgamma and dbeta first.",
        silent=BACKWARD.silent,
        fires=BACKWARD.fires,
    ),
)
