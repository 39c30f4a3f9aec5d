"""B of every element of a result, as numguard's own check states it, in the order of the kernel's results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from numguard.checks import Check, Probe, checks_for
from numguard.numerics.error_bounds.judgement import SHADOW_ROUNDINGS, UNIT_ROUNDOFF, alarm_threshold
from numguard.shadow.call import OpCall, overload_name
from numguard.shadow.comparison import Comparison, NotCovered
from numguard.shadow.routes import NUMPY
from numguard.testing import KernelCall

Bounds = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

_PROBE: Final = Probe(arithmetic=NUMPY)
_BITS: Final = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _tags(dtype: torch.dtype, first: int, count: int) -> Tensor:
    """Return different finite positive numbers of a dtype, by their bits: neighbours from the smallest normal one."""
    integer = _BITS[torch.finfo(dtype).bits // 8]
    smallest = int(torch.tensor([torch.finfo(dtype).smallest_normal], dtype=dtype).view(integer).item())
    return torch.arange(smallest + first, smallest + first + count, dtype=integer).view(dtype)


def _judge(check: Check, call: KernelCall) -> list[Comparison]:
    before = OpCall(overload=call.overload, arguments=call.before)
    captured: Any = check.capture(before, _PROBE) if check.capture else None
    after = OpCall(overload=call.overload, arguments=call.arguments, output=call.output)
    return list(check.judge(after, captured, _PROBE))


def _places(check: Check, call: KernelCall) -> list[Places | None]:
    """Return, for every comparison, the flat places of its elements among all results laid end to end.

    None where a comparison holds no elements of results but says whether they keep a rule.

    The results are overwritten for a moment by numbers that tell where they stand.
    """
    clean, first = [result.clone() for result in call.results], 0
    known: dict[float, int] = {}
    for result in call.results:
        tags = _tags(result.dtype, first, result.numel())
        known.update(zip(tags.double().tolist(), range(first, first + result.numel()), strict=True))
        result.copy_(tags.view(result.shape))
        first += result.numel()
    try:
        # What is compared may be a view of the result: read it before the result is put back.
        tags_of = [comparison.computed.double().reshape(-1).tolist() for comparison in _judge(check, call)]
    finally:
        for result, values in zip(call.results, clean, strict=True):
            result.copy_(values)
    return [
        np.array([known[tag] for tag in tags], dtype=np.int64) if known.keys() >= set(tags) else None
        for tags in tags_of
    ]


def _flat(comparison: Comparison, bound: Tensor) -> Bounds:
    values: Bounds = bound.expand(comparison.computed.shape).reshape(-1).numpy()
    return values


def _bound(comparison: Comparison, forward_bound: Tensor | float) -> Bounds:
    dtype, exact = comparison.computed.dtype, comparison.exact
    bound = alarm_threshold(exact, forward_bound, dtype, comparison.shadow_error)
    return _flat(comparison, torch.where(exact.abs() + bound < torch.finfo(dtype).max, bound, torch.inf))


def _shadow_share(comparison: Comparison) -> Bounds:
    """Return what B allows for the error of the shadow."""
    own = SHADOW_ROUNDINGS * comparison.exact.abs() + comparison.shadow_error
    return _flat(comparison, own * (1.0 + UNIT_ROUNDOFF[comparison.computed.dtype]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """B of every element of every result: NaN where no check looks, infinite where nothing can be said.

    Parameters
    ----------
    alarm
        What a result may be off by before the guard has to report it. Where additions are repeated bit for bit, a
        result is right within the *strict* bound or with the repeated bits, so it is the strict one there; where
        elements are only copied it is zero.
    lenient
        What the shipped kernel may be off by: the permissive bound everywhere.
    shadow
        The part of either that allows for the error of the shadow, 11 bits coarser than v: what lies within it of B
        may be judged either way. It matters in float64 only.
    """

    alarm: list[Bounds]
    lenient: list[Bounds]
    shadow: list[Bounds]

    def judged(self) -> list[int]:
        """Return the positions of the results that some check looks at."""
        return [position for position, bound in enumerate(self.alarm) if not np.isnan(bound).all()]


def thresholds_of(call: KernelCall) -> Thresholds:
    """Return B of a call's results, by every check of its operator."""
    sizes = [result.numel() for result in call.results]
    alarm, lenient, shadow = (np.full(sum(sizes), start) for start in (np.nan, np.nan, 0.0))
    for check in checks_for(overload_name(call.overload)):
        try:
            comparisons = _judge(check, call)
        except NotCovered:
            continue
        places = _places(check, call)
        placed = [(made, where) for made, where in zip(comparisons, places, strict=True) if where is not None]
        _enter(alarm, lenient, shadow, placed)
    cuts = np.cumsum(sizes)[:-1]
    return Thresholds(alarm=np.split(alarm, cuts), lenient=np.split(lenient, cuts), shadow=np.split(shadow, cuts))


def _enter(alarm: Bounds, lenient: Bounds, shadow: Bounds, placed: Sequence[tuple[Comparison, Places]]) -> None:
    strict = np.full_like(alarm, np.nan)
    for comparison, where in placed:
        if comparison.rounds_output:
            permissive = comparison.strict if comparison.permissive is None else comparison.permissive
            alarm[where] = np.fmin(alarm[where], _bound(comparison, permissive))
            strict[where] = np.fmin(strict[where], _bound(comparison, comparison.strict))
            shadow[where] = np.fmax(shadow[where], _shadow_share(comparison))
    lenient[:] = np.fmin(lenient, alarm)
    for comparison, where in placed:
        if not comparison.rounds_output:
            alarm[where] = np.where(np.isnan(strict[where]), 0.0, strict[where])
            lenient[where] = np.fmax(lenient[where], 0.0)
