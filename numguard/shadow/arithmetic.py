"""What a shadow needs to add, multiply and scatter in float64, whichever route does it.

A shadow never runs an operator of the family that it checks, and the confirmation takes yet another route. So the
shadow code of a check is written once against :class:`Arithmetic` and evaluated along different routes
(:mod:`numguard.shadow.routes`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

UNIT_ROUNDOFF = 2.0**-53  # of the float64 that every shadow is evaluated in


@dataclass(frozen=True, kw_only=True, slots=True)
class Arithmetic:
    """One route. All tensors are float64; dimensions are as in torch; nothing synchronises with the host.

    Parameters
    ----------
    name
        ``"numpy"``, ``"pairwise"``, ``"ones"`` or ``"reduction"``.
    families
        Families of checked operators that this route runs, so that it may not judge them.
    total
        ``total(x, dims, keepdim)``: sums over ``dims`` (a tuple; empty means no dimension).
    product
        ``product(a, b)``: matrix product ``[..., m, k] @ [..., k, n]`` with broadcasting over leading dimensions.
    maximum
        ``maximum(x, dims, keepdim)``: largest element, NaN propagates.
    prefix_totals
        ``prefix_totals(x, dim)``: cumulative sums.
    slot_totals
        ``slot_totals(slots, index, source)``: ``[slots, ...]``, the sums of the rows of ``source [n, ...]`` by slot
        number ``index [n]``.
    height
        ``height(n)``: additions that a term passes through in a sum of ``n`` terms: the error of ``total`` is at
        most ``height(n) * UNIT_ROUNDOFF`` times the sum of absolute values (Higham, ASNA 2nd ed., section 4.2).
    """

    name: str
    families: frozenset[str]
    total: Callable[[Tensor, tuple[int, ...], bool], Tensor]
    product: Callable[[Tensor, Tensor], Tensor]
    maximum: Callable[[Tensor, tuple[int, ...], bool], Tensor]
    prefix_totals: Callable[[Tensor, int], Tensor]
    slot_totals: Callable[[int, Tensor, Tensor], Tensor]
    height: Callable[[int], int]
