"""Inner products and checksums of matrix products, with the sums of their magnitudes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from numguard.backends.selection import backend_for, native_library_for
from numguard.errors import UsageError

if TYPE_CHECKING:
    from array import array

    from numguard_kernels.native import Bound as Bound
    from numguard_kernels.native import JudgedElements as JudgedElements
    from numguard_kernels.native import Judging as Judging


class InnerProduct(NamedTuple):
    """Value, sum of magnitudes of the products, and a bound on the error of the value."""

    value: float
    mass: float
    error_bound: float


def inner_product(x: Tensor, y: Tensor) -> InnerProduct:
    """Return the inner product of two vectors of floating-point numbers and a bound on its error.

    Raises
    ------
    UsageError
        If the shapes or devices differ, or the forced backend cannot be.
    """
    if x.shape != y.shape or x.dim() != 1 or x.device != y.device:
        raise UsageError(
            f"inner_product got {tuple(x.shape)} on {x.device} and {tuple(y.shape)} on {y.device}; "
            "give two vectors of one length on one device"
        )
    x, y = x.detach().resolve_neg(), y.detach().resolve_neg()
    backend = backend_for("dot", x.device)
    library = native_library_for("dot", x, y)
    n = x.numel()
    if backend == "native" and library is not None:
        import numguard_kernels.native as native

        high, low, mass = native.inner_product(library, x, y)
        return InnerProduct(high + low, mass, native.dot_error_bound(n, mass, high + low))
    wide = [np.asarray(tensor.to("cpu", torch.float64).numpy(), dtype=np.longdouble) for tensor in (x, y)]
    terms = wide[0] * wide[1]
    mass = float(np.add.reduce(np.abs(terms)))
    value = float(np.add.reduce(terms))
    return InnerProduct(value, mass, (n + 2) * 2.0**-53 * mass + n * 2.0**-1073)


def native_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return ``a @ b`` and ``|a| @ |b|`` of ``[B, M, K]`` and ``[B, K, N]``, float64; None without the twin."""
    library = native_library_for("dot", a, b)
    if library is None:
        return None
    import numguard_kernels.native as native

    return native.product_and_mass(library, a, b)


def bound_record(*, relative: float, floor: float, factor: float, limit: float) -> "Bound":
    """Return a bound as the twin reads it: affine in the sum of magnitudes, infinite from ``limit`` on."""
    import numguard_kernels.native as native

    return native.Bound(relative, floor, factor, limit)


def judging_record(**fields: Any) -> "Judging":
    """Return what the twin judges a product by; fields as in :class:`numguard_kernels.native.Judging`."""
    import numguard_kernels.native as native

    return native.Judging(**fields)


def native_judged_product(
    a: Tensor, b: Tensor, c: Tensor, added: Tensor | None, by: "Judging"
) -> "JudgedElements | None":
    """Judge the elements of a product, as :func:`numguard_kernels.native.judged_product`; None without the twin."""
    library = native_library_for("dot", a, b, c, added)
    if library is None:
        return None
    import numguard_kernels.native as native

    return native.judged_product(library, a, b, c, added, by)


def native_judged_checksums(
    a: Tensor, b: Tensor, c: Tensor, added: Tensor | None, first_sign: int, by: "Judging"
) -> "JudgedElements | None":
    """Judge the checksums of a product, as :func:`numguard_kernels.native.judged_checksums`; None without the twin."""
    library = native_library_for("dot", a, b, c, added)
    if library is None:
        return None
    import numguard_kernels.native as native

    return native.judged_checksums(library, a, b, c, added, first_sign, by)


def native_judged_parts(
    tensors: Sequence[Tensor | None],
    elements: "tuple[array[int], array[int]]",
    by: "Judging",
    summed: "tuple[array[int], array[int]] | None",
    summed_by: "Judging | None",
    first_sign: int,
) -> "tuple[JudgedElements, JudgedElements | None] | None":
    """Judge parts of a product, as :func:`numguard_kernels.native.judged_parts`; None without the twin.

    Parameters
    ----------
    tensors
        What the words point into, which the twin must be able to read.
    elements, summed
        Words, with dtypes by :func:`dtype_number`, and sizes.
    """
    library = native_library_for("dot", *tensors)
    if library is None:
        return None
    import numguard_kernels.native as native

    return native.judged_parts(
        library,
        native.Factors(*elements),
        by,
        None if summed is None else native.Factors(*summed),
        summed_by,
        first_sign,
    )


def dtype_number(dtype: torch.dtype) -> int | None:
    """Return the twin's number of a dtype, or None where it does not know it."""
    from numguard_kernels.native import DTYPES

    return DTYPES.get(dtype)
