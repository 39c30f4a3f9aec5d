"""What additions that are repeated bit for bit can say beside a bound."""

import torch
from torch import Tensor

from numguard.numerics.error_bounds.judgement import alarm_threshold
from numguard.shadow.comparison import Compared


def accepted_values(
    computed: Tensor, repeated: Tensor, exact: Tensor, strict: Tensor | float, shadow_error: Tensor | float = 0.0
) -> Tensor:
    """Return what results have to equal, float64, where the sums of this build have been repeated.

    A result is right when it has the bits of the repetition. It is right as well within the strict bound: an
    implementation that adds in wider sums is better than this build's, not wrong.

    Parameters
    ----------
    computed
        Results in their own dtype.
    repeated
        The same sums in the order and precision of this build, float64; NaN where nothing can be said.
    exact, strict, shadow_error
        Shadow, strict bound before output rounding and error of the shadow, as in
        :class:`~numguard.shadow.comparison.Comparison`; they have the shape of ``computed`` or broadcast to it.
    """
    wide = computed.to(torch.float64)
    within = (wide - exact).abs() <= alarm_threshold(exact, strict, computed.dtype, shadow_error)
    return torch.where(within, wide, repeated)


def accepted_beside(bounded: Compared, computed: Tensor, repeated: Tensor) -> Tensor:
    """Return :func:`accepted_values` with shadow and bound of a comparison of the same elements."""
    shape = computed.shape
    exact, strict, error = (
        value.reshape(shape) if isinstance(value, Tensor) and value.numel() == computed.numel() else value
        for value in (bounded.exact, bounded.strict, bounded.shadow_error)
    )
    assert isinstance(exact, Tensor)
    return accepted_values(computed, repeated, exact, strict, error)
