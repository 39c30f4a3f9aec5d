"""Cumulative products, in place too, from mantissas and exponents so that nothing overflows on the way."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, cost_per_element
from numguard.checks.cumulative_product_examples import CUMPROD
from numguard.checks.exact_results import exact_integers
from numguard.checks.prefixes import accumulators_of, keep_rows, prefix_comparison, prefixes_of
from numguard.checks.scaled_numbers import Scaled, scaled
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.numerics.error_bounds.slot_product_bounds import slot_product_bound
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

COST: Final = 60.0  # a scan in a dozen passes over mantissas and exponents, and two prefix sums, per element


def prefix_products(x: Tensor) -> Tensor:
    """Return the products of the first elements of each row of float64 ``x``, along the last dimension.

    Notes
    -----
    Products at distances of 1, 2, 4, ... are multiplied (Hillis and Steele, CACM 29, 1986). Prefix i has i roundings
    in all, so that its relative error is at most ``i * 2**-53``; beyond the range of float64 its largest number is
    returned.
    """
    mantissa, exponent = scaled(x)
    shift = 1
    while shift < x.shape[-1]:
        product, carry = scaled(mantissa[..., shift:] * mantissa[..., :-shift])
        exponent = torch.cat((exponent[..., :shift], exponent[..., shift:] + exponent[..., :-shift] + carry), dim=-1)
        mantissa = torch.cat((mantissa[..., :shift], product), dim=-1)
        shift *= 2
    return Scaled(mantissa, exponent).rounded()


def _judge(call: OpCall, captured: Tensor | None, probe: Probe) -> Sequence[Comparison]:
    prefixes = prefixes_of(call, captured, probe)
    if prefixes is None:
        return ()
    source, result = prefixes
    if not result.dtype.is_floating_point:
        if source.dtype.is_floating_point or result.dtype == torch.bool:
            raise NotCovered("cumulative products of floating-point numbers as integers, or as truth values")
        return (exact_integers("result", result, _integers(source.to(torch.int64))),)
    return (_floats(source.to(result.dtype).to(torch.float64), result, probe.arithmetic),)


def _integers(x: Tensor) -> Tensor:
    """Return prefix products modulo 2**64."""
    shift = 1
    while shift < x.shape[-1]:
        x = torch.cat((x[..., :shift], x[..., shift:] * x[..., :-shift]), dim=-1)
        shift *= 2
    return x


def _floats(x: Tensor, result: Tensor, arithmetic: Arithmetic) -> Comparison:
    exact = prefix_products(x)
    logarithm = torch.where(x == 0.0, 0.0, x.abs().log2())
    above, below = (arithmetic.prefix_totals(part, -1) for part in (logarithm.clamp(min=0), logarithm.clamp(max=0)))
    factors = torch.arange(1.0, x.shape[-1] + 1.0, dtype=torch.float64, device=x.device)
    strict, permissive = (
        slot_product_bound(exact, above, below, factors, UNIT_ROUNDOFF[kind], torch.finfo(kind))
        for kind in accumulators_of(result)
    )
    return prefix_comparison(result, exact, strict, permissive, factors * SHADOW_ROUNDOFF * exact.abs() + 2.0**-1074)


CHECKS: tuple[Check, ...] = (
    Check(
        name="cumprod",
        family="cumulative",
        ops=("aten::cumprod", "aten::cumprod_", "aten::cumprod.out"),
        judge=_judge,
        capture=keep_rows,
        cost=cost_per_element("self", COST),
        silent=CUMPROD.silent,
        fires=CUMPROD.fires,
        advice="Repeat this in float64, or cumulate logarithms: products of many factors leave every format.",
    ),
)
