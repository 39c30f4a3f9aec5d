"""Batch and instance normalisation, in training and in evaluation, forward and backward.

Instance normalisation reaches the dispatcher as batch normalisation of one sample with N C channels. The backward
checks take the saved statistics as they were given.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from numguard.checks import same_formula
from numguard.checks.batch_norm_examples import BACKWARD, FORWARD
from numguard.checks.channels import Groups, by_channel, gradient_sums, groups_of
from numguard.checks.check import Check, Probe, cost_per_element
from numguard.checks.reduced_rows import require_numbers
from numguard.checks.row_moments import RowMoments, moments_of
from numguard.numerics.error_bounds.channel_norm_bounds import (
    Given,
    GradientSums,
    gathered_gradient_bound,
    normalised_gradient_bounds,
    running_bound,
    scaled_bound,
    stored_moments_bounds,
    stored_statistics_bound,
    stored_sums_bound,
)
from numguard.numerics.error_bounds.exponential_bounds import accumulator_of, bounded_while, storage_of
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.numerics.error_bounds.moment_bounds import mean_bound, reciprocal_root_bound, variance_bound
from numguard.numerics.error_bounds.normalisation_bounds import any_order_height
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

FORWARD_COST: Final = 16.0
BACKWARD_COST: Final = 32.0


class Statistics(NamedTuple):
    """Mean, ``1 / sqrt(V + eps)`` and what they may err: absolute, and relative."""

    mean: Tensor
    rstd: Tensor
    mean_error: Tensor
    rstd_error: Tensor
    variance: Tensor
    variance_error: Tensor


def compare(
    output: str,
    computed: Tensor,
    exact: Tensor,
    strict: Tensor,
    accumulator: torch.dtype,
    *,
    permissive: Tensor | None = None,
    **options: Any,
) -> Comparison:
    """Compare as :func:`same_formula.compare` does; where the strict bound says nothing, the shadow obeys the other."""
    own = strict if permissive is None else torch.where(torch.isfinite(strict), strict, permissive)
    return same_formula.compare(output, computed, exact, strict, accumulator, permissive=permissive, own=own, **options)


def statistics_of(row: RowMoments, eps: float, height: int, accumulator: torch.dtype) -> Statistics:
    """Return mean and rstd of channels with the bounds of a correct implementation in ``accumulator``."""
    mean_error = mean_bound(row.mean, row.mean_magnitude, row.num_terms, height, accumulator)
    variance = row.variance
    error = variance_bound(variance, row.mean, mean_error, height, accumulator)
    error = bounded_while(4.0 * row.num_terms * (variance + row.mean * row.mean), accumulator, error)
    relative = reciprocal_root_bound(error, variance + eps, accumulator)
    shifted = variance + eps
    # Of equal elements with eps = 0 torch defines 1 / sqrt(0) as 0; what rounding makes of them nobody can say.
    rstd = torch.where(shifted == 0, 0.0, shifted.rsqrt())
    return Statistics(row.mean, rstd, mean_error, relative, variance, error)


def stored(given: Statistics, eps: float, storage: torch.dtype | None, accumulator: torch.dtype) -> Statistics:
    """Return the statistics with the errors of a kernel that keeps them in 16 bits, where it does."""
    if storage is None:
        return given
    parts = (given.mean, given.mean_error, given.variance, given.variance_error)
    mean_error, variance_error = stored_moments_bounds(*parts, storage)
    relative = reciprocal_root_bound(variance_error, given.variance + eps, accumulator)
    relative = relative + 3.0 * UNIT_ROUNDOFF[storage]
    return given._replace(mean_error=mean_error, variance_error=variance_error, rstd_error=relative)


def _argument(call: OpCall, *names: str) -> Any:
    """Return the first of these arguments that the operator has."""
    return next((call[name] for name in names if name in call.arguments), None)


def _is_training(call: OpCall) -> bool:
    if call.op.startswith("aten::_batch_norm_with_update"):
        return True
    return bool(_argument(call, "training", "train"))


def _per_channel(parameter: Tensor | None, groups: Groups, fallback: float) -> Tensor | float:
    """Return weight or bias of the picked channels in float64, ready to broadcast."""
    if parameter is None:
        return fallback
    return groups.statistic(parameter.detach()[groups.picked].to(torch.float64))


# forward --------------------------------------------------------------------------------------------------------


def _capture(call: OpCall, probe: Probe) -> tuple[Tensor, Tensor] | None:
    """Copy the running statistics, which training overwrites."""
    mean, variance = call.arguments.get("running_mean"), call.arguments.get("running_var")
    if mean is None or variance is None or not _is_training(call):
        return None
    return mean.detach().clone(), variance.detach().clone()


def _evaluated(call: OpCall, groups: Groups, eps: float, accumulator: torch.dtype) -> Statistics:
    """Return the running statistics: they are given, and only the root errs."""
    mean, variance = call["running_mean"], call["running_var"]
    if mean is None or variance is None:
        raise NotCovered("batch normalisation in evaluation without running statistics")
    mean, variance = (part.detach()[groups.picked].to(torch.float64) for part in (mean, variance))
    zero = torch.zeros_like(mean)
    return Statistics(mean, (variance + eps).rsqrt(), zero, zero + 8.0 * UNIT_ROUNDOFF[accumulator], variance, zero)


def _forward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    source = call["input"]
    if not source.numel():
        return ()
    grouped = by_channel(source)
    groups = groups_of(grouped, 1, FORWARD_COST, probe)
    eps, accumulator = _argument(call, "eps", "epsilon"), accumulator_of(source.dtype)
    storage = _statistics_storage(call)
    if not _is_training(call):
        given = _evaluated(call, groups, eps, accumulator)
        return (_output(call, groups, given, given, storage, 1.0),)
    row = moments_of(groups.rows(grouped), 1, probe.arithmetic)
    height = any_order_height(groups.num_terms)
    taller = max(1.0, (row.height + 4.0) / height)
    given = statistics_of(row, eps, height, accumulator)
    kept = stored(given, eps, storage, accumulator)
    return (
        *_saved(call, groups, given, kept, taller),
        *_running(call, captured, groups, given, kept),
        _output(call, groups, given, kept, storage, taller),
    )


def _output(
    call: OpCall, groups: Groups, given: Statistics, kept: Statistics, storage: torch.dtype | None, taller: float
) -> Comparison:
    """Compare the sampled elements; ``kept`` are the statistics as a 16-bit kernel keeps them."""
    accumulator, x = accumulator_of(call["input"].dtype), groups.sampled(by_channel(call["input"]))
    weight, bias = _per_channel(call["weight"], groups, 1.0), _per_channel(call["bias"], groups, 0.0)
    stands = Given(groups.statistic(given.mean), groups.statistic(given.rstd), weight)
    exact = (x - stands.mean) * stands.rstd * weight + bias

    def bound(errors: Statistics) -> Tensor:
        mean_error, rstd_error = groups.statistic(errors.mean_error), groups.statistic(errors.rstd_error)
        return scaled_bound(x, stands, mean_error, rstd_error, bias, accumulator)

    permissive = None
    if storage is not None:
        permissive = bound(kept) + stored_statistics_bound(x, stands, bias, storage)
    computed = groups.as_stored(by_channel(call.output[0]))
    return compare("output", computed, exact, bound(given), accumulator, permissive=permissive, taller=taller)


def _statistics_storage(call: OpCall) -> torch.dtype | None:
    """Return the 16-bit format that mean, rstd, alpha and beta may be kept in: the parameters', or the input's."""
    given = [call.arguments.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
    dtypes = {part.dtype for part in given if isinstance(part, Tensor)} or {call["input"].dtype}
    narrow = [storage_of(dtype) for dtype in dtypes]
    return next((dtype for dtype in narrow if dtype is not None), None)


def _saved(call: OpCall, groups: Groups, given: Statistics, kept: Statistics, taller: float) -> list[Comparison]:
    """Compare the statistics that the operator saves for its backward."""
    accumulator = accumulator_of(call["input"].dtype)
    comparisons = []
    for name, saved, exact, error, wide in (
        ("save_mean", call.output[1], given.mean, given.mean_error, kept.mean_error),
        ("save_invstd", call.output[2], given.rstd, given.rstd * given.rstd_error, given.rstd * kept.rstd_error),
    ):
        if saved.numel() != call["input"].shape[1]:
            continue
        comparisons.append(
            compare(
                name,
                saved.detach()[groups.picked],
                exact,
                error,
                accumulator,
                permissive=None if wide is error or kept is given else wide,
                taller=taller,
                propagates_nonfinite=name == "save_mean",
            )
        )
    return comparisons


def _running(call: OpCall, captured: Any, groups: Groups, given: Statistics, kept: Statistics) -> list[Comparison]:
    """Compare the running statistics after the step with the old ones and those of the batch."""
    if captured is None:
        return []
    accumulator, n = accumulator_of(call["input"].dtype), groups.num_terms
    momentum = float(_argument(call, "momentum", "exponential_average_factor"))
    scale = n / (n - 1.0) if n > 1 else float("inf")
    comparisons = []
    for name, old, new, error, wide in (
        ("running_mean", captured[0], given.mean, given.mean_error, kept.mean_error),
        ("running_var", captured[1], given.variance * scale, given.variance_error * scale, kept.variance_error * scale),
    ):
        before = old[groups.picked].to(torch.float64)
        exact = momentum * new + (1.0 - momentum) * before
        strict = running_bound(before, new, error, momentum, accumulator)
        permissive = running_bound(before, new, wide, momentum, storage_of(old.dtype) or accumulator)
        computed = call[name].detach()[groups.picked]
        comparisons.append(
            compare(
                name,
                computed,
                exact,
                strict,
                accumulator,
                permissive=None if kept is given else permissive,
                propagates_nonfinite=False,
            )
        )
    return comparisons


# backward -------------------------------------------------------------------------------------------------------


def _given(call: OpCall, groups: Groups) -> tuple[Given, bool]:
    """Return mean and rstd as the operator was given them, and whether gradients flow through them."""
    saved_mean, saved = _argument(call, "save_mean"), _argument(call, "save_invstd", "save_var")
    training = bool(_argument(call, "train", "update"))
    if call.op == "aten::cudnn_batch_norm_backward":
        training = True
    if training:
        if saved_mean is None or saved is None or not saved_mean.numel():
            raise NotCovered("batch normalisation without saved statistics")
        mean, rstd = (part.detach()[groups.picked].to(torch.float64) for part in (saved_mean, saved))
    else:
        mean, variance = (
            call[name].detach()[groups.picked].to(torch.float64) for name in ("running_mean", "running_var")
        )
        rstd = (variance + _argument(call, "eps", "epsilon")).rsqrt()
    return Given(groups.statistic(mean), groups.statistic(rstd), _per_channel(call["weight"], groups, 1.0)), training


def _sums_storage(call: OpCall) -> torch.dtype | None:
    """Return the 16-bit format in which channel sums may be kept: only where channels are not planes of memory."""
    planes = call["input"].is_contiguous() and _argument(call, "grad_out", "grad_output").is_contiguous()
    return None if planes and call["input"].device.type == "cpu" else storage_of(call["input"].dtype)


def _backward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    source, incoming = call["input"], _argument(call, "grad_out", "grad_output")
    require_numbers(incoming)
    if not source.numel():
        return ()
    grouped, gradients = by_channel(source), by_channel(incoming)
    groups = groups_of(grouped, 1, BACKWARD_COST, probe)
    given, training = _given(call, groups)
    accumulator = accumulator_of(source.dtype)
    sums = gradient_sums(groups.rows(gradients), groups.rows(grouped), given, 1, None, probe.arithmetic)
    comparisons = []
    if call.output[0] is not None:
        comparisons.append(_input_gradient(call, groups, given, sums, training, accumulator, probe))
    mean, rstd = (part.reshape(-1) for part in given[:2])
    unit = UNIT_ROUNDOFF[accumulator]
    # In evaluation the root is formed again by the operator: four roundings more.
    spread = (4.0 if training else 9.0) * unit * rstd * (sums.tx_mass + mean.abs() * sums.t_mass)
    storage = _sums_storage(call)
    taller = max(1.0, (probe.arithmetic.height(groups.num_terms) + 6.0) / (groups.num_terms + 6.0))
    for name, result, exact, mass, slack in (
        ("grad_weight", call.output[1], sums.txhat, sums.txhat_mass, spread),
        ("grad_bias", call.output[2], sums.t, sums.t_mass, torch.zeros_like(spread)),
    ):
        if result is None or not result.numel():
            continue
        strict = gathered_gradient_bound(mass, slack, groups.num_terms, accumulator, None)
        wide = gathered_gradient_bound(mass, slack, groups.num_terms, accumulator, storage) if storage else None
        computed = result.detach()[groups.picked]
        comparisons.append(compare(name, computed, exact, strict, accumulator, permissive=wide, taller=taller))
    return comparisons


def _input_gradient(
    call: OpCall,
    groups: Groups,
    given: Given,
    sums: GradientSums,
    training: bool,
    accumulator: torch.dtype,
    probe: Probe,
) -> Comparison:
    x, t = (
        groups.sampled(by_channel(call["input"])),
        groups.sampled(by_channel(_argument(call, "grad_out", "grad_output"))),
    )
    computed = groups.as_stored(by_channel(call.output[0]))
    storage = _sums_storage(call)
    if not training:
        exact = t * (given.weight * given.rstd)
        tiny = torch.finfo(accumulator).smallest_normal
        strict = 12.0 * UNIT_ROUNDOFF[accumulator] * exact.abs() + tiny * (1.0 + t.abs() + given.rstd)
        narrow = storage_of(call["input"].dtype)
        wide = strict + 3.0 * UNIT_ROUNDOFF[narrow] * exact.abs() if narrow else None
        return compare("grad_input", computed, exact, strict, accumulator, permissive=wide)
    n = groups.num_terms
    spread = GradientSums(*(groups.statistic(part) for part in sums))
    exact = given.weight * given.rstd * (t - spread.t / n - (x - given.mean) * given.rstd * (spread.txhat / n))
    strict, _ = normalised_gradient_bounds(t, x, given, spread, n, accumulator)
    stored = stored_sums_bound(t, x, given, spread, n, storage)
    wide = strict + stored if isinstance(stored, Tensor) else None
    taller = max(1.0, (probe.arithmetic.height(n) + 6.0) / (n + 6.0))
    return compare("grad_input", computed, exact, strict, accumulator, permissive=wide, taller=taller)


CHECKS: tuple[Check, ...] = (
    Check(
        name="batch_norm",
        family="moments",
        ops=(
            "aten::native_batch_norm",
            "aten::_native_batch_norm_legit",
            "aten::_native_batch_norm_legit.no_stats",
            "aten::_native_batch_norm_legit_no_training",
            "aten::_batch_norm_with_update",
            "aten::_batch_norm_no_update",
            "aten::cudnn_batch_norm",
        ),
        judge=_forward,
        capture=_capture,
        captures_always=True,
        cost=cost_per_element("input", FORWARD_COST),
        advice="Normalise one channel in float32 on another device and compare its mean and rstd first.",
        silent=FORWARD.silent,
        fires=FORWARD.fires,
    ),
    Check(
        name="batch_norm_backward",
        family="moments",
        ops=("aten::native_batch_norm_backward", "aten::batch_norm_backward", "aten::cudnn_batch_norm_backward"),
        judge=_backward,
        cost=cost_per_element("input", BACKWARD_COST),
        advice="Repeat the backward pass in float32 and in the contiguous layout; compare dgamma and dbeta first.",
        silent=BACKWARD.silent,
        fires=BACKWARD.fires,
    ),
)
