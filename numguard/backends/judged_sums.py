"""Sums and means by rows and sums by slot, judged in one pass over the caller's memory, where the twin is there."""

from typing import TYPE_CHECKING

from torch import Tensor

from numguard.backends.selection import native_library_for

if TYPE_CHECKING:
    from numguard_kernels.native import JudgedElements as JudgedElements
    from numguard_kernels.native import Slotting as Slotting
    from numguard_kernels.native import Summing as Summing

Numbers = tuple[float, float, float]


def summing_record(
    *,
    growth: float,
    permissive_growth: float | None,
    limit: float,
    lost: float,
    error: float,
    divisor: float,
    division: float,
    result: Numbers,
) -> "Summing":
    """Return what the twin judges sums by; fields as in :class:`numguard_kernels.native.Summing`.

    ``result`` is unit roundoff, smallest rounding and largest number of the format of the results.
    """
    import numguard_kernels.native as native

    has_permissive = permissive_growth is not None
    wider = growth if permissive_growth is None else permissive_growth
    return native.Summing(
        growth, wider, limit, lost, error, divisor, division, native.Format(*result), int(has_permissive)
    )


def slotting_record(*, shadow: float, result: Numbers) -> "Slotting":
    """Return what the twin judges sums by slot by; fields as in :class:`numguard_kernels.native.Slotting`."""
    import numguard_kernels.native as native

    return native.Slotting(shadow, native.Format(*result))


def native_judged_row_sums(x: Tensor, num_kept: int, results: Tensor, by: "Summing") -> "JudgedElements | None":
    """Judge sums or means, as :func:`numguard_kernels.native.judged_row_sums`; None without the twin."""
    library = native_library_for("statistics", x, results)
    if library is None:
        return None
    import numguard_kernels.native as native

    return native.judged_row_sums(library, x, num_kept, results, by)


def native_judged_slot_sums(
    num_slots: int, index: Tensor, source: Tensor, base: Tensor | None, result: Tensor, by: "Slotting"
) -> "JudgedElements | None":
    """Judge sums by slot, as :func:`numguard_kernels.native.judged_slot_sums`; None without the twin."""
    library = native_library_for("statistics", source, base, result)
    if library is None or not index.is_cpu:
        return None
    import numguard_kernels.native as native

    return native.judged_slot_sums(library, num_slots, index, source, base, result, by)
