"""Deterministic bounds on the error of sums, means, inner products and norms, from already reduced quantities.

All take and return float64 tensors or floats, and bound the error before the result is rounded to its dtype.
"""

import math
from typing import TypeAlias

import torch
from torch import Tensor

Quantity: TypeAlias = Tensor | float


def growth_factor(height: Quantity, unit_roundoff: float, num_terms: Quantity | None = None) -> Quantity:
    """Return g such that a sum over a tree of additions has an error of at most ``g * sum|x|``.

    Parameters
    ----------
    height
        h, additions that a term passes through, at most.
    unit_roundoff
        u of the accumulator.
    num_terms
        n, where it is known: allows the bound for any order.

    Returns
    -------
    Tensor or float
        ``h * u`` where ``h <= u**-0.5``, ``(1 + u)**h - 1`` beyond; in either case at most ``(n - 1) * u``.

    Notes
    -----
    Round to nearest, no overflow, subnormal numbers kept. Any order of n - 1 additions: ``(n - 1) u`` without
    restriction on n (Rump, BIT 52, 2012; Jeannerod, Rump, SIAM J. Matrix Anal. Appl. 34, 2013). Trees of height h:
    ``h u`` for ``h <= u**-0.5`` (Lange, Rump, BIT 57, 2017); beyond, the classical product of ``h`` factors
    (Higham, ASNA 2nd ed., section 4.2).
    """
    limit = unit_roundoff**-0.5
    factor: Quantity
    if isinstance(height, Tensor):
        exponent = height.to(torch.float64) * math.log1p(unit_roundoff)
        factor = torch.where(height <= limit, height.to(torch.float64) * unit_roundoff, torch.expm1(exponent))
    else:
        factor = height * unit_roundoff if height <= limit else _compounded(height, unit_roundoff)
    if num_terms is None:
        return factor
    any_order = (num_terms - 1) * unit_roundoff
    if isinstance(factor, Tensor) or isinstance(any_order, Tensor):
        return torch.minimum(
            torch.as_tensor(factor, dtype=torch.float64), torch.as_tensor(any_order, dtype=torch.float64).clamp(min=0.0)
        )
    return min(factor, max(0.0, any_order))


def sum_bound(
    absolute_total: Quantity,
    height: Quantity,
    unit_roundoff: float,
    *,
    num_terms: Quantity | None = None,
    num_stored_partials: Quantity = 0,
    storage_roundoff: float = 0.0,
) -> Quantity:
    """Return a bound on the error of a sum.

    Parameters
    ----------
    absolute_total
        A, the sum of absolute values.
    height, unit_roundoff, num_terms
        As in :func:`growth_factor`.
    num_stored_partials, storage_roundoff
        How often a partial sum is rounded to a shorter dtype on the way, and the unit roundoff of that dtype
        (:func:`numguard.numerics.tree_heights.num_stored_partials`).

    Notes
    -----
    ``(g + ((1 + u_s)**k - 1) (1 + g)) A``: each of the k stores rounds partial sums whose magnitudes total at most
    ``(1 + g) A`` before the first of them.
    """
    growth = growth_factor(height, unit_roundoff, num_terms)
    stored: Quantity = _compounded(num_stored_partials, storage_roundoff) if storage_roundoff else 0.0
    return (growth + stored * (1.0 + growth)) * absolute_total


