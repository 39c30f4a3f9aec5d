"""Rounding bounds of sums by slot: scatter, index and embedding gradients, as pure formulas on float64 tensors."""

from typing import Final

import torch
from torch import Tensor

SCALING: Final = 3  # rounding the factor, multiplying by it, and the division behind a frequency


def slot_bound(
    mass: Tensor, num_hits: Tensor, unit_roundoff: float, smallest_normal: float, largest: float, *, scaled: bool
) -> Tensor:
    """Return E of ``base + scale * sum of the hits`` for every slot, before output rounding.

    Parameters
    ----------
    mass
        ``|base| + sum |scale * hit|``, float64.
    num_hits
        Addends of the slot beside the base, float64, broadcastable to ``mass``.
    unit_roundoff, smallest_normal, largest
        Of the accumulator: float32 for the documented accumulation, the output dtype where every addition is stored.
    scaled
        True where the hits are multiplied by a factor first.

    Notes
    -----
    ``(hits + 1) u mass`` for any order (Jeannerod and Rump, 2013: ``(n - 1) u`` for n addends); a stored product
    adds three roundings. Without a hit nothing is added and E is zero. Infinite where a partial sum may overflow.
    """
    roundings = num_hits + 1.0 + (SCALING if scaled else 0.0)
    bound = roundings * (unit_roundoff * mass + (smallest_normal if scaled else 0.0))
    return torch.where(mass < largest, torch.where(num_hits > 0, bound, 0.0), torch.inf)
