"""How a build forms a sum: the summation tree and the accumulator, read from outside by swamping tests."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from numguard.numerics.formats import format_of

Total = Callable[[Tensor], Tensor]

#: A unit and a number that swamps any count of it in every accumulator up to float64, both in the format.
_SCALES: Final[dict[torch.dtype, tuple[float, float]]] = {
    torch.float64: (1.0, 2.0**900),
    torch.float32: (1.0, 2.0**100),
    torch.bfloat16: (1.0, 2.0**100),
    torch.float16: (2.0**-24, 2.0**15),
}
_FORMATS: Final = {53: "float64", 24: "float32", 11: "float16", 8: "bfloat16"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Accumulation:
    """How ``num_terms`` terms were added.

    Parameters
    ----------
    num_terms
        Terms of the sum that was observed.
    height
        Most additions that a term passes through; None where the order is not a tree of additions, as in an exact or
        compensated sum.
    precision
        Digits of the accumulator: 8, 11, 24 or 53; what lies between is a mixture.
    """

    num_terms: int
    height: int | None
    precision: int

    @property
    def accumulator(self) -> str:
        """Name of the format with that precision."""
        if 24 < self.precision < 53:
            return "float32 or wider"
        return _FORMATS.get(self.precision, f"{self.precision} digits")

    @property
    def order(self) -> str:
        """The order in a word."""
        if self.height is None:
            return "in no tree of additions"
        if self.height >= self.num_terms - 1:
            return "one after the other"
        return f"in a tree of height {self.height}"


def observe_accumulation(total: Total, num_terms: int, dtype: torch.dtype) -> Accumulation:
    """Return how a function adds the elements of a vector.

    Parameters
    ----------
    total
        ``total(x)`` returns the sum of ``x [num_terms]`` as a tensor of one element. It is called about
        ``num_terms`` times the number of levels of its tree.
    num_terms
        At least 3 and at most 200, so that counts are exact in every format.
    dtype
        Of ``x``: float64, float32, bfloat16 or float16.

    Raises
    ------
    ValueError
        For a number of terms outside of that.

    Notes
    -----
    Where one term is M, another -M and all others 1, with M large enough to swamp every count, the result is the
    number of terms outside of the smallest subtree that holds both: the swamping test of FPRev (arXiv 2411.00442).
    The sizes of the subtrees that hold term 0 and term j, for all j, give the path from term 0 to the root and the
    terms that join at each node; the same is done in each of those. The precision is that of the coarsest of a few
    sums ``1 + 2**-k - 1``.
    """
    if not 3 <= num_terms <= 200:
        raise ValueError(f"num_terms={num_terms}: give 3 to 200 terms, so that counts are exact in every format")
    height = _height(_Swamping(total, num_terms, dtype), list(range(num_terms)))
    return Accumulation(num_terms=num_terms, height=height, precision=_precision(total, num_terms, dtype))


class _Swamping:
    """Sizes of the smallest subtrees that hold two terms."""

    def __init__(self, total: Total, num_terms: int, dtype: torch.dtype) -> None:
        self._total, self.num_terms, self._dtype = total, num_terms, dtype
        self._unit, self._large = _SCALES[dtype]

    def size(self, first: int, second: int) -> int | None:
        """Return the number of terms in the smallest subtree that holds both; None where nothing is swamped."""
        x = torch.full((self.num_terms,), self._unit, dtype=self._dtype)
        x[first], x[second] = self._large, -self._large
        left = float(self._total(x).double().reshape(())) / self._unit
        size = self.num_terms - round(left)
        return size if 2 <= size <= self.num_terms else None


def _height(swamping: _Swamping, terms: list[int]) -> int | None:
    """Return the height of the subtree of some terms, all of which meet below any other."""
    if len(terms) == 1:
        return 0
    joining: dict[int, list[int]] = {}
    for other in terms[1:]:
        size = swamping.size(terms[0], other)
        if size is None:
            return None
        joining.setdefault(size, []).append(other)
    height, count = 0, 1
    for size in sorted(joining):
        count += len(joining[size])
        if count != size:
            return None  # what is not swamped does not come from a tree of additions
        below = _height(swamping, joining[size])
        if below is None:
            return None
        height = max(height, below) + 1
    return height


def _precision(total: Total, num_terms: int, dtype: torch.dtype) -> int:
    """Return the digits of the accumulator; at most those that the format's own range lets one see."""
    precision, last = 53, num_terms - 1
    limit = min(53, 1 - round(math.log2(format_of(dtype).smallest_subnormal)))
    for one, small, minus in ((0, 1, last), (1, 0, last), (0, last, last // 2), (last, last - 1, 0)):
        digits = 1
        for exponent in range(1, limit):
            x = torch.zeros(num_terms, dtype=dtype)
            x[one], x[small], x[minus] = 1.0, 2.0**-exponent, -1.0
            if float(total(x).double().reshape(())) != 2.0**-exponent:
                break
            digits = exponent + 1
        precision = min(precision, digits)
    return precision
