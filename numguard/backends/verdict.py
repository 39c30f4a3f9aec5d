"""The verdict on one comparison, in one pass over it where the twin is there."""

from typing import Any

from torch import Tensor

from numguard.backends.selection import native_library_for


def native_verdict(
    computed: Tensor,
    exact: Tensor,
    strict: Tensor | float,
    permissive: Tensor | float | None,
    shadow_error: Tensor | float,
    *,
    unit_roundoff: float,
    smallest_rounding: float,
    largest: float,
    rounds_output: bool,
    propagates_nonfinite: bool,
) -> list[float] | None:
    """Return the numbers of a verdict, or None where the twin is not there or cannot read the results.

    Parameters
    ----------
    computed
        Results, at least one, in their own dtype.
    exact, strict, permissive, shadow_error
        As in :class:`~numguard.shadow.comparison.Comparison`.
    unit_roundoff, smallest_rounding, largest
        Of the dtype of the results.
    rounds_output, propagates_nonfinite
        As in the comparison.
    """
    library = native_library_for("verdict", computed)
    if library is None:
        return None
    import numguard_kernels.native as native

    shape = computed.shape
    return native.judged_comparison(
        library,
        computed.contiguous(),
        _laid_out(exact, shape),
        _laid_out(strict, shape),
        None if permissive is None else _laid_out(permissive, shape),
        _laid_out(shadow_error, shape),
        unit_roundoff=unit_roundoff,
        smallest_rounding=smallest_rounding,
        largest=largest,
        rounds_output=rounds_output,
        propagates_nonfinite=propagates_nonfinite,
    )


def _laid_out(values: Any, shape: tuple[int, ...]) -> Any:
    """Return numbers one after the other, one for each result, or a single one."""
    if not isinstance(values, Tensor) or values.numel() == 1:
        return values
    return values.expand(shape).contiguous()
