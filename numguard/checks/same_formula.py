"""Comparisons with a shadow that runs the operator's own formula in float64, so that it obeys the same bound."""

import torch
from torch import Tensor

from numguard.checks.reduced_rows import model_of
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.comparison import Comparison


def compare(
    output: str,
    computed: Tensor,
    exact: Tensor,
    strict: Tensor,
    accumulator: torch.dtype,
    *,
    permissive: Tensor | None = None,
    own: Tensor | None = None,
    taller: float = 1.0,
    assumed: bool = False,
    propagates_nonfinite: bool = True,
) -> Comparison:
    """Compare with a shadow that obeys the strict bound with its own unit roundoff.

    Parameters
    ----------
    output, computed, exact, strict, permissive, propagates_nonfinite
        As in :class:`~numguard.shadow.comparison.Comparison`.
    accumulator
        Dtype with whose unit roundoff the strict bound holds.
    own
        The bound that the shadow obeys with its own unit roundoff, where that is not the strict one.
    taller
        By how much the shadow's sums are taller than the operator's, at least one.
    assumed
        Whether the bound was never tried against this operator on this device.
    """
    obeyed = strict if own is None else own
    return Comparison(
        output=output,
        computed=computed,
        exact=exact,
        strict=strict,
        permissive=permissive,
        shadow_error=obeyed * (taller * SHADOW_ROUNDOFF / UNIT_ROUNDOFF[accumulator]),
        model="assumed" if assumed else model_of(computed),
        propagates_nonfinite=propagates_nonfinite,
    )
