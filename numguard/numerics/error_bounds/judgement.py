"""From the error of an accumulation to the bound that a result must meet, and to a verdict on it.

Notation: v the exact value on the actual inputs, c what was computed, r the shadow, E a bound on the error before
output rounding, e_r a bound on the error of the shadow, u_o and eta_o unit roundoff and half the smallest
subnormal of the output. ``|c - v| <= E' + u_o(|v| + E') + eta_o`` with ``E' = (1 + 2**-8) E`` for the second-order
terms of composed bounds, and ``|r - v| <= e_r``; hence the alarm threshold

    B = E' + u_o(|r| + E' + e_r) + eta_o + e_r                          (1)

A result is judged only where B is finite and the rounded result cannot leave the range of its format.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from numguard.numerics.formats import FORMATS, format_of

#: Unit roundoff u = 2**-p of every signed floating-point dtype that torch stores (half the gap at one).
UNIT_ROUNDOFF: Final[dict[torch.dtype, float]] = {
    entry.dtype: entry.unit_roundoff for entry in FORMATS.values() if entry.dtype is not None and entry.is_signed
}

SECOND_ORDER: Final = 1.0 + 2.0**-8  # covers the products of first-order terms in composed bounds
SHADOW_ROUNDINGS: Final = 4.0 * 2.0**-53  # the shadow's own last operations, relative to its value


class Judgement(NamedTuple):
    """Elementwise verdict: all tensors have the shape of the judged elements.

    Attributes
    ----------
    ratio
        ``|c - r| / B``; infinite where a result is NaN or Inf and may not be; zero where nothing can be said.
    bound
        B of equation (1), absolute.
    indeterminate
        True where no correct implementation is bounded: overflow is possible, or the shadow is not finite.
    """

    ratio: Tensor
    bound: Tensor
    indeterminate: Tensor


def smallest_rounding(dtype: torch.dtype) -> float:
    """Return eta, the largest error of rounding in the subnormal range, allowing for flush to zero.

    Half the smallest subnormal for the 16-bit and 8-bit formats; for float32 and float64 the smallest subnormal,
    as in the validated bounds, because a result may be formed by one more subnormal operation.
    """
    smallest = format_of(dtype).smallest_subnormal
    return smallest if dtype in (torch.float32, torch.float64) else smallest / 2.0


def alarm_threshold(
    exact: Tensor, forward_bound: Tensor | float, dtype: torch.dtype, shadow_error: Tensor | float = 0.0
) -> Tensor:
    """Return B of equation (1).

    Parameters
    ----------
    exact
        Shadow values r, float64.
    forward_bound
        E, float64, broadcastable to ``exact``.
    dtype
        Dtype of the judged result.
    shadow_error
        e_r beyond ``4 * 2**-53 * |r|``.
    """
    magnitude = exact.abs()
    own = shadow_error + SHADOW_ROUNDINGS * magnitude
    accumulated = SECOND_ORDER * forward_bound
    return accumulated + UNIT_ROUNDOFF[dtype] * (magnitude + accumulated + own) + smallest_rounding(dtype) + own


def judge(
    computed: Tensor,
    exact: Tensor,
    forward_bound: Tensor | float,
    *,
    shadow_error: Tensor | float = 0.0,
    rounds_output: bool = True,
    propagates_nonfinite: bool = False,
) -> Judgement:
    """Judge results against their shadows, without synchronising with the host.

    Parameters
    ----------
    computed
        Results in their own floating-point dtype.
    exact, forward_bound, shadow_error
        r, E and e_r in float64.
    rounds_output
        False where the result must equal the shadow exactly.
    propagates_nonfinite
        True where a non-finite shadow demands a non-finite result.
    """
    dtype = computed.dtype
    wide = computed.to(torch.float64)
    magnitude = exact.abs()
    difference = (wide - exact).abs()
    if rounds_output:
        bound = alarm_threshold(exact, forward_bound, dtype, shadow_error)
        indeterminate = ~(magnitude + bound < torch.finfo(dtype).max)  # NaN compares False, hence the negation
        within = difference <= bound
    else:
        bound = torch.zeros_like(exact)
        indeterminate = exact.isnan()
        within = wide == exact  # an infinity that is selected must be the same infinity
    share = torch.where(bound > 0, difference / bound, torch.where(within, 0.0, torch.inf))
    ratio = torch.where(within, share, torch.where(share > 1.0, share, torch.inf))
    if propagates_nonfinite:
        lost = ~torch.isfinite(exact) & torch.isfinite(wide)
        ratio = torch.where(lost, torch.inf, ratio)
        indeterminate = indeterminate & ~lost
    return Judgement(torch.where(indeterminate, 0.0, ratio), bound, indeterminate)
