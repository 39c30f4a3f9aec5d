"""One call examined by itself: the pipeline of a guard without a run around it."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import torch
from torch.utils._python_dispatch import _disable_current_modes

from numguard.checks import REGISTRY, Check
from numguard.finding import Finding
from numguard.interception.attribution import Attribution
from numguard.interception.budget import OwnClock
from numguard.interception.eligibility import is_tracing
from numguard.interception.inspection import Inspector
from numguard.interception.mailbox import ImmediateMailbox
from numguard.interception.mode import ArmedMode
from numguard.interception.observation import Observation
from numguard.interception.sampling import Sampler
from numguard.interception.sites import SiteTable
from numguard.ranks import this_rank
from numguard.session import Guard
from numguard.session.casebook import Casebook
from numguard.session.check_table import table_of
from numguard.session.nesting import innermost
from numguard.session.options import is_switched_off
from numguard.shadow.call import OpCall, bind, overload_name, tensors_in
from numguard.shadow.verdict import Verdict

log = logging.getLogger("numguard")

_LIMIT: Final = float(1 << 33)  # multiply-adds of one shadow: who asks about one call waits for long rows, too


@cache
def checked_operators() -> Mapping[torch._ops.OpOverload, tuple[Check, ...]]:
    """Return every operator of this build that has a check, with its checks."""
    return table_of(REGISTRY.values())


def active_guard() -> Guard | None:
    """Return the guard that looks at this thread, or None outside every guarded block."""
    guard = innermost()
    return guard if isinstance(guard, Guard) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedCall:
    """One operator that ran inside a call, with the verdicts of its checks."""

    call: OpCall
    checks: tuple[str, ...]
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What became of one call.

    Parameters
    ----------
    result
        What the function returned.
    judged
        The operators inside that were judged, in their order.
    findings, new
        What was found, and the part of it that this inquiry had not found before.
    unjudged
        Operators that ran inside without a verdict, of those that compute floating-point numbers.
    reasons
        Why some of them, or parts of them, could not be judged although they have a check.
    """

    result: Any
    judged: tuple[JudgedCall, ...]
    findings: tuple[Finding, ...]
    new: tuple[Finding, ...]
    unjudged: tuple[str, ...]
    reasons: tuple[str, ...]


_asking: Final = threading.local()


def is_unwatched() -> bool:
    """Return whether a call is to run by itself: it is examined already, only traced, or numguard is switched off."""
    return bool(getattr(_asking, "depth", 0)) or is_tracing() or is_switched_off()


class Inquiry:
    """Examines every checked operator of the calls that it is asked about, in full and along two routes.

    Findings of the same defect are one finding, as in a guard; they carry no step.
    """

    def __init__(self) -> None:
        self._mailbox, self._casebook = ImmediateMailbox(), Casebook(this_rank(), {})
        self._verdicts: list[Verdict] = []
        self._entered: dict[str, tuple[Finding, bool]] = {}
        self._num_calls = 0
        sampler = Sampler(0)
        sampler.take_everything()
        self._inspector = Inspector(
            table=checked_operators(),
            attribution=Attribution({}),
            sites=SiteTable(),
            sampler=sampler,
            mailbox=self._mailbox,
            clock=OwnClock(),
            admits=lambda origin, check: True,
            report=self.observe,
            fault=self._fault,
            witness=self._verdicts.extend,
        )
        self._inspector.exhaustive_limit = _LIMIT

    @property
    def attribution(self) -> Attribution:
        """Tells where a call came from."""
        return self._inspector.attribution

    def ask(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Answer:
        """Call a function and examine every checked operator that runs inside it on this thread.

        Exceptions of the function pass through. Dispatch modes that are entered, a guard's among them, see nothing.
        """
        unjudged: list[str] = []
        judged: list[JudgedCall] = []
        inspector = self._inspector

        def observe(func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            checks = inspector.table.get(func, ())
            if not checks:
                output = func(*args, **kwargs)
                if not func.is_view and any(tensor.is_floating_point() for tensor in tensors_in(output)):
                    unjudged.append(overload_name(func))
                return output
            arguments = bind(func, args, kwargs)
            inspector.immediate = all(
                tensor.device.type == "cpu" for value in arguments.values() for tensor in tensors_in(value)
            )
            self._verdicts.clear()
            output = inspector.observe(func, args, kwargs)
            verdicts = tuple(self._verdicts)
            if verdicts:
                call = OpCall(overload=func, arguments=arguments, output=output)
                judged.append(JudgedCall(call=call, checks=tuple(c.name for c in checks), verdicts=verdicts))
            else:
                unjudged.append(overload_name(func))
            return output

        self._begin()
        _asking.depth = getattr(_asking, "depth", 0) + 1
        try:
            with _disable_current_modes(), ArmedMode({}, observe, everything=True):
                result = function(*args, **kwargs)
        finally:
            _asking.depth -= 1
            inspector.end_step()
        entered, self._entered = self._entered, {}
        return Answer(
            result=result,
            judged=tuple(judged),
            findings=tuple(finding for finding, _ in entered.values()),
            new=tuple(finding for finding, is_new in entered.values() if is_new),
            unjudged=tuple(dict.fromkeys(unjudged)),
            reasons=tuple(inspector.uncovered),
        )

    def _begin(self) -> None:
        self._inspector.begin_step(self._num_calls, exhaustive=True)
        self._inspector.uncovered.clear()
        self._entered = {}
        self._num_calls += 1

    def observe(self, observation: Observation) -> None:
        """Enter an observation."""
        entered = self._casebook.observe(observation)
        if entered is None:
            return
        finding = replace(entered[0], first_caught_step=None, last_clean_step=None, advice=_advice(observation))
        known = self._entered.get(finding.id)
        self._entered[finding.id] = finding, entered[1] or (known is not None and known[1])

    def _fault(self, stage: str, error: BaseException) -> None:
        log.debug("numguard: fault in %s", stage, exc_info=error)
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        what = f"numguard's {stage} is not working, so this call was not judged: {reason}"
        self.degrade(stage, what, "Please report this with the numguard and torch versions.")

    def degrade(self, stage: str, what: str, advice: str) -> None:
        """Enter a ``degraded`` finding, once for each stage and reason."""
        self.enter("degraded", (stage, what), message=what, advice=advice, evidence={"stage": stage})

    def enter(self, kind: str, key: tuple[object, ...], **fields: Any) -> None:
        """Enter a finding that no check of an operator made; one with the same key only counts."""
        entered = self._casebook.add(kind, key, **fields)
        if entered is not None:
            known = self._entered.get(entered[0].id)
            self._entered[entered[0].id] = entered[0], entered[1] or (known is not None and known[1])

    def take_new(self) -> tuple[Finding, ...]:
        """Return what was entered since the last call, or since anything was asked, and had not been found before."""
        return self.take()[1]

    def take(self) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
        """Return what was entered since the last call, and the part of it that had not been found before."""
        entered, self._entered = self._entered, {}
        every = tuple(finding for finding, _ in entered.values())
        return every, tuple(finding for finding, is_new in entered.values() if is_new)


def _advice(observation: Observation) -> str:
    if observation.kind == "corruption":
        return "The fault did not come back when the operator was run again: suspect the hardware of this machine."
    if observation.evidence.get("executions") == "reproduces":
        again = "It comes back when the operator is run again: suspect the build or the kernel, not the machine."
        return f"{again} {observation.advice}".strip()
    return observation.advice


def log_findings(findings: Sequence[Finding]) -> None:
    """Log findings as a guard does."""
    for finding in findings:
        log.log(logging.ERROR if finding.severity == "error" else logging.WARNING, "%s", finding)
