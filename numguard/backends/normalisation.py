"""Layer normalisation judged in one pass over the caller's memory, where the twin is there."""

import ctypes
from typing import TYPE_CHECKING

from torch import Tensor

from numguard.backends.selection import native_library_for

if TYPE_CHECKING:
    from numguard_kernels.native import JudgedElements as JudgedElements
    from numguard_kernels.native import Normalising as Normalising
    from numguard_kernels.native import Weighing as Weighing

    JudgedNorm = tuple[JudgedElements, JudgedElements, JudgedElements]  # of results, means and rstd

Numbers = tuple[float, float, float]
NormRows = tuple[Tensor, Tensor, Tensor, Tensor]  # x, y, mean, rstd
Columns = tuple[Tensor, Tensor, Tensor | None, Tensor]  # dy, x, mean, rstd
GradientRows = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # dy, x, mean, rstd and the gradient


def normalising_record(
    *,
    eps: float,
    height: float,
    unit_roundoff: float,
    smallest_normal: float,
    smallest_rounding: float,
    limit: float,
    shadow: float,
    result: Numbers,
    statistics: Numbers,
) -> "Normalising":
    """Return what the twin judges a layer norm by; fields as in :class:`numguard_kernels.native.Normalising`.

    ``result`` and ``statistics`` are unit roundoff, smallest rounding and largest number of a format.
    """
    import numguard_kernels.native as native

    return native.Normalising(
        eps,
        height,
        unit_roundoff,
        smallest_normal,
        smallest_rounding,
        limit,
        shadow,
        native.Format(*result),
        native.Format(*statistics),
    )


def native_layer_norm(
    rows: NormRows, weight: Tensor | None, bias: Tensor | None, by: "Normalising"
) -> "JudgedNorm | None":
    """Judge rows of a layer norm, as :func:`numguard_kernels.native.judged_layer_norm`; None without the twin."""
    library = _library_for(rows, weight, bias)
    if library is None:
        return None
    import numguard_kernels.native as native

    return native.judged_layer_norm(library, rows, weight, bias, by)


def native_layer_norm_gradient(rows: GradientRows, weight: Tensor | None, by: "Normalising") -> "JudgedElements | None":
    """Judge gradients, as :func:`numguard_kernels.native.judged_layer_norm_gradient`; None without the twin."""
    library = _library_for(rows, weight)
    if library is None:
        return None
    import numguard_kernels.native as native

    return native.judged_layer_norm_gradient(library, rows, weight, by)


def weighing_record(
    *,
    smallest_normal: float,
    shadow: float,
    strict: Numbers,
    permissive: Numbers | None,
    result: Numbers,
) -> "Weighing":
    """Return what the twin judges gradients of weight and bias by, as :class:`numguard_kernels.native.Weighing`.

    ``strict`` and ``permissive`` are unit roundoff, smallest rounding and limit of the buffer that rows are added to.
    """
    import numguard_kernels.native as native

    return native.Weighing(
        smallest_normal,
        shadow,
        native.Storing(*strict),
        native.Storing(*(permissive or strict)),
        native.Format(*result),
        int(permissive is not None),
    )


def native_parameter_gradients(
    columns: Columns, results: tuple[Tensor | None, Tensor | None], by: "Weighing"
) -> "tuple[JudgedElements, JudgedElements] | None":
    """Judge columns, as :func:`numguard_kernels.native.judged_parameter_gradients`; None without the twin."""
    library = native_library_for("statistics", *columns, *results)
    if library is None:
        return None
    import numguard_kernels.native as native

    return native.judged_parameter_gradients(library, columns, results, by)


def _library_for(rows: tuple[Tensor, ...], *parameters: Tensor | None) -> ctypes.CDLL | None:
    library = native_library_for("statistics", *rows, *parameters)
    return library if library is not None and all(row.stride(-1) == 1 for row in rows) else None
