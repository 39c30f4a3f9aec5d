"""Rounding bounds of products by slot, with a number of factors that differs from slot to slot."""

import math

import torch
from torch import Tensor


def slot_product_bound(
    product: Tensor, above: Tensor, below: Tensor, num_factors: Tensor, unit_roundoff: float, limits: torch.finfo
) -> Tensor:
    """Return a bound on the error of products of ``num_factors`` factors, whatever the order.

    Parameters
    ----------
    product
        Exact products r, float64.
    above, below
        Sums of the positive and of the negative part of ``log2 |x|`` over the factors that are not zero.
    num_factors
        k, float64.
    unit_roundoff, limits
        Of the format that partial products are rounded to.

    Notes
    -----
    ``((1 + u)**k - 1) |r|`` (Higham, ASNA 2nd ed., lemma 3.1). Where a partial product may be subnormal, each loses at
    most the smallest normal number, which the others multiply by at most ``2**above``. Infinite where one may overflow.
    """
    relative = torch.expm1((num_factors * math.log1p(unit_roundoff)).clamp(max=700.0))
    tiny = float(limits.smallest_normal)
    lost = num_factors * tiny * (1.0 + relative) * torch.exp2(above.clamp(max=1000.0) + 1.0)
    bound = product.abs() * relative + torch.where(below < math.log2(tiny) + 1.0, lost, 0.0)
    magnitude = above + num_factors * math.log2(1.0 + unit_roundoff)
    return torch.where(magnitude < math.log2(float(limits.max)) - 1.0, bound, torch.inf)
