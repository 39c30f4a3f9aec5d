"""Sites: the places in a training step at which a checked operator is called, and what is known of each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from numguard.interception.attribution import Origin
from numguard.shadow.call import first_tensor, overload_name

Place = int  # an operator in one part of the step, in a form whose hash costs nothing
FIRST_VISITS = 3  # a new site is checked on its first calls before anything else
CONFIDENCE = 0.95

_NOTHING: Final[Mapping[Place, int]] = MappingProxyType({})


@dataclass(slots=True)
class Site:
    """One place, operator, dtype and shape class, with its tallies. Counts are of calls in armed steps.

    ``turns`` says which calls of the operator were this site's when they were last told apart: the first is 0.
    """

    func: torch._ops.OpOverload
    op: str
    checks: tuple[str, ...]
    origin: Origin
    dtype: str
    shape: str
    in_update: bool = False
    num_seen: int = 0
    num_checked: int = 0
    num_excused: int = 0
    num_failed: int = 0
    num_elements: int = 0
    last_checked_step: int = -1
    last_clean_step: int | None = None
    calls_in_step: int = 0
    calls_per_step: float = 0.0
    turns: tuple[int, ...] = ()
    turns_in_step: list[int] = field(default_factory=list)
    was_wanted: bool = False
    seconds: float = 0.0
    worst_ratio: float = 0.0
    worst_strict_ratio: float = 0.0
    mean_ratio: float = 0.0

    @property
    def place(self) -> Place:
        """Its operator and part of the step, within which calls are counted."""
        return place_of(self.func, self.in_update)

    @property
    def detectable_rate(self) -> float:
        """Smallest share of corrupted calls that would have been caught by now with 95 % probability."""
        if self.num_checked == 0:
            return 1.0
        return float(1.0 - (1.0 - CONFIDENCE) ** (1.0 / self.num_checked))

    @property
    def is_fresh(self) -> bool:
        """Whether it has not had its first checks; a call that no check could judge is not waited for again."""
        return self.num_checked + self.num_excused < FIRST_VISITS

    def record(self, seconds: float, *, judged: bool) -> None:
        """Count one check and what it cost, or an attempt that ended without a verdict."""
        if judged:
            self.num_checked += 1
        else:
            self.num_excused += 1
        self.seconds = seconds if self.seconds == 0.0 else 0.8 * self.seconds + 0.2 * seconds


def place_of(func: torch._ops.OpOverload, in_update: bool) -> Place:
    """Return what stands for an operator, which lives as long as the process, in or outside of the optimizer's step."""
    return 2 * id(func) + in_update


Shape = tuple[torch.dtype, int, int, bool] | None  # dtype, rank, bits of the size, whether it is contiguous


def _shape_of(first: Tensor | None) -> Shape:
    """Return a class of shapes: ragged batches share one."""
    if first is None:
        return None
    return first.dtype, first.dim(), first.numel().bit_length(), first.is_contiguous()


def _in_words(shape: Shape) -> tuple[str, str]:
    """Return dtype and the rest of a class of shapes as coverage writes them."""
    if shape is None:
        return "", ""
    dtype, rank, bits, is_contiguous = shape
    return str(dtype)[6:], f"{rank}d,2^{bits}{'' if is_contiguous else ',strided'}"


class SiteTable:
    """Every site of a run by what identifies it."""

    def __init__(self) -> None:
        self._sites: dict[tuple[object, ...], Site] = {}
        self._num_calls: dict[Place, int] = {}  # in a step, when the calls of an operator were last told apart

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites.values())

    def __len__(self) -> int:
        return len(self._sites)

    def at(
        self,
        func: torch._ops.OpOverload,
        checks: tuple[str, ...],
        origin: Origin,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        in_update: bool = False,
        turn: int | None = None,
    ) -> Site:
        """Return the site of a call, new or known, with the call counted.

        Parameters
        ----------
        turn
            Which call of its operator it is in this part of the step; None where nobody counts.
        """
        given = _shape_of(first_tensor((*args[:2], *kwargs.values())))
        key = (func, origin.phase, origin.module, origin.location, given)
        site = self._sites.get(key)
        if site is None:
            dtype, shape = _in_words(given)
            site = Site(
                func=func,
                op=overload_name(func),
                checks=checks,
                origin=origin,
                dtype=dtype,
                shape=shape,
                in_update=in_update,
            )
            self._sites[key] = site
        site.num_seen += 1
        site.calls_in_step += 1
        if turn is not None:
            site.turns_in_step.append(turn)
        return site

    def told_apart(self) -> frozenset[Place]:
        """Return the operators of whose calls it is known to which sites they belong, if to any."""
        return frozenset(self._num_calls)

    def forget_siteless(self) -> None:
        """Forget the operators whose calls belonged to no site: they may by now."""
        places = {site.place for site in self._sites.values()}
        self._num_calls = {place: count for place, count in self._num_calls.items() if place in places}

    def end_step(self, told_apart: Mapping[Place, int] = _NOTHING, passed_over: Mapping[Place, int] = _NOTHING) -> None:
        """Update how often each site is called per armed step, where it was looked at.

        Parameters
        ----------
        told_apart
            Operators of which every call was looked at, and how many calls there were.
        passed_over
            Operators of which only single calls were looked at. As many as when they were last told apart: then these
            were the same calls. Else they have to be told apart anew.
        """
        self._num_calls.update(told_apart)
        changed = {place for place, count in passed_over.items() if self._num_calls.get(place) != count}
        for place in changed:
            self._num_calls.pop(place, None)
        for site in self._sites.values():
            calls, site.calls_in_step = site.calls_in_step, 0
            wanted, site.was_wanted = site.was_wanted, False
            turns, site.turns_in_step = site.turns_in_step, []
            if site.place in passed_over:
                site.turns = () if site.place in changed else site.turns
                site.num_seen += max(0, len(site.turns) - calls)
                continue
            if site.place in told_apart:
                site.turns = tuple(turns)
            if calls:
                site.calls_per_step = calls if site.calls_per_step == 0.0 else 0.7 * site.calls_per_step + 0.3 * calls
            elif wanted:  # it did not come: after a few times it is no longer waited for
                site.calls_per_step = 0.5 * site.calls_per_step if site.calls_per_step > 0.1 else 0.0
