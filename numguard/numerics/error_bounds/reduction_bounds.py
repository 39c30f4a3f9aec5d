"""Deterministic bounds on sums, prefix sums and products by rows, from totals in float64.

All bound the error before the result is rounded to its dtype, and all are infinite where a correct implementation may
leave the range of a format on the way.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from numguard.numerics.error_bounds.summation_bounds import Quantity, growth_factor


def guarded(bound: Tensor, largest_partial: Tensor, limit: float) -> Tensor:
    """Return ``bound`` where ``largest_partial`` stays below ``limit``, and infinity elsewhere.

    Parameters
    ----------
    bound, largest_partial
        float64, the same shape. A NaN counts as beyond the limit.
    limit
        Largest number of the narrowest format that holds an intermediate result.
    """
    return torch.where(largest_partial < limit, bound, torch.inf)


def row_sum_bound(absolute_total: Tensor, growth: float, limit: float) -> Tensor:
    """Return a bound on the error of sums by rows.

    Parameters
    ----------
    absolute_total
        A, float64.
    growth
        :func:`~numguard.numerics.error_bounds.summation_bounds.sum_bound` of an absolute total of one.
    limit
        As in :func:`guarded`.

    Notes
    -----
    No partial sum exceeds ``(1 + growth) A``.
    """
    return guarded(growth * absolute_total, (1.0 + growth) * absolute_total, limit)


def row_mean_bound(
    absolute_total: Tensor, total: Tensor, num_terms: int, growth: float, division: float, limit: float
) -> Tensor:
    """Return a bound on the error of means by rows.

    Parameters
    ----------
    absolute_total, total
        A and s, float64.
    num_terms
        n.
    growth
        As in :func:`row_sum_bound`.
    division
        Relative error of the converted n and of the quotient: ``2 u``.
    limit
        As in :func:`guarded`.

    Notes
    -----
    ``(E + division (|s| + E)) / n`` with the error E of the sum.
    """
    error = growth * absolute_total
    bound = (error + division * (total.abs() + error)) / max(1, num_terms)
    return guarded(bound, (1.0 + growth) * absolute_total, limit)


def prefix_sum_bound(absolute_totals: Tensor, position: Tensor, unit_roundoff: float, limit: float) -> Tensor:
    """Return a bound on the error of prefix sums, whatever the order of additions.

    Parameters
    ----------
    absolute_totals
        Prefix sums of absolute values, float64.
    position
        Additions behind each prefix sum: 0 for the first, broadcastable to ``absolute_totals``.
    unit_roundoff
        u of the accumulator.
    limit
        As in :func:`guarded`.

    Notes
    -----
    ``i u A_i`` (Rump, BIT 52, 2012; Jeannerod and Rump, SIAM J. Matrix Anal. Appl. 34, 2013).
    """
    growth = position * unit_roundoff
    return guarded(growth * absolute_totals, (1.0 + growth) * absolute_totals, limit)


class ProductRange(NamedTuple):
    """How far the products of subsets of the factors may reach, float64.

    Attributes
    ----------
    above, below
        Sums of the positive and of the negative part of ``log2 |x|`` over the factors that are not zero.
    """

    above: Tensor
    below: Tensor


class ProductFormat(NamedTuple):
    """The format that the partial products are rounded to.

    Attributes
    ----------
    unit_roundoff, smallest_normal, largest
        Of that format.
    """

    unit_roundoff: float
    smallest_normal: float
    largest: float


def product_bound(product: Tensor, reach: ProductRange, num_terms: int, rounding: ProductFormat) -> Tensor:
    """Return a bound on the error of products by rows, whatever the order of multiplications.

    Parameters
    ----------
    product
        Exact products r, float64.
    reach
        Of their factors.
    num_terms
        n.
    rounding
        Of the partial products.

    Notes
    -----
    ``((1 + u)**(n - 1) - 1) |r|`` (Higham, ASNA 2nd ed., lemma 3.1), one rounding more for a final store. Where a
    partial product may be subnormal or vanish (``below`` under the exponent of the smallest normal number), each of
    n - 1 products loses at most that number, and the remaining factors multiply the loss by at most
    ``2**above``. Infinite where a partial product may overflow. One binary order of magnitude allows for the
    roundings of the products and of ``above`` and ``below`` themselves.
    """
    relative = math.expm1(min(num_terms * math.log1p(rounding.unit_roundoff), 700.0))
    lost = num_terms * rounding.smallest_normal * (1.0 + relative) * torch.exp2(reach.above.clamp(max=1000.0) + 1.0)
    underflow = torch.where(reach.below < math.log2(rounding.smallest_normal) + 1.0, lost, 0.0)
    magnitude = reach.above + num_terms * math.log2(1.0 + rounding.unit_roundoff)
    bound = product.abs() * relative + underflow
    return guarded(bound, magnitude, math.log2(rounding.largest) - 1.0)


def count_growth(num_terms: Quantity, unit_roundoff: float) -> Quantity:
    """Return the relative error of counting to ``num_terms`` by additions of one.

    Notes
    -----
    Every count up to ``1 / u`` is exact; beyond, the bound of a sum in any order holds.
    """
    growth = growth_factor(num_terms - 1, unit_roundoff, num_terms)
    if isinstance(num_terms, Tensor):
        return torch.where(num_terms <= 1.0 / unit_roundoff, 0.0, growth)
    return growth if num_terms > 1.0 / unit_roundoff else 0.0
