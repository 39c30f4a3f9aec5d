"""The inspection of one call: capture, run, judge along one route, confirm along another, hand on."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from numguard.backends.selection import disengage, engage
from numguard.checks.check import Check, Probe
from numguard.interception.attribution import Attribution, Origin
from numguard.interception.budget import OwnClock
from numguard.interception.dossier import Inspection, Judged, without_inputs
from numguard.interception.eligibility import reason_to_skip
from numguard.interception.mailbox import Mailbox
from numguard.interception.nonfinite_origin import OriginSearch
from numguard.interception.observation import Observation
from numguard.interception.sampling import Sampler
from numguard.interception.sites import Place, Site, SiteTable, place_of
from numguard.interception.suspicion import Jury
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall, bind, first_tensor, is_repeatable
from numguard.shadow.comparison import Compared, NotCovered
from numguard.shadow.routes import routes_for
from numguard.shadow.verdict import WIDTH, Verdict, evaluate, evaluate_on_host

log = logging.getLogger(__name__)

_UPDATES = frozenset({"fused_optimizers", "foreach_updates", "pointwise"})  # families without a backward
EXHAUSTIVE_LIMIT = float(1 << 30)  # multiply-adds of one shadow when every call is checked
SECONDS_PER_OPERATION = 1e-8  # of a shadow that reads elements, on one core; sets how much of a call a quota buys
LEAST_OPERATIONS, MOST_OPERATIONS = float(1 << 12), float(1 << 22)
_AS_IT_IS = nullcontext()
# To find out that a call is wanted and bind its arguments; asking a clock would cost a part of that. Short operators of
# an unfused update leave more of Python in the caches: measured by how much longer armed steps were.
WANTED_SECONDS, WANTED_IN_UPDATE_SECONDS = 40e-6, 25e-6
LEAST_ROW = float(1 << 18)  # operations of a sample that is tried however little is left of the quota


class Inspector:
    """Checks the calls that the sampler wants, and reports what fails.

    Parameters
    ----------
    table
        Checks by overload.
    admits
        Tells from the origin of a call whether the user wants its module checked.
    report
        Takes observations.
    fault
        Takes ``(stage, error)`` when numguard itself fails: training goes on.
    masses
        Takes a judged optimizer call and its comparisons, for the lost updates; may be None.
    witness
        Takes the verdicts on every check, sound ones too; may be None.
    """

    def __init__(
        self,
        *,
        table: Mapping[torch._ops.OpOverload, tuple[Check, ...]],
        attribution: Attribution,
        sites: SiteTable,
        sampler: Sampler,
        mailbox: Mailbox,
        clock: OwnClock,
        admits: Callable[[Origin, str], bool],
        report: Callable[[Observation], None],
        fault: Callable[[str, BaseException], None],
        masses: Callable[[OpCall, Any, Sequence[Compared], Origin], None] | None = None,
        origins: OriginSearch | None = None,
        witness: Callable[[Sequence[Verdict]], None] | None = None,
    ) -> None:
        self.table, self.attribution, self._sites, self._sampler = table, attribution, sites, sampler
        self._mailbox, self._clock, self._admits = mailbox, clock, admits
        self._report, self._fault, self._masses = report, fault, masses
        self._jury, self._witness = Jury(report), witness
        self.origins = origins
        self.searching = False
        self.exhaustive = False
        self._private = False
        self.immediate = True
        self.exhaustive_limit = EXHAUSTIVE_LIMIT
        self.device_type: str | None = None
        self.in_update = False
        self.step = 0
        self.num_checks = 0
        self.num_judged = 0
        self.num_looked_at = 0
        self.check_seconds = 0.0
        self.uncovered: Counter[str] = Counter()
        self._order = 0
        self._turns: dict[Place, int] = {}
        self._captures: dict[torch._ops.OpOverload, bool] = {}
        self._limit = LEAST_OPERATIONS

    def begin_step(self, step: int, *, exhaustive: bool) -> None:
        """Prepare for an armed step; an exhaustive one also searches for the origin of a non-finite value."""
        engage()  # a compiler that finishes does not change routes half-way
        self.step, self.exhaustive, self.searching = step, exhaustive, exhaustive
        self.num_looked_at, self.check_seconds = 0, 0.0
        self.in_update = False
        self._limit = _rounded(self._sampler.seconds_per_check / SECONDS_PER_OPERATION)
        self._turns.clear()
        self.attribution.start_step()
        if exhaustive and self.origins is not None:
            self.origins.start_step()

    def end_step(self) -> None:
        """Note that the armed step is over."""
        disengage()

    def counts(self) -> dict[Place, int]:
        """Return how many calls of each operator this armed step has met so far."""
        return {place: last + 1 for place, last in self._turns.items()}

    def begin_private(self) -> Callable[[], None]:
        """Check every call until the returned function is called: for numguard's own planted call, between steps."""
        state = (self.exhaustive, self.searching)
        self.exhaustive, self.searching, self._private = True, False, True
        resume = self._sampler.take_everything()

        def restore() -> None:
            (self.exhaustive, self.searching), self._private = state, False
            resume()

        return restore

    # -- the observer ------------------------------------------------------------------------------------------

    def observe(self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run an operator, exactly once and outside every ``try``, and check it if it is its turn."""
        inspection: Inspection | None = None
        origin: Origin | None = None
        try:
            checks = self.table.get(func, ())
            place = place_of(func, self.in_update)
            turn = self._turns[place] = self._turns.get(place, -1) + 1
            if self.exhaustive or self._sampler.may_want(place, turn):
                self.num_looked_at += 1
                origin = self.attribution.origin()
                if checks:
                    inspection = self._begin(func, checks, args, kwargs, origin, turn)
            elif checks and checks[0].family not in _UPDATES and torch.is_grad_enabled():
                self.num_looked_at += 1
                self.attribution.note_forward()  # its backward will ask where it came from
        except Exception as error:
            self._fault("interception", error)
        output = func(*args, **kwargs)
        if inspection is None and not self.searching:
            return output
        before, is_judged = self._clock.seconds, False
        with self._clock:
            try:
                if self.searching and self.origins is not None and origin is not None:
                    self.origins.note(func, args, kwargs, output, origin)
                if inspection is not None:
                    is_judged = self._judge_all(inspection, output)
            except Exception as error:
                self._fault("check", error)
        if inspection is not None:
            self._enter_cost(inspection.site, self._clock.seconds - before, is_judged)
        return output

    def _enter_cost(self, site: Site, seconds: float, is_judged: bool) -> None:
        beside = WANTED_IN_UPDATE_SECONDS if self.in_update else WANTED_SECONDS
        seconds += beside
        self._clock.add(beside)
        self._sampler.charge(seconds)
        self.check_seconds += seconds
        site.record(seconds, judged=is_judged)
        site.last_checked_step = self.step

    def _begin(
        self,
        func: torch._ops.OpOverload,
        checks: tuple[Check, ...],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        origin: Origin,
        turn: int,
    ) -> Inspection | None:
        phases = checks[0].phases
        if (phases is not None and origin.phase not in phases) or not (
            self._private or self._admits(origin, checks[0].name)
        ):
            return None
        reason = reason_to_skip(args, kwargs, reads_sparse=checks[0].reads_sparse)
        if reason is not None:
            self.uncovered[f"{checks[0].name}: {reason}"] += 1
            return None
        site = self._sites.at(
            func,
            tuple(check.name for check in checks),
            origin,
            args,
            kwargs,
            in_update=self.in_update,
            turn=None if self.exhaustive else turn,
        )
        if not self._sampler.wants(site):
            return None
        limit, most = self.exhaustive_limit, math.inf
        if not self.exhaustive:
            limit = self._limit
            most = max(self._sampler.seconds_left / SECONDS_PER_OPERATION, LEAST_ROW)
        call = OpCall(overload=func, arguments=bind(func, args, kwargs))
        arithmetic = self._route(checks[0], call)[0]
        probe = Probe(arithmetic=arithmetic, limit=limit, offset=self._sampler.offset(), most=most)
        captured = self._capture(site, checks, call, probe)
        if captured is None:
            return None
        return Inspection(site=site, checks=checks, call=call, captured=captured, probe=probe, args=args, kwargs=kwargs)

    def _capture(self, site: Site, checks: tuple[Check, ...], call: OpCall, probe: Probe) -> tuple[Any, ...] | None:
        """Copy what the operator will overwrite; None where a check says that it cannot judge the call."""
        captures = self._captures.get(call.overload)
        if captures is None:
            writes = not is_repeatable(call.overload)
            captures = any(check.capture and (writes or check.captures_always) for check in checks)
            self._captures[call.overload] = captures
        if not captures:
            return (None,) * len(checks)
        before = self._clock.seconds
        try:
            with self._clock, _without_gradients():
                captured = tuple(check.capture(call, probe) if check.capture else None for check in checks)
        except NotCovered as reason_given:
            self._excuse(checks[0], reason_given)
            site.record(self._clock.seconds - before, judged=False)
            return None
        self._sampler.charge(self._clock.seconds - before)
        return captured

    def _route(self, check: Check, call: OpCall) -> tuple[Arithmetic, Arithmetic]:
        if self.device_type is not None:
            return routes_for(check.family, self.device_type)
        given = first_tensor(call.arguments.values())
        return routes_for(check.family, "cpu" if given is None or given.is_cpu else given.device.type)

    def _excuse(self, check: Check, reason: NotCovered) -> None:
        self.uncovered[f"{check.name}: {reason}"] += 1

    # -- judging -----------------------------------------------------------------------------------------------

    def _judge_all(self, inspection: Inspection, output: Any) -> bool:
        """Run the checks; return whether one of them has come to a verdict."""
        call = OpCall(overload=inspection.call.overload, arguments=inspection.call.arguments, output=output)
        is_judged = False
        for check, captured in zip(inspection.checks, inspection.captured, strict=True):
            try:
                self._judge(inspection, check, call, captured)
                is_judged = True
            except NotCovered as reason:
                self._excuse(check, reason)
        return is_judged

    def _judge(self, inspection: Inspection, check: Check, call: OpCall, captured: Any) -> None:
        with _without_gradients():
            comparisons = check.judge(call, captured, inspection.probe)
            if not comparisons:
                return
            if self._masses is not None and inspection.site.origin.phase == "optimizer":
                self._masses(call, captured, comparisons, inspection.site.origin)
            self.num_checks += 1
            self._order += 1
            if self.immediate:
                verdicts = [evaluate_on_host(comparison) for comparison in comparisons]
                if self._note(inspection.site, self.step, verdicts):
                    self._jury.hear(self._dossier(inspection, check, captured, comparisons), verdicts, None, call)
                return
            # The inputs may be gone when the verdict arrives: the second shadow runs now, on the same stream.
            second = Probe(
                arithmetic=self._route(check, call)[1], limit=inspection.probe.limit, offset=inspection.probe.offset
            )
            vectors = [evaluate(comparison) for comparison in (*comparisons, *check.judge(call, captured, second))]
            judged = without_inputs(self._dossier(inspection, check, None, comparisons))
            self._mailbox.post(torch.cat(vectors), lambda numbers: self._deliver(judged, numbers))

    def _dossier(self, inspection: Inspection, check: Check, captured: Any, comparisons: Sequence[Compared]) -> Judged:
        return Judged(
            inspection=inspection,
            check=check,
            captured=captured,
            names=tuple(comparison.output for comparison in comparisons),
            segments=tuple(comparison.segments for comparison in comparisons),
            models=tuple(_model(comparison) for comparison in comparisons),
            exact=tuple(not comparison.rounds_output for comparison in comparisons),
            step=self.step,
            order=self._order,
        )

    def _deliver(self, judged: Judged, numbers: Sequence[float]) -> None:
        """Take the numbers of both routes, which arrive later than the call was made."""
        count = len(judged.names)
        verdicts = [Verdict._make(numbers[at : at + WIDTH]) for at in range(0, len(numbers), WIDTH)]
        if self._note(judged.inspection.site, judged.step, verdicts[:count]):
            self._jury.hear(judged, verdicts[:count], verdicts[count:], None)

    def _note(self, site: Site, step: int, verdicts: Sequence[Verdict]) -> bool:
        """Enter the verdicts on one check; return whether the jury has to hear of them."""
        self.num_judged += 1
        if self._witness is not None:
            self._witness(verdicts)
        is_suspect = is_wrong = False
        for verdict in verdicts:
            site.num_elements += int(verdict.num_elements)
            if verdict.worst_ratio > site.worst_ratio:
                site.worst_ratio = verdict.worst_ratio
            if verdict.worst_strict_ratio > site.worst_strict_ratio:
                site.worst_strict_ratio = verdict.worst_strict_ratio
            site.mean_ratio += (verdict.mean_ratio - site.mean_ratio) / max(1, site.num_checked + 1)
            is_wrong = is_wrong or verdict.wrong
            is_suspect = is_suspect or not verdict.worst_strict_ratio <= 1.0 or verdict.num_overflowed > 0.0
        # Clean is what no error was found in: a site that is always inaccurate has a last clean step, too.
        if not is_wrong:
            site.last_clean_step = step
        return is_suspect or is_wrong


def _without_gradients() -> AbstractContextManager[object]:
    """Switch the recording of gradients off; in backward and in the optimizer's step it is, and asking costs less."""
    return torch.no_grad() if torch.is_grad_enabled() else _AS_IT_IS


def _rounded(limit: float) -> float:
    """Return a limit between the least and the most, of a few to the octave: calls that repeat are planned once."""
    exponent = math.floor(4.0 * math.log2(min(max(limit, LEAST_OPERATIONS), MOST_OPERATIONS)))
    return float(2.0 ** (exponent / 4.0))


def _model(comparison: Compared) -> str:
    """Return what a bound assumes: on an accelerator nobody has calibrated yet, it is assumed, whatever the check says.

    A result that must be exact assumes nothing anywhere.
    """
    on_host = comparison.computed.device.type == "cpu"
    return comparison.model if on_host or not comparison.rounds_output else "assumed"
