"""Invariants that need no precision: what rounding, however coarse, cannot do to sums of one sign."""

import torch
from torch import Tensor

from numguard.checks.exact_results import claims
from numguard.shadow.comparison import Comparison


def not_negative(output: str, computed: Tensor) -> Comparison:
    """Compare the signs of results that are squares, magnitudes or their roots: none is below zero in any rounding.

    Parameters
    ----------
    output
        Which output.
    computed
        Results; a NaN breaks no rule of signs.
    """
    return claims(f"{output} not negative", computed.detach() < 0)


def of_one_sign(output: str, computed: Tensor, total: Tensor, mass: Tensor, num_addends: Tensor) -> Comparison:
    """Compare sums whose addends have one sign with the mean of the addends.

    Parameters
    ----------
    output
        Which output.
    computed
        Results.
    total, mass
        Sums of the addends and of their magnitudes, float64, added in the same order.
    num_addends
        How many, float64, broadcastable to ``total``.

    Notes
    -----
    Rounding to nearest is monotone, so that ``fl(a + b) >= max(a, b)`` for addends that are not negative: a sum of them
    is at least its largest addend in any order and any precision, and that is at least their mean. This holds where the
    error bound says nothing, as in 16 bits from 256 addends on. Nothing is said of sums of two signs, of a sum that
    may overflow, and of addends that may vanish below the range of the format.
    """
    limits = torch.finfo(computed.dtype)
    mean = mass / num_addends.clamp(min=1.0)
    judged = (total.abs() == mass) & (mean > limits.smallest_normal) & (mass < limits.max / 2.0)
    least = mean * (1.0 - 2.0**-40)
    reached = computed.detach().to(torch.float64) * total.sign() >= least
    return claims(f"{output} of one sign", judged & ~reached)
