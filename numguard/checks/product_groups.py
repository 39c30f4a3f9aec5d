"""Products in groups: each group of rows has a matrix of its own, or each group of terms has a sum of its own."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from numguard.checks.gemm import Gemm
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import NotCovered


class Span(NamedTuple):
    """One group: its number, its first row or term, and one past its last."""

    number: int
    start: int
    end: int


class Groups(NamedTuple):
    """Matrix products that share a factor, split by offsets.

    Attributes
    ----------
    a, b
        Groups of rows: ``[M, K]`` and ``[G, K, N]``. Groups of terms: ``[M, K]`` and ``[K, N]``.
    ends
        ``[G]``, one past the last row, or term, of each group; the next group starts there.
    result
        Groups of rows: ``[M, N]``; rows after the last end hold whatever was in memory. Groups of terms:
        ``[G, M, N]``.
    """

    a: Tensor
    b: Tensor
    ends: Tensor
    result: Tensor

    @property
    def by_terms(self) -> bool:
        """True where the terms are grouped, not the rows."""
        return self.b.dim() == 2

    @property
    def num_members(self) -> int:
        """Rows, or terms, that may belong to a group."""
        return self.a.shape[1 if self.by_terms else 0]

    @property
    def shape(self) -> tuple[int, int]:
        """``(M, N)``."""
        return self.result.shape[-2], self.result.shape[-1]

    def operations(self, span: Span) -> float:
        """Return the operations of one group: the values and their masses."""
        rows, columns = self.shape
        others = rows if self.by_terms else self.a.shape[1]
        return 2.0 * others * columns * (span.end - span.start)

    def piece(self, span: Span) -> tuple[Gemm, Tensor]:
        """Return the product of one group and its results, ``[1, M, N]``, as views."""
        part = slice(span.start, span.end)
        if self.by_terms:
            a, b, result = self.a[:, part], self.b[part], self.result[span.number]
        else:
            a, b, result = self.a[part], self.b[span.number], self.result[part]
        return Gemm(a=a.unsqueeze(0), b=b.unsqueeze(0)), result.unsqueeze(0)


def groups_of(call: OpCall) -> Groups:
    """Return the groups of a call with offsets; where its columns are grouped, those of the transposed product."""
    a, b, result, ends = call["self"].detach(), call["mat2"].detach(), call.output.detach(), call["offs"]
    if a.dim() == 2:
        return Groups(a, b, ends, result)
    return Groups(b.t(), a.transpose(1, 2), ends, result.t())


def spans_of(groups: Groups, ends: Sequence[int]) -> list[Span]:
    """Return the groups that have results.

    Parameters
    ----------
    groups
        What the operator multiplied.
    ends
        What ``groups.ends`` holds.

    Raises
    ------
    NotCovered
        Where a group ends before it starts: its rows would belong to two groups.
    """
    starts = (0, *ends[:-1])
    if any(end < start for start, end in zip(starts, ends, strict=True)):
        raise NotCovered("groups whose offsets decrease")
    last = groups.num_members
    spans = [Span(number, min(s, last), min(e, last)) for number, (s, e) in enumerate(zip(starts, ends, strict=True))]
    return [span for span in spans if groups.by_terms or span.start < span.end]
