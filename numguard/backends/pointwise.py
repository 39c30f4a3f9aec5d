"""Elementwise operators judged in one pass over the selected elements, where the twin is there."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from numguard.backends.selection import native_library_for
from numguard.numerics.error_bounds.optimizer_bounds import Rounding

if TYPE_CHECKING:
    from numguard_kernels.native import JudgedElements as JudgedElements
    from numguard_kernels.native import Pointwise as Pointwise


def pointwise_record(
    *,
    rule: str,
    constant: float | None,
    factor: float,
    strict: Rounding,
    permissive: Rounding | None,
    result: tuple[float, float, float],
    propagates_nonfinite: bool,
) -> "Pointwise | None":
    """Return what the twin judges an operator by, as :class:`numguard_kernels.native.Pointwise`; None for other ones.

    Parameters
    ----------
    rule
        Name of the operator: ``"add"``.
    constant
        What stands for the second term, or None where it is a tensor.
    result
        Unit roundoff, smallest rounding and largest number of the format of the results.
    """
    import numguard_kernels.native as native

    if rule not in native.RULES:
        return None
    strictly, permissively = (
        native.Roundings(r.unit, r.constant, r.constant_floor, r.store, r.tiny, r.largest)
        for r in (strict, permissive or strict)
    )
    return native.Pointwise(
        0.0 if constant is None else constant,
        factor,
        strictly,
        permissively,
        native.Format(*result),
        native.RULES.index(rule),
        int(constant is not None),
        int(permissive is not None),
        int(propagates_nonfinite),
    )


def native_pointwise(computed: Tensor, terms: Sequence[Tensor], by: "Pointwise") -> "JudgedElements | None":
    """Judge an operator, as :func:`numguard_kernels.native.judged_pointwise`; None without the twin."""
    library = native_library_for("verdict", computed, *terms)
    if library is None or not computed.numel():
        return None
    import numguard_kernels.native as native

    return native.judged_pointwise(library, computed, terms, by)
