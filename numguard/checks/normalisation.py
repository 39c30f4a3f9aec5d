"""Layer normalisation and fused root-mean-square normalisation, forward and backward.

The backward checks take the saved statistics as they were given, so that errors of the forward pass do not count
twice. Composed RMSNorm (power, mean, reciprocal root, product) is judged operator by operator.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, cost_per_element
from numguard.checks.judged_normalisation import judged_input_gradient, judged_layer_norm, judged_parameter_gradients
from numguard.checks.normalisation_examples import FUSED_RMS_NORM, LAYER_NORM, LAYER_NORM_BACKWARD
from numguard.checks.normalisation_replay import replay
from numguard.checks.normalised_rows import (
    Columns,
    Layout,
    columns_of,
    flat_parameter,
    layout_of,
    wide_parameter,
)
from numguard.checks.row_samples import sampled_rows
from numguard.checks.same_formula import compare
from numguard.numerics.error_bounds.exponential_bounds import accumulator_of, storage_of
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.numerics.error_bounds.normalisation_bounds import (
    BackwardSums,
    Statistics,
    any_order_height,
    chunked_height,
    input_gradient_bounds,
    normalised_bound,
    parameter_gradient_bound,
    rms_input_gradient_bound,
    root_mean_square_bound,
    statistics_bounds,
)
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Compared

FORWARD_COST: Final = 8.0
BACKWARD_COST: Final = 20.0
COLUMN_COST: Final = 8.0

# forward --------------------------------------------------------------------------------------------------------


def statistics(x: Tensor, eps: float, arithmetic: Arithmetic) -> Statistics:
    """Return mean, variance, ``1 / sqrt(V + eps)`` and mean magnitude of the rows of ``x`` (float64, rows last)."""
    count = x.shape[-1]
    mean, magnitude = arithmetic.total(torch.stack((x, x.abs())), (-1,), True) / count
    centred = x - mean
    variance = arithmetic.total(centred * centred, (-1,), True) / count
    return Statistics(mean, variance, (variance + eps).rsqrt(), magnitude)


def _layer_norm(call: OpCall, captured: Any, probe: Probe) -> Sequence[Compared]:
    source, layout = call["input"], layout_of(call)
    if not source.numel():
        return ()
    count, accumulator = layout.length, accumulator_of(source.dtype)
    rows = sampled_rows(layout.leading, FORWARD_COST * count, probe)
    picked = layout.flat(source, rows)
    y, mean, rstd = (layout.flat(part, rows) for part in call.output)
    weight, bias = flat_parameter(call["weight"]), flat_parameter(call["bias"])
    height = (chunked_height if source.device.type == "cpu" else any_order_height)(count)
    own = probe.arithmetic.height(count)
    if accumulator is torch.float64:
        height = max(height, own)
    taller = max(1.0, own / height)
    judged = judged_layer_norm((picked, y, mean, rstd), weight, bias, call["eps"], height, taller, probe.arithmetic)
    if judged is not None:
        return judged
    x = picked.double()
    weight, bias = wide_parameter(weight), wide_parameter(bias)
    row = statistics(x, call["eps"], probe.arithmetic)
    errors = statistics_bounds(row, call["eps"], count, height, accumulator)
    scaled = (x - row.mean) * row.rstd
    exact = scaled if weight is None else scaled * weight
    bound = normalised_bound(
        x, row, errors, 1.0 if weight is None else weight, 0.0 if bias is None else bias, accumulator
    )
    return (
        compare("output", y, exact if bias is None else exact + bias, bound, accumulator, taller=taller),
        compare("mean", mean, row.mean, errors.mean, accumulator, taller=taller),
        # A row with an infinite value may give a variance of inf, hence rstd = 0, or NaN.
        compare("rstd", rstd, row.rstd, row.rstd * errors.rstd, accumulator, propagates_nonfinite=False, taller=taller),
    )


def _rms_norm(call: OpCall, captured: Any, probe: Probe) -> Sequence[Compared]:
    source, layout = call["input"], layout_of(call)
    if not source.numel():
        return ()
    count, accumulator = layout.length, accumulator_of(source.dtype)
    eps = torch.finfo(accumulator).eps if call["eps"] is None else call["eps"]
    rows = sampled_rows(layout.leading, FORWARD_COST * count, probe)
    x, weight = layout.flat(source, rows).double(), wide_parameter(call["weight"])
    y, rstd = (layout.flat(part, rows) for part in call.output)
    mean_square = probe.arithmetic.total(x * x, (-1,), True) / count
    exact_rstd = (mean_square + eps).rsqrt()
    relative = root_mean_square_bound(mean_square, eps, count, accumulator)
    exact = x * exact_rstd if weight is None else x * exact_rstd * weight
    tiny, unit = torch.finfo(accumulator).smallest_normal, UNIT_ROUNDOFF[accumulator]
    underflow = tiny if weight is None else tiny * (1.0 + weight.abs())
    bound = exact.abs() * (relative + 2.0 * unit) + underflow
    return (
        compare("output", y, exact, bound, accumulator, assumed=True),
        compare("rstd", rstd, exact_rstd, exact_rstd * relative, accumulator, assumed=True),
    )


# backward -------------------------------------------------------------------------------------------------------


def _input_gradient(call: OpCall, layout: Layout, probe: Probe) -> Compared:
    count, accumulator = layout.length, accumulator_of(call["input"].dtype)
    rows = sampled_rows(layout.leading, BACKWARD_COST * count, probe)
    given = [layout.flat(call[name], rows) for name in ("grad_out", "input", "mean", "rstd")]
    dy, x, mean, rstd = given
    result, weight = layout.flat(call.output[0], rows), flat_parameter(call["weight"])
    judged = judged_input_gradient((dy, x, mean, rstd, result), weight, probe.arithmetic)
    if judged is not None:
        return judged
    dy, x, mean, rstd = (part.double() for part in given)
    weight = wide_parameter(weight)
    total = probe.arithmetic.total
    t = dy if weight is None else dy * weight
    xhat = (x - mean) * rstd
    tx, txhat = t * x, t * xhat
    parts = torch.stack((t, tx, txhat))
    sums = BackwardSums(*total(parts, (-1,), True), *total(parts.abs(), (-1,), True))
    exact = rstd * (t - sums.t / count - xhat * (sums.txhat / count))
    centred, raw = input_gradient_bounds(t, x, mean, rstd, sums, accumulator)
    return compare("grad_input", result, exact, centred, accumulator, permissive=raw)


def _parameter_gradients(call: OpCall, layout: Layout, columns: Columns, arithmetic: Arithmetic) -> Sequence[Compared]:
    """Compare dgamma and dbeta (dgamma alone for rms_norm) on sampled columns."""
    weight, bias = call.output[1], call.output[2] if len(call.output) == 3 else None
    picked = tuple(None if x is None else x.detach()[columns.picked].reshape(-1) for x in (weight, bias))
    judged = judged_parameter_gradients(columns, (picked[0], picked[1]), arithmetic)
    if judged is not None:
        return judged
    dy, x, rstd = columns.dy.double(), columns.x.double(), columns.rstd.double()
    mean = 0.0 if columns.mean is None else columns.mean.double()
    accumulator = accumulator_of(columns.dy.dtype)
    storage = storage_of(columns.dy.dtype) if columns.mean is not None else None
    magnitude = dy.abs()
    terms = dy * ((x - mean) * rstd)
    size = x.abs() if columns.mean is None else x.abs() + columns.mean.double().abs()
    parts = torch.stack((terms, dy, terms.abs(), magnitude, magnitude * rstd.abs() * size))
    weight_total, bias_total, weight_mass, bias_mass, spread = arithmetic.total(parts, (1,), False)
    comparisons = []
    for name, computed, exact, mass, slack in (
        ("grad_weight", picked[0], weight_total, weight_mass, 4.0 * UNIT_ROUNDOFF[accumulator] * spread),
        ("grad_bias", picked[1], bias_total, bias_mass, torch.zeros_like(spread)),
    ):
        if computed is None:
            continue
        strict = parameter_gradient_bound(mass, bias_mass, slack, layout.num_rows, accumulator)
        permissive = parameter_gradient_bound(mass, bias_mass, slack, layout.num_rows, storage) if storage else None
        assumed = columns.mean is None
        comparisons.append(compare(name, computed, exact, strict, accumulator, permissive=permissive, assumed=assumed))
    return comparisons


def _layer_norm_backward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Compared]:
    layout = layout_of(call)
    if not layout.length:
        return ()
    comparisons = []
    if call.output[0] is not None and layout.num_rows:
        comparisons.append(_input_gradient(call, layout, probe))
    if any(result is not None for result in call.output[1:]):

        def bounded(columns: Columns) -> Sequence[Compared]:
            return _parameter_gradients(call, layout, columns, probe.arithmetic)

        comparisons += bounded(columns_of(call, layout, probe, COLUMN_COST))
        comparisons += replay(call, layout, probe, bounded)
    return comparisons


def _rms_norm_backward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Compared]:
    layout = layout_of(call)
    if not layout.length:
        return ()
    comparisons: list[Compared] = []
    if call.output[0] is not None and layout.num_rows:
        count, accumulator = layout.length, accumulator_of(call["input"].dtype)
        rows = sampled_rows(layout.leading, BACKWARD_COST * count, probe)
        dy, x, rstd = (layout.flat(call[name], rows).double() for name in ("grad_out", "input", "rstd"))
        weight, total = wide_parameter(call["weight"]), probe.arithmetic.total
        t, xhat = dy if weight is None else dy * weight, x * rstd
        second, mass = total(torch.stack((t * xhat, (t * xhat).abs())), (-1,), True) / count
        exact = rstd * (t - xhat * second)
        bound = rms_input_gradient_bound(t, xhat, rstd, second, mass, accumulator)
        result = layout.flat(call.output[0], rows)
        comparisons.append(compare("grad_input", result, exact, bound, accumulator, assumed=True))
    if call.output[1] is not None:
        columns = columns_of(call, layout, probe, COLUMN_COST)
        comparisons += _parameter_gradients(call, layout, columns, probe.arithmetic)
    return comparisons


CHECKS: tuple[Check, ...] = (
    Check(
        name="layer_norm",
        family="moments",
        ops=("aten::native_layer_norm",),
        judge=_layer_norm,
        cost=cost_per_element("input", FORWARD_COST),
        advice="Normalise these rows in float32 on another device and compare mean and rstd first.",
        silent=LAYER_NORM.silent,
        fires=LAYER_NORM.fires,
    ),
    Check(
        name="layer_norm_backward",
        family="moments",
        ops=("aten::native_layer_norm_backward",),
        judge=_layer_norm_backward,
        cost=cost_per_element("input", BACKWARD_COST + COLUMN_COST),
        advice="Repeat the backward pass in float32; in 16 bits PyTorch adds dgamma and dbeta in the dtype of dy.",
        silent=LAYER_NORM_BACKWARD.silent,
        fires=LAYER_NORM_BACKWARD.fires,
    ),
    Check(
        name="fused_rms_norm",
        family="moments",
        ops=("aten::_fused_rms_norm",),
        judge=_rms_norm,
        cost=cost_per_element("input", FORWARD_COST),
        advice="Compose the normalisation from elementary operations in float32 and compare rstd first.",
        silent=FUSED_RMS_NORM.silent,
        fires=FUSED_RMS_NORM.fires,
    ),
    Check(
        name="fused_rms_norm_backward",
        family="moments",
        ops=("aten::_fused_rms_norm_backward",),
        judge=_rms_norm_backward,
        cost=cost_per_element("input", BACKWARD_COST + COLUMN_COST),
        advice="Compose the normalisation from elementary operations in float32 and compare its gradients.",
    ),
)
