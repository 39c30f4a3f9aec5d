"""Sites: the places in a training step at which a checked operator is called, and what is known of each."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from numguard.interception.attribution import Origin
from numguard.shadow.call import overload_name, tensors_in

FIRST_VISITS = 3  # a new site is checked on its first calls before anything else
CONFIDENCE = 0.95


@dataclass(slots=True)
class Site:
    """One place, operator, dtype and shape class, with its tallies. Counts are of calls seen in armed steps."""

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
    was_wanted: bool = False
    seconds: float = 0.0
    worst_ratio: float = 0.0
    worst_strict_ratio: float = 0.0
    mean_ratio: float = 0.0

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


def _shape_class(tensors: list[Tensor]) -> tuple[str, str]:
    """Return dtype and a class of shapes: rank, size by powers of two, layout. Ragged batches share a class."""
    if not tensors:
        return "", ""
    first = tensors[0]
    size = first.numel()
    layout = "" if first.is_contiguous() else ",strided"
    return str(first.dtype)[6:], f"{first.dim()}d,2^{math.frexp(size)[1] if size else 0}{layout}"


class SiteTable:
    """Every site of a run by what identifies it."""

    def __init__(self) -> None:
        self._sites: dict[tuple[object, ...], Site] = {}

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
    ) -> Site:
        """Return the site of a call, new or known, with the call counted."""
        tensors = [tensor for value in (*args[:2], *kwargs.values()) for tensor in tensors_in(value)[:1]]
        dtype, shape = _shape_class(tensors)
        key = (func, origin.phase, origin.module, origin.location, dtype, shape)
        site = self._sites.get(key)
        if site is None:
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
        return site

    def end_step(self) -> None:
        """Update how often each site is called per armed step, where it was looked at."""
        for site in self._sites.values():
            calls, site.calls_in_step = site.calls_in_step, 0
            wanted, site.was_wanted = site.was_wanted, False
            if calls:
                site.calls_per_step = calls if site.calls_per_step == 0.0 else 0.7 * site.calls_per_step + 0.3 * calls
            elif wanted:  # it did not come: after a few times it is no longer waited for
                site.calls_per_step = 0.5 * site.calls_per_step if site.calls_per_step > 0.1 else 0.0