def mean_bound(
    absolute_total: Quantity,
    total: Quantity,
    num_terms: Quantity,
    height: Quantity,
    unit_roundoff: float,
    *,
    num_stored_partials: Quantity = 0,
    storage_roundoff: float = 0.0,
) -> Quantity:
    """Return a bound on the error of a mean.

    Parameters
    ----------
    absolute_total, total
        A and s, the sums of absolute values and of values.
    num_terms
        n, by which the sum is divided; its conversion to the accumulator is allowed one rounding.
    height, unit_roundoff, num_stored_partials
        As in :func:`sum_bound`.
    storage_roundoff
        Unit roundoff of the dtype in which the sum is stored before the division, 0 where it is not.

    Notes
    -----
    ``(E + (2u + u_s)(|s| + E)) / n`` with the error E of the sum.
    """
    error = sum_bound(
        absolute_total,
        height,
        unit_roundoff,
        num_terms=num_terms,
        num_stored_partials=num_stored_partials,
        storage_roundoff=storage_roundoff,
    )
    size = total.abs() if isinstance(total, Tensor) else abs(total)
    return (error + (2.0 * unit_roundoff + storage_roundoff) * (size + error)) / num_terms


def dot_bound(
    absolute_total: Quantity,
    height: Quantity,
    unit_roundoff: float,
    *,
    num_terms: Quantity | None = None,
    smallest_normal: float = 2.0**-126,
) -> Quantity:
    """Return a bound on the error of an inner product.

    Parameters
    ----------
    absolute_total
        The sum of absolute products.
    height
        Roundings that a product passes through, its own included: at most ``num_terms``
        (:func:`numguard.numerics.tree_heights.contraction_height`).
    unit_roundoff
        u of the accumulator.
    num_terms
        n, where it is known: allows the bound ``n u`` for any order, with or without fused multiply-adds.
    smallest_normal
        Of the accumulator: what each product may lose where it underflows, even to zero (the 16-bit dot product
        instructions of AVX-512 flush subnormal products). 0 where nothing underflows.

    Notes
    -----
    ``n u sum|x y|`` without restriction on n: Jeannerod, Rump, SIAM J. Matrix Anal. Appl. 34, 2013.
    """
    terms = height if num_terms is None else num_terms
    growth = growth_factor(height, unit_roundoff, None if num_terms is None else num_terms + 1)
    return growth * absolute_total + terms * smallest_normal * (1.0 + growth)


def norm_bound(
    norm: Quantity,
    height: Quantity,
    unit_roundoff: float,
    *,
    num_terms: Quantity,
    smallest_normal: float = 2.0**-126,
    storage_roundoff: float = 0.0,
) -> Quantity:
    """Return a bound on the error of a Euclidean norm whose squares do not overflow.

    Parameters
    ----------
    norm
        The exact norm r.
    height
        Additions that a square passes through.
    unit_roundoff
        u of the accumulator.
    num_terms
        Number of squares.
    smallest_normal
        Of the accumulator: what each square may lose to underflow.
    storage_roundoff
        Unit roundoff of a dtype in which intermediate results are stored, 0 where they are not; four stores.

    Notes
    -----
    The sum of squares has a relative error of at most ``g = (h + 1) u`` beside the underflow
    ``w = n * smallest_normal``; the root turns these into ``g / (1 + sqrt(1 - g))`` and ``min(w / r, sqrt(w))``, and
    it and one more operation round once each.
    """
    growth = torch.as_tensor(growth_factor(height + 1, unit_roundoff, num_terms + 1), dtype=torch.float64)
    relative = growth / (1.0 + (1.0 - growth).clamp(min=0.0).sqrt())
    lost = torch.as_tensor(num_terms * smallest_normal, dtype=torch.float64)
    size = torch.as_tensor(norm, dtype=torch.float64)
    underflow = torch.minimum(lost / size.clamp(min=1e-300), lost.sqrt())
    accumulated = size * relative + underflow
    bound = accumulated + (2.0 * unit_roundoff + 4.0 * storage_roundoff) * (size + accumulated)
    return bound if isinstance(norm, Tensor) else float(bound)


def _compounded(count: Quantity, unit_roundoff: float) -> Quantity:
    """Return ``(1 + u)**count - 1``."""
    exponent = count * math.log1p(unit_roundoff)
    return torch.expm1(exponent) if isinstance(exponent, Tensor) else math.expm1(min(exponent, 700.0))
