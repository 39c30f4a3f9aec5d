"""Convolutions of one to three dimensions, strided, dilated, in groups and transposed, and their gradients.

Sampled elements of the result are formed again in float64 from the windows that they see, and whole kernels of sampled
pairs of channels from the sums over all samples and places.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe
from numguard.checks.convolution_examples import BACKWARD, FORWARD
from numguard.checks.convolution_forms import (
    Geometry,
    geometry_of,
    in_groups,
    sums_over_windows,
    weight_in_groups,
    window_products,
)
from numguard.checks.matmul_precision import REDUCED_FACTORS, Precision
from numguard.checks.reduced_rows import row_totals
from numguard.checks.row_samples import sampled_rows
from numguard.numerics.error_bounds.contraction_bounds import ieee_accumulation, product_bound, product_shadow_error
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, smallest_rounding
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison

TERM_COST: Final = 4.0  # value and mass, and the window that is gathered
ALL: Final = slice(None)


def precision_of(dtype: torch.dtype, device_type: str, num_stored: int) -> Precision:
    """Return the accumulation models of a convolution.

    Parameters
    ----------
    dtype
        Of input and result.
    num_stored
        How often a partial sum may be rounded to a 16-bit result: where no instruction multiplies the format, images
        or kernel positions are added one at a time.
    """
    strict = ieee_accumulation(dtype)
    getter: Callable[..., Any] | None = getattr(torch._C, "_get_fp32_precision_getter", None)
    backend = "mkldnn" if device_type == "cpu" else "cuda"
    asked = str(getter(backend, "conv")) if getter is not None and dtype == torch.float32 else ""
    factors = REDUCED_FACTORS.get(asked, 0.0)
    strict = replace(strict, input_roundoff=factors, model="assumed" if factors else "calibrated")
    if device_type != "cpu":
        unit = strict.unit_roundoff * (1.0 if dtype == torch.float64 else 2.0)  # matrix units truncate
        strict = replace(strict, unit_roundoff=unit, model="assumed")
    if dtype in (torch.float32, torch.float64):
        return Precision(strict, strict)
    permissive = replace(
        strict,
        partial_roundoff=UNIT_ROUNDOFF[dtype],
        num_partials=num_stored,
        partial_smallest=smallest_rounding(dtype),
        partial_largest=torch.finfo(dtype).max,
    )
    return Precision(strict, permissive)


def _compare(
    output: str, computed: Tensor, exact: Tensor, mass: Tensor, terms: int, height: int, precision: Precision
) -> Comparison:
    strict = product_bound(mass, terms, 1.0, precision.strict)
    permissive = None
    if precision.permissive is not precision.strict:
        permissive = product_bound(mass, terms, 1.0, precision.permissive)
    return Comparison(
        output=output,
        computed=computed,
        exact=exact,
        strict=strict,
        permissive=permissive,
        shadow_error=product_shadow_error(mass, height, 1.0),
        model=precision.permissive.model,
        propagates_nonfinite=computed.dtype != torch.float64,
    )


def _windowed(
    output: str,
    result: Tensor,
    source: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    probe: Probe,
    *,
    spread: bool,
) -> Comparison:
    """Compare sampled elements of ``result`` with the sums of their windows over ``source``.

    Parameters
    ----------
    spread
        True for a transposed convolution and for the input gradient of a plain one: the windows are spread, and the
        sum runs over the first dimension of the weight.
    """
    groups, count = geometry.groups, len(geometry.axes)
    target, given = in_groups(result, groups), in_groups(source, groups)
    factors = weight_in_groups(weight, groups)
    summed, kept = (1, 2) if spread else (2, 1)
    terms = factors.shape[summed] * geometry.kernel_size
    picked = sampled_rows(tuple(target.shape), TERM_COST * max(1, terms), probe)
    samples, chosen, channels, places = picked[0], picked[1], picked[2], picked[3:]
    factors = factors[chosen].to(torch.float64).permute(0, summed, *range(3, 3 + count), kept)
    factors = factors.reshape(factors.shape[0], terms, -1)[..., channels]
    axes = geometry.windows(places, target.shape[3:], given, spread=spread)
    given, product = given[samples, chosen], probe.arithmetic.product
    exact = sums_over_windows(given, factors, axes, product)
    mass = sums_over_windows(given.abs(), factors.abs(), axes, product)
    if bias is not None:
        offset = bias.detach().to(torch.float64).reshape(groups, -1, *(1,) * count)[chosen, channels]
        exact, mass = exact + offset, mass + offset.abs()
    stored = 2 + (geometry.kernel_size if spread else 0)
    precision = precision_of(result.dtype, result.device.type, stored)
    height = probe.arithmetic.height(terms)
    return _compare(output, target[picked], exact, mass, terms + 1, height, precision)


def _forward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    geometry = geometry_of(call)
    if not call.output.numel():
        return ()
    operands = call.output, call["input"], call["weight"], call["bias"]
    return (_windowed("result", *operands, geometry, probe, spread=geometry.transposed),)


def _weight_gradient(call: OpCall, geometry: Geometry, probe: Probe) -> Comparison:
    """Compare the kernels of sampled pairs of channels."""
    groups, count = geometry.groups, len(geometry.axes)
    result = weight_in_groups(call.output[1], groups)
    small, source = in_groups(call["grad_output"], groups), in_groups(call["input"], groups)
    if geometry.transposed:
        small, source = source, small
    terms = small.shape[0] * prod(small.shape[3:])
    picked = sampled_rows(tuple(result.shape[:3]), TERM_COST * terms * geometry.kernel_size, probe, in_pieces=True)
    axes = geometry.windows((ALL,) * count, small.shape[3:], source, spread=False)
    small, source = small[:, picked[0], picked[1]], source[:, picked[0], picked[2]]
    product = probe.arithmetic.product
    exact = window_products(small, source, axes, product)
    mass = window_products(small.abs(), source.abs(), axes, product)
    precision = precision_of(result.dtype, result.device.type, 2 + small.shape[0])
    height = probe.arithmetic.height(terms) + small.shape[0]
    return _compare("grad_weight", result[picked], exact, mass, terms, height, precision)


def _bias_gradient(call: OpCall, probe: Probe) -> Comparison:
    grad = call["grad_output"].detach().movedim(1, 0)
    terms = grad[0].numel()
    picked = sampled_rows((grad.shape[0],), 2.0 * terms, probe, in_pieces=True)

    def parts(piece: Tensor) -> Any:
        wide = piece.to(torch.float64)
        yield wide
        yield wide.abs()

    (exact, mass), height = row_totals(grad[picked], 1, parts, probe.arithmetic)
    result = call.output[2].detach()[picked]
    precision = precision_of(result.dtype, result.device.type, 2 + grad.shape[1])
    return _compare("grad_bias", result, exact, mass, terms, height, precision)


def _backward(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    geometry = geometry_of(call)
    if not call["grad_output"].numel() or not call["input"].numel():
        return ()
    comparisons = []
    wanted = call["output_mask"]
    if wanted[0]:
        operands = call.output[0], call["grad_output"], call["weight"], None
        comparisons.append(_windowed("grad_input", *operands, geometry, probe, spread=not geometry.transposed))
    if wanted[1]:
        comparisons.append(_weight_gradient(call, geometry, probe))
    if wanted[2]:
        comparisons.append(_bias_gradient(call, probe))
    return comparisons


def _terms(call: OpCall) -> float:
    weight = call["weight"]
    return float(prod(weight.shape[1:]))


def _forward_cost(call: OpCall) -> float:
    source = call["input"]
    strided = prod(call["stride"]) if not call["transposed"] else 1.0
    return float(TERM_COST * source.numel() / max(1, source.shape[1]) * call["weight"].numel() / max(1.0, strided))


def _backward_cost(call: OpCall) -> float:
    return 3.0 * TERM_COST * float(call["grad_output"].numel()) * _terms(call)


CHECKS: tuple[Check, ...] = (
    Check(
        name="convolution",
        family="contractions",
        ops=("aten::convolution",),
        judge=_forward,
        cost=_forward_cost,
        advice="Run the convolution in float32 with torch.backends.mkldnn.flags(enabled=False) or another device.",
        silent=FORWARD.silent,
        fires=FORWARD.fires,
    ),
    Check(
        name="convolution_backward",
        family="contractions",
        ops=("aten::convolution_backward",),
        judge=_backward,
        cost=_backward_cost,
        advice="Repeat the backward pass in float32 on another device; where no instruction multiplies the format, the "
        "CPU adds images one at a time in 16 bits.",
        silent=BACKWARD.silent,
        fires=BACKWARD.fires,
    ),
)
