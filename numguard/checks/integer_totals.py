"""Exact sums of integers, modulo the range of int64, from exact float64 sums of limbs."""

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

from numguard.shadow.comparison import NotCovered

LIMB_BITS: Final = 22
LIMBS: Final = 3
MOST_TERMS: Final = 1 << (53 - LIMB_BITS)


def limbs_of(x: Tensor) -> Iterator[Tensor]:
    """Yield the float64 limbs of integers, least significant first; the last one carries the sign."""
    if x.element_size() < 4:
        yield x.to(torch.float64)
        return
    wide = x.to(torch.int64)
    for limb in range(LIMBS - 1):
        yield ((wide >> LIMB_BITS * limb) & ((1 << LIMB_BITS) - 1)).to(torch.float64)
    yield (wide >> LIMB_BITS * (LIMBS - 1)).to(torch.float64)


def joined(totals: Sequence[Tensor], num_terms: int) -> Tensor:
    """Return sums of integers modulo ``2**64`` as int64, from the sums of their limbs.

    Parameters
    ----------
    totals
        Float64 sums of what :func:`limbs_of` yields, exact in any order of additions.
    num_terms
        The most terms that one of the sums has.

    Raises
    ------
    NotCovered
        Where a sum of limbs may have passed ``2**53``.
    """
    if num_terms >= MOST_TERMS:
        raise NotCovered("integer sums of 2**31 terms and more")
    total = totals[0].to(torch.int64)
    for number, part in enumerate(totals[1:], start=1):
        total = total + (part.to(torch.int64) << LIMB_BITS * number)
    return total
