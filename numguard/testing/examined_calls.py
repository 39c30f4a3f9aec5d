"""Runs code and judges every operator call in it that a check covers, there and then."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from numguard.checks import REGISTRY
from numguard.checks.check import Check, Probe
from numguard.checks.examination import examine
from numguard.interception.eligibility import reason_to_skip
from numguard.interception.mode import ArmedMode
from numguard.session.check_table import table_of
from numguard.shadow.call import OpCall, bind, mutated_arguments, tensors_in
from numguard.shadow.comparison import Compared, NotCovered, output_at
from numguard.shadow.routes import routes_for
from numguard.shadow.verdict import Verdict
from numguard.testing.discrepancy import Discrepancy
from numguard.testing.sensitivity import condition_number_at, widened

_BASIS: Final = {
    "proved": "holds for every order of additions",
    "calibrated": "for the accumulation that this build was observed to use",
    "assumed": "for an assumed accumulation",
}


@dataclass(slots=True)
class Examined:
    """What came out of it.

    Parameters
    ----------
    num_calls
        Calls that were judged.
    not_covered
        How often which check could not judge a call, with the reason.
    discrepancies
        Wrong results, confirmed by a second shadow, in the order of the calls.
    """

    num_calls: int = 0
    not_covered: Counter[str] = field(default_factory=Counter)
    discrepancies: list[Discrepancy] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Suspect:
    """A discrepancy with what its condition number is computed from, where it can be: below the mode it cannot."""

    discrepancy: Discrepancy
    overload: torch._ops.OpOverload
    arguments: Any
    output: int | None
    element: int

    def explained(self) -> Discrepancy:
        if self.output is None:
            return self.discrepancy
        output, exact = self.output, self.discrepancy.exact
        number = condition_number_at(
            self.overload, self.arguments, lambda result: tensors_in(result)[output], self.element, exact
        )
        return replace(self.discrepancy, condition_number=number)


def examine_calls(run: Callable[[], object]) -> Examined:
    """Run code with every call of a checked operator judged in full, forward and backward.

    Parameters
    ----------
    run
        The code; its result is thrown away, its exceptions pass through.
    """
    examined = Examined()
    suspects: list[_Suspect] = []
    # What only an optimizer's steps are judged by does not hold for the same operators elsewhere.
    table = table_of(check for check in REGISTRY.values() if check.phases is None)

    def observe(overload: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return _examined_call(examined, suspects, table[overload], overload, args, kwargs)

    with ArmedMode(table, observe):
        run()
    examined.discrepancies += [suspect.explained() for suspect in suspects]
    return examined


def _examined_call(
    examined: Examined,
    suspects: list[_Suspect],
    checks: Sequence[Check],
    overload: torch._ops.OpOverload,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    reason = reason_to_skip(args, kwargs)
    if reason is not None:
        examined.not_covered[f"{checks[0].name}: {reason}"] += 1
        return overload(*args, **kwargs)
    call = OpCall(overload=overload, arguments=bind(overload, args, kwargs))
    device = next((tensor.device.type for value in call.arguments.values() for tensor in tensors_in(value)), "cpu")
    captures: list[tuple[Check, Probe, Probe, Any]] = []
    for check in checks:
        first, second = (Probe(arithmetic=route) for route in routes_for(check.family, device))
        try:
            with torch.no_grad():
                captures.append((check, first, second, check.capture(call, first) if check.capture else None))
        except NotCovered as given:
            examined.not_covered[f"{check.name}: {given}"] += 1
    output = overload(*args, **kwargs)
    done = OpCall(overload=overload, arguments=call.arguments, output=output)
    for check, first, second, captured in captures:
        try:
            judged = examine(check, done, captured, first)
            examined.num_calls += bool(judged)
            if any(verdict.wrong for _, verdict in judged):
                again = examine(check, done, captured, second)
                suspects += [
                    _suspect(check, done, comparison, verdict, (args, kwargs))
                    for (comparison, verdict), (_, other) in zip(judged, again, strict=True)
                    if verdict.wrong and other.wrong
                ]
        except NotCovered as given:
            examined.not_covered[f"{check.name}: {given}"] += 1
    return output


def _suspect(
    check: Check, call: OpCall, comparison: Compared, verdict: Verdict, arguments: tuple[Any, Mapping[str, Any]]
) -> _Suspect:
    element = int(verdict.worst_index)
    place = _place(call, comparison.computed, element)
    name = output_at(comparison.output, comparison.segments, element)
    discrepancy = Discrepancy(
        what=call.op if name == "result" else f"{call.op} ({name})",
        computed=comparison.computed.detach().reshape(-1)[element].clone(),
        exact=verdict.worst_exact,
        error_bound=verdict.worst_bound,
        index=None if place is None else place[1],
        num_wrong=int(verdict.num_wrong),
        num_elements=int(verdict.num_elements),
        condition_number=None,
        basis=f"check {check.name!r}, {_BASIS[comparison.model]}",
    )
    if place is None or mutated_arguments(call.overload):
        return _Suspect(discrepancy=discrepancy, overload=call.overload, arguments=None, output=None, element=0)
    output, index = place
    shape = tensors_in(call.output)[output].shape
    return _Suspect(
        discrepancy=discrepancy,
        overload=call.overload,
        arguments=widened((arguments[0], dict(arguments[1])))[0],  # copies: the caller may write to his tensors
        output=output,
        element=int(np.ravel_multi_index(index, shape)) if shape else 0,
    )


def _place(call: OpCall, compared: Tensor, element: int) -> tuple[int, tuple[int, ...]] | None:
    """Return which result an element of what was compared lies in and where; None if it is a copy in other order."""
    for number, result in enumerate(tensors_in(call.output)):
        if result.dtype != compared.dtype or result.numel() != compared.numel():
            continue
        if result.untyped_storage().data_ptr() == compared.untyped_storage().data_ptr():
            offset = _offsets(compared).reshape(-1)[element]
            return number, _index_of(int((_offsets(result) == offset).reshape(-1).double().argmax()), result.shape)
        if torch.allclose(result.reshape(-1), compared.reshape(-1), rtol=0.0, atol=0.0, equal_nan=True):
            return number, _index_of(element, result.shape)
    return None


def _index_of(element: int, shape: torch.Size) -> tuple[int, ...]:
    return tuple(int(place) for place in np.unravel_index(element, shape)) if shape else ()


def _offsets(x: Tensor) -> Tensor:
    """Return the place of every element in the storage, in the shape of ``x``."""
    numbers = torch.arange(x.untyped_storage().nbytes() // x.element_size())
    return numbers.as_strided(x.shape, x.stride(), x.storage_offset())
