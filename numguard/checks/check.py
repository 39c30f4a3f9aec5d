"""What a check is: one operator family's answer to "is THIS call right?"."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import torch

from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Compared, NotCovered

LARGEST_ROW: Final = float(1 << 21)  # operations on a row that is held in memory: at most 60 MiB of float64


def spacing(count: int, cost: float, limit: float) -> int:
    """Return of how many rows one can be checked, when each of ``count`` costs ``cost`` of ``limit`` operations."""
    if count <= 0 or cost * count <= limit:
        return 1
    return -(-count // max(1, int(limit // max(cost, 1.0))))


def first_of(step: int, count: int, offset: float) -> int:
    """Return the row from which on one of ``step`` is taken: an offset in [0, 1) picks it."""
    return min(int(offset * step), count - 1)


def every(step: int, count: int, offset: float) -> slice:
    """Return one of ``step`` rows, from one on that an offset in [0, 1) picks."""
    return slice(None) if step == 1 else slice(first_of(step, count, offset), None, step)


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """How one call is to be checked.

    Parameters
    ----------
    arithmetic
        The route along which the shadow adds and multiplies.
    limit
        Multiply-adds, or elements read where there are none, that the shadow may spend on this call.
        ``math.inf`` asks for every element.
    offset
        A number in [0, 1) that picks which rows are checked when not all are; it differs from call to call, and
        the same offset gives the same rows, so that a confirmation looks at the same elements.
    most
        Operations that the smallest sample of a call may cost, because a row can be as long as the tensor.
    """

    arithmetic: Arithmetic
    limit: float = float("inf")
    offset: float = 0.0
    most: float = float("inf")

    @property
    def held(self) -> float:
        """Operations on rows that lie in memory as a whole at once, several times in float64."""
        return max(LARGEST_ROW, self.limit / 16)

    def afford(self, cost: float, *, in_pieces: bool = False) -> None:
        """Say whether the smallest sample of a call can be paid for.

        Parameters
        ----------
        cost
            Operations of that sample, not of the one that the limit buys.
        in_pieces
            Whether it is read piece by piece; else its rows lie in memory as a whole, several times in float64.

        Raises
        ------
        NotCovered
            If it costs more than ``most``, or fills more memory than a check may take.
        """
        if cost > min(self.most, float("inf") if in_pieces else self.held):
            raise NotCovered("one row of it costs more than a check may")

    def rows(self, count: int, cost: float) -> slice:
        """Return which of ``count`` rows to check, as an evenly spaced slice, when each costs ``cost`` operations.

        A slice is a view: sampling copies nothing and reads nothing back from a device. At least one row is
        taken. Every row is reached by some offset.
        """
        return every(spacing(count, cost, self.limit), count, self.offset)


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A call that a check must be silent about, or must fire on.

    Parameters
    ----------
    name
        Short, for the test's id.
    call
        ``call(dtype, generator)`` returns ``(overload, args, kwargs)``; all random numbers from ``generator``.
    corrupt
        For ``fires``: takes the operator's correct output and returns a wrong one (a new object; for in-place
        operators it may write into the tensors of ``args``, the second parameter). None for ``silent``.
    dtypes
        Dtypes in which the example runs.
    """

    name: str
    call: Callable[[torch.dtype, torch.Generator], tuple[torch._ops.OpOverload, tuple[Any, ...], dict[str, Any]]]
    corrupt: Callable[[Any, tuple[Any, ...]], Any] | None = None
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Examples(NamedTuple):
    """The examples of one check: calls that it must be silent about, and faults on which it must fire."""

    silent: tuple[Example, ...]
    fires: tuple[Example, ...]


def cost_per_element(argument: str, operations: float) -> Callable[[OpCall], float]:
    """Return the ``cost`` of a check that spends so many operations on each element of one argument."""

    def cost(call: OpCall) -> float:
        return operations * float(call[argument].numel())

    return cost


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check of a few operator overloads.

    Parameters
    ----------
    name
        What users type in ``checks=`` and ``skip=``: ``"sum"``, ``"softmax_backward"``.
    family
        Of operators, ``"sums"``: a route of :mod:`numguard.shadow.routes` that runs operators of the family may not
        judge them.
    ops
        Overload names with namespace, ``"aten::sum.dim_IntList"``.
    judge
        ``judge(call, captured, probe)`` returns the comparisons. It never synchronises with the host, never
        writes to the caller's tensors, never draws from torch's generators, and raises
        :class:`~numguard.shadow.comparison.NotCovered` with the reason where it cannot judge.
    capture
        For operators that overwrite what they read: ``capture(call, probe)`` runs before the operator and
        returns copies of what ``judge`` needs. ``call.output`` is None then.
    cost
        ``cost(call)`` estimates the multiply-adds of a complete shadow, for the sampler's first plan.
    phases
        Phases in which calls are checked, of ``"forward"``, ``"backward"`` and ``"optimizer"``; None for all.
    reads_sparse
        Whether it judges sparse tensors.
    adds_widely
        ``adds_widely(call)`` observes whether this very call adds in more digits than its result has, so that the
        strict bound holds for it; None where that cannot be seen. Only for checks whose strict bound is proved for
        any order of the additions. It may run the operator on private tensors.
    silent, fires
        Examples for the registry test.
    advice
        One sentence for the report: what a user does about a wrong result of this operator.
    """

    name: str
    family: str
    ops: tuple[str, ...]
    judge: Callable[[OpCall, Any, Probe], Sequence[Compared]]
    capture: Callable[[OpCall, Probe], Any] | None = None
    captures_always: bool = False
    cost: Callable[[OpCall], float]
    phases: frozenset[str] | None = None
    reads_sparse: bool = False
    adds_widely: Callable[[OpCall], bool | None] | None = None
    silent: tuple[Example, ...] = field(default=())
    fires: tuple[Example, ...] = field(default=())
    advice: str = ""


Judge = Callable[[OpCall, Any, Probe], Sequence[Compared]]


def checks_of(
    family: str,
    variants: Mapping[str, tuple[Judge, Sequence[str]]],
    examples: Mapping[str, Examples],
    *,
    cost: Callable[[OpCall], float],
    advice: str,
    **options: Any,
) -> tuple[Check, ...]:
    """Return the checks of a family that differ in their operators and in who judges them.

    Parameters
    ----------
    family, cost, advice
        Of every check.
    variants
        For each name the judge, and the overloads without their namespace, ``"sum.dim_IntList"``.
    examples
        By name.
    **options
        Further parameters of :class:`Check`, the same for all.
    """
    return tuple(
        Check(
            name=name,
            family=family,
            ops=tuple(f"aten::{op}" for op in ops),
            judge=judge,
            cost=cost,
            advice=advice,
            silent=examples[name].silent,
            fires=examples[name].fires,
            **options,
        )
        for name, (judge, ops) in variants.items()
    )
