"""Comparisons with two bounds: of the accumulator, and of the dtype of the result, in which this build may compute."""

from collections.abc import Callable

import torch
from torch import Tensor

from numguard.checks.reduced_rows import model_of
from numguard.numerics.formats import accumulator_dtype
from numguard.shadow.comparison import Comparison, Model


def bounded_twice(
    output: str,
    computed: Tensor,
    exact: Tensor,
    bound: Callable[[torch.dtype], Tensor],
    shadow_error: Tensor | float = 0.0,
    *,
    model: Model | None = None,
    propagates_nonfinite: bool | None = None,
) -> Comparison:
    """Compare with the bound of the accumulator; a result of another dtype may keep to the bound of its own.

    Parameters
    ----------
    output, computed, exact, shadow_error
        As in :class:`~numguard.shadow.comparison.Comparison`.
    bound
        Returns the bound of a computation in a dtype.
    model
        What the bounds assume of the implementation; None for what :func:`model_of` says of the device.
    propagates_nonfinite
        As there; None for all but float64, whose shadow may overflow where the operator, in another order, does not.
    """
    wide, own = accumulator_dtype(computed.dtype), computed.dtype
    return Comparison(
        output=output,
        computed=computed,
        exact=exact,
        strict=bound(wide),
        permissive=None if wide == own else bound(own),
        shadow_error=shadow_error,
        model=model_of(computed) if model is None else model,
        propagates_nonfinite=own != torch.float64 if propagates_nonfinite is None else propagates_nonfinite,
    )
