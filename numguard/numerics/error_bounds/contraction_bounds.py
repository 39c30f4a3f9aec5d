"""Rounding bounds of matrix products, as pure formulas on float64 tensors.

For an inner product of K terms in any order, fused or not, ``|error| <= K u sum |a b|`` (Jeannerod and Rump, SIAM J.
Matrix Anal. Appl. 34(2), 2013, for every K and every order under round to nearest). Scaling by alpha and adding
``beta c`` cost three more roundings; ``beta c`` may be the first term of the sum, as where a library adds blocks of
K to C in place.
"""

from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.numerics.formats import accumulator_dtype

SCALAR_ROUNDINGS: Final = 3  # rounding the scalar, multiplying by it, adding the two products


@dataclass(frozen=True, kw_only=True, slots=True)
class Accumulation:
    """How an implementation forms inner products.

    Parameters
    ----------
    unit_roundoff
        Of the accumulator; twice that of the format where the unit truncates.
    smallest_normal, largest
        Range of the accumulator. A product below ``smallest_normal`` may be flushed to zero.
    input_roundoff
        Unit roundoff of the format to which the factors are rounded first (TF32, bfloat16); 0 where they are not.
    partial_roundoff, num_partials
        Unit roundoff of the format in which ``num_partials`` partial results are stored; 0 where none are.
    partial_smallest, partial_largest
        Largest rounding error of such a partial result in the subnormal range, and the largest number that its
        format holds.
    model
        What stands behind these numbers.
    """

    unit_roundoff: float
    smallest_normal: float
    largest: float
    input_roundoff: float = 0.0
    partial_roundoff: float = 0.0
    num_partials: int = 0
    partial_smallest: float = 0.0
    partial_largest: float = float("inf")
    model: Literal["proved", "calibrated", "assumed"] = "proved"


def ieee_accumulation(dtype: torch.dtype) -> Accumulation:
    """Return the documented accumulation for factors of ``dtype``: IEEE float32, or float64 for float64."""
    wide = accumulator_dtype(dtype)
    limits = torch.finfo(wide)
    return Accumulation(unit_roundoff=UNIT_ROUNDOFF[wide], smallest_normal=limits.smallest_normal, largest=limits.max)


def product_bound(
    size: Tensor,
    num_terms: int | Tensor,
    scale: float,
    accumulation: Accumulation,
    num_results: int = 1,
    factor_sizes: Tensor | float = 0.0,
) -> Tensor:
    """Return E for ``scale * (A @ B) + beta C`` before output rounding.

    Parameters
    ----------
    size
        ``|scale| (|A| @ |B|) + |beta C|``, float64.
    num_terms
        K, the length of the inner products; a tensor where they differ.
    scale
        alpha.
    accumulation
        The model.
    num_results
        Elements whose bounds are summed up: ``size`` and ``factor_sizes`` are then sums over them.
    factor_sizes
        ``sum_k |a_ik| + sum_k |b_kj|`` where the unit reads subnormal factors as zero (the bfloat16 dot product of
        AVX-512 does, and float32 does on request).

    Returns
    -------
    Tensor
        E of the shape of ``size``; infinite where a partial sum may leave the range of its format.

    Notes
    -----
    ``((K + 3) u + 2 u_in + num_partials u_s) size + (|alpha| (K + factor_sizes) + 3) smallest_normal``: the sum of
    the products and of ``beta C`` in any order, rounded factors, and partial results that are stored.
    """
    relative = (num_terms + SCALAR_ROUNDINGS) * accumulation.unit_roundoff
    relative += 2.0 * accumulation.input_roundoff + accumulation.num_partials * accumulation.partial_roundoff
    floor = (num_terms * abs(scale) + SCALAR_ROUNDINGS) * accumulation.smallest_normal
    floor += accumulation.num_partials * accumulation.partial_smallest
    bound = size * relative + num_results * floor
    if isinstance(factor_sizes, Tensor):
        bound = bound + abs(scale) * accumulation.smallest_normal * factor_sizes
    largest = accumulation.largest * (min(1.0, abs(scale)) or 1.0)  # the sum is formed before it is scaled
    return torch.where(size < min(largest, accumulation.partial_largest), bound, torch.inf)


def product_shadow_error(size: Tensor, height: int, scale: float) -> Tensor:
    """Return the error of ``scale * (A @ B) + beta C`` when float64 forms it with ``height`` additions per term.

    Notes
    -----
    ``(height + 3) 2**-53 size`` and one subnormal rounding per term: the same theorem with the unit roundoff of
    float64.
    """
    roundings = height + SCALAR_ROUNDINGS
    return size * (roundings * 2.0**-53) + roundings * (1.0 + abs(scale)) * 2.0**-1074


def checksum_bound(
    column_bound: Tensor, column_size: Tensor, num_rows: int, dtype: torch.dtype, smallest_rounding: float
) -> Tensor:
    """Return the bound on a checksum ``w^T C`` with weights of size at most one.

    Parameters
    ----------
    column_bound
        Sum over the rows of the bounds E before output rounding.
    column_size
        Sum over the rows of ``|c|``, the finite results themselves.
    num_rows, dtype
        Rows in the checksum and dtype of the results.
    smallest_rounding
        Rounding error of one result in the subnormal range.

    Notes
    -----
    The sum of the elementwise bounds (Huang and Abraham, IEEE Trans. Comput. C-33(6), 1984, for the checksum; the
    triangle inequality for the bound): ``|fl(x) - x| <= u |fl(x)| + eta`` for every element.
    """
    return column_bound + UNIT_ROUNDOFF[dtype] * column_size + num_rows * smallest_rounding
