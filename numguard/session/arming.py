"""Arms and disarms: which steps, with what quota, and what each of them cost."""

import statistics
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from numguard.interception.budget import Budget, OwnClock
from numguard.interception.inspection import Inspector
from numguard.interception.mode import ArmedMode, is_innermost
from numguard.interception.sampling import Part, Sampler
from numguard.interception.sites import SiteTable
from numguard.ranks import Agreement, AloneAgreement, Schedule, interval_for
from numguard.ranks.schedule import EPOCH, FIRST_AGREEMENT, SPARE

_TENSORS_WITHOUT_MODEL: Final = 60  # parameters of a model that nobody has shown
LOOK_SECONDS: Final = 8e-6  # to tell where a call came from and that it is not its turn, with cold caches
COUNT_SECONDS: Final = 2e-6  # to tell by its turn alone that a call is not wanted
UPDATE_EVERY: Final = 4  # armed steps of which one looks at the optimizer, where a step is armed in parts
REGIONS: Final = 0.3  # of the quota of an armed step goes into regions, if they need as much
REGION_SPARE: Final = 1.25  # of what regions are expected to cost: it is an estimate
_RECENT: Final = 50
_FEW: Final = 15  # armed steps
_REFRESHED_EVERY: Final = 8  # steps
_LEAD: Final = 2  # steps between a rank's wish and the agreement


def _is_round(step: int) -> bool:
    return step == FIRST_AGREEMENT or (step > 0 and step % EPOCH == 0)


class Arming:
    """Enters the mode for the steps that are due and leaves it after them.

    Parameters
    ----------
    schedule, budget, clock
        In force for this run.
    make_mode
        Makes a mode; called for each armed step.
    inspector, sampler, sites
        What the mode feeds.
    pass_seconds
        What the mode adds to one operator that it only passes on.
    num_parameters
        Tensors that the optimizer updates; None if unknown.
    agreement
        Returns the agreement among ranks; asked when it is first needed, because the process group may come up
        after the guard.
    on_agreement
        Called at the steps at which the interval may change.
    parts_steps
        Whether :meth:`before_update` and :meth:`after_update` will be called around the one update of each step, so
        that a step can be armed in parts.
    on_enter
        Called with the mode, the step, a part of the quota, and whether everything is looked at, when the mode has been
        entered for more than the optimizer's step.
    on_leave
        Called before the mode is left, and where no mode was entered.
    region_cost
        Returns what those regions are expected to cost that fit into so many seconds.
    """

    def __init__(
        self,
        *,
        schedule: Schedule,
        budget: Budget,
        clock: OwnClock,
        make_mode: Callable[[], ArmedMode],
        inspector: Inspector,
        sampler: Sampler,
        sites: SiteTable,
        pass_seconds: float,
        num_parameters: int | None,
        agreement: Callable[[], Agreement],
        on_agreement: Callable[[], None],
        parts_steps: bool,
        on_enter: Callable[[ArmedMode, int, float, bool], None] = lambda mode, step, seconds, exhaustive: None,
        on_leave: Callable[[], None] = lambda: None,
        region_cost: Callable[[float], float] = lambda seconds: seconds,
    ) -> None:
        self._parts_steps, self._on_enter, self._on_leave = parts_steps, on_enter, on_leave
        self._region_cost = region_cost
        self.schedule, self.budget, self.clock = schedule, budget, clock
        self.sites = sites
        self._make_mode, self._inspector, self._sampler = make_mode, inspector, sampler
        self._pass_seconds = pass_seconds
        # Seconds that an armed step costs before it has checked anything, by the part of it that is armed: estimates
        # until the first of each has been measured.
        tensors = _TENSORS_WITHOUT_MODEL if num_parameters is None else num_parameters
        each = pass_seconds + LOOK_SECONDS / 4
        self._fixed: dict[Part, float] = {
            "whole": (100 + 25 * tensors) * each,
            "model": (100 + 10 * tensors) * each,
            "update": (20 + 15 * tensors) * each,
        }
        self._measured: set[str] = set()
        self._part: Part = "whole"
        self._waiting: ArmedMode | None = None
        self._has_waited = False
        self._left_early = False
        self._make_agreement, self._on_agreement = agreement, on_agreement
        self._agreement: Agreement | None = None
        # By how much armed steps were longer than others beyond what the clock has seen: operators run slower where
        # Python between them has emptied the caches.
        self._hidden: dict[Part, deque[float]] = {part: deque(maxlen=_FEW) for part in self._fixed}
        self._hidden_charged = 0.0
        self._typical: deque[float] = deque(maxlen=_RECENT)
        self._typical_seconds = 0.0
        self._resting: deque[float] = deque(maxlen=_RECENT)
        self.mode: ArmedMode | None = None
        self._stranded: list[ArmedMode] = []
        self._is_out = False  # the mode of the present step is off the stack while the guard looks away
        self._region_seconds = 0.0
        self.is_burst = False
        self.burst_left = 0
        self.num_armed = 0
        self.num_ended = 0  # in this attempt: what the schedule goes by, however the loop numbers its steps
        self.num_empty = 0
        self.expects_checked = True  # not where the user has picked a few checks: their operators may not occur
        self.missed_agreements = 0

    # -- deciding ----------------------------------------------------------------------------------------------

    @property
    def typical_seconds(self) -> float:
        """Median length of the recent steps without what numguard spent in them, up to a few steps old."""
        return self._typical_seconds

    @property
    def brief_seconds(self) -> float:
        """Length that three of four recent steps reach: the first steps of a run are slow."""
        return sorted(self._typical)[len(self._typical) // 4] if self._typical else 0.0

    def _parts(self) -> tuple[Part, ...]:
        return ("model", "update") if self._parts_steps else ("whole",)

    def _wish(self) -> int:
        if self.budget.share is None:
            return 1
        resting = statistics.median(self._resting) if self._resting else 0.0
        fixed, checking = self._fixed["whole"], self._sampler.seconds_of_all(self.sites)
        if self._parts_steps:
            fixed = (self._fixed["update"] + (UPDATE_EVERY - 1) * self._fixed["model"]) / UPDATE_EVERY
            update = self._sampler.seconds_of_all(self.sites, part="update")
            checking = (update + (UPDATE_EVERY - 1) * (checking - update)) / UPDATE_EVERY
        return interval_for(self.budget.share, self.typical_seconds, resting, fixed, checking)

    def shortfall(self) -> str | None:
        """Return why no step is armed where the budget does not pay for one, with the budget that would."""
        if self.budget.share is None or self.schedule.interval or not self._typical or self._agreement is None:
            return None
        resting = statistics.median(self._resting) if self._resting else 0.0
        needed = (resting + 1.5 * max(self._fixed[part] for part in self._parts()) / EPOCH) / (
            SPARE * max(self.typical_seconds, 1e-9)
        )
        if needed < self.budget.share:  # the costs that were agreed on were estimates
            return f"no step was armed: by the costs known at first the budget paid for none; every {EPOCH} steps anew"
        return (
            f"steps of {1e3 * self.typical_seconds:.1f} ms are too short for a budget of {self.budget.share:.2%}: "
            f"no step was armed; give budget={needed:.2g} or more"
        )

    def _agree(self, step: int) -> None:
        """Let the interval change where all ranks change it."""
        if _is_round(step + _LEAD):
            self._agreement = self._agreement or self._make_agreement()
            self._agreement.wish(str(step + _LEAD), self._wish())
        if _is_round(step) and self._agreement is not None:
            self._agreement.publish(str(step))
            interval = self._agreement.agreed(str(step))
            self._on_agreement()
            if interval is None:
                self.missed_agreements += 1
            else:
                self.schedule.interval = interval

    def next_due(self, step: int, horizon: int) -> int:
        """Return the first step after ``step`` that is armed or takes part in an agreement, at most ``horizon``."""
        if self.burst_left > 0:
            return step + 1
        for ahead in range(1, horizon - step):
            turn = self.num_ended + ahead
            if self.schedule.armed(turn) or _is_round(turn) or _is_round(turn + _LEAD):
                return step + ahead
        return horizon

    def begin_step(self, step: int) -> None:
        """Decide about a step that begins now, and enter the mode if it is armed."""
        self._pop_stranded()
        exhaustive = self.budget.share is None or self.burst_left > 0
        self.is_burst = self.burst_left > 0 and self.budget.share is not None
        if self.budget.share is not None:
            self._agree(self.num_ended)  # in a burst too: the other ranks may have none, and would wait
        if self.burst_left > 0:
            self.burst_left -= 1
        if exhaustive:
            self._arm(step, 0.0, exhaustive=True)
        elif self.schedule.armed(self.num_ended):
            parts = self._parts()
            self._part = parts[-1] if self.num_armed % UPDATE_EVERY == UPDATE_EVERY - 1 else parts[0]
            quota = self._quota()
            # Among ranks all arm or none does: one that has overdrawn looks on without a check, and repays later.
            if not isinstance(self._agreement, AloneAgreement | type(None)):
                self._arm(step, max(quota, 0.0), exhaustive=False)
            elif quota > 0.0 and not self._should_wait(quota):
                self._arm(step, quota, exhaustive=False)

    def _should_wait(self, quota: float) -> bool:
        """Return whether to pass over one armed step, so that the next spends more of its cost on checks."""
        waits = quota < self._fixed[self._part] and 2 * self.schedule.interval < EPOCH and not self._has_waited
        self._has_waited = waits
        return waits

    def _quota(self) -> float:
        """Return what checks may take in the coming step, negative where the mode alone is too dear."""
        share = self.budget.share or 0.0
        typical = self.typical_seconds
        earned = max(0.5 * typical, SPARE * share * typical * max(1, self.schedule.interval))
        allowed = min(self.budget.allowance(SPARE), earned)
        return allowed - self._fixed[self._part]

    def _arm(self, step: int, quota: float, *, exhaustive: bool) -> None:
        with self.clock:
            self._part = "whole" if exhaustive else self._part
            most = 0.0 if self._part == "update" else REGIONS * quota
            regions = min(most, REGION_SPARE * self._region_cost(most))
            self._sampler.plan(self.sites, quota - regions, exhaustive=exhaustive, part=self._part)
            self._inspector.begin_step(step, exhaustive=exhaustive)
            mode = self._make_mode()
            mode.everything = exhaustive
            self.num_armed += 1
            if self._part == "update":
                self._waiting = mode
            else:
                self._enter(mode)
                self._region_seconds = regions
                self._on_enter(mode, step, self._region_seconds, exhaustive)

    @property
    def is_armed(self) -> bool:
        """Whether the present step is armed, in whichever part of it."""
        return self.mode is not None or self._waiting is not None

    def _enter(self, mode: ArmedMode) -> None:
        self.mode = mode
        mode.__enter__()  # type: ignore[no-untyped-call]

    def before_update(self) -> None:
        """Leave the mode before the optimizer runs, or enter it, by the part of the step that is armed.

        An optimizer that is neither fused nor foreach is half of all operators of a step. Short steps can afford to
        pass over one half or the other, not both.
        """
        self._inspector.in_update = True
        if self._part == "model" and self.mode is not None and is_innermost(self.mode):
            self._left_early = self.leave()
        elif self._waiting is not None:
            mode, self._waiting = self._waiting, None
            self._enter(mode)

    def after_update(self) -> None:
        """Leave the mode after the optimizer has run where it was entered for that."""
        self._inspector.in_update = False
        if self._part == "update" and self.mode is not None and is_innermost(self.mode):
            self._left_early = self.leave()

    # -- looking away ------------------------------------------------------------------------------------------

    def suspend(self) -> None:
        """Look away in the middle of a step; :meth:`resume` looks again."""
        self._on_leave()
        mode = self.mode
        if mode is None or not mode.active:
            return
        mode.active = False
        if is_innermost(mode):
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._is_out = True

    def resume(self, step: int) -> None:
        """Look at the rest of a step that was armed when :meth:`suspend` was called."""
        mode = self.mode
        if mode is None or mode.active:
            return
        mode.active = True
        if self._is_out:
            self._is_out = False
            mode.__enter__()  # type: ignore[no-untyped-call]
        if self._part != "update":  # what regions have used of their quota is not known: they get it once
            seconds = self._region_seconds if mode.num_ops == 0 else 0.0
            self._on_enter(mode, step, seconds, mode.everything)

    # -- leaving -----------------------------------------------------------------------------------------------

    def leave(self, *, at_end: bool = False) -> bool:
        """Leave the mode if it is entered; return whether this step was armed.

        Parameters
        ----------
        at_end
            Whether no step follows: one that has begun, and in which nothing has run, was none.
        """
        self._on_leave()
        early, self._left_early = self._left_early, False
        self._waiting = None
        self._inspector.end_step()
        mode, self.mode = self.mode, None
        if mode is None:
            return early
        mode.active = False
        self.num_armed -= at_end and mode.num_ops == 0
        looked_at = self._inspector.num_looked_at
        fixed = mode.num_ops * self._pass_seconds + looked_at * LOOK_SECONDS
        fixed += max(0, mode.num_observed - looked_at) * COUNT_SECONDS
        self._hidden_charged = self.hidden_seconds(self._part)
        fixed += self._hidden_charged
        self.clock.add(fixed)
        if mode.num_observed == 0:
            self.num_empty += self.expects_checked or mode.num_ops == 0
        else:
            known = self._part in self._measured
            self._fixed[self._part] = 0.5 * (self._fixed[self._part] + fixed) if known else fixed
            self._measured.add(self._part)
        self._sampler.end_step(self.sites, self._inspector.counts())
        if self._is_out:
            self._is_out = False
        elif is_innermost(mode):
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        else:  # a mode of the user's lies above it: it passes everything on until it can be taken off
            self._stranded.append(mode)
        return True

    def hidden_seconds(self, part: Part) -> float:
        """Return by how much steps armed in this part were longer, in the middle, than the clock accounts for."""
        values = self._hidden[part]
        return max(0.0, statistics.median(values)) if len(values) >= 3 else 0.0

    def _pop_stranded(self) -> None:
        while self._stranded and is_innermost(self._stranded[-1]):
            self._stranded.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def abandon(self) -> None:
        """In a forked child: pass everything on, and leave the mode where that is possible."""
        if self.mode is not None:
            self.mode.tape = None
        self._inspector.end_step()
        mode, self.mode = self.mode, None
        self._is_out = False
        for entered in [*self._stranded, *([mode] if mode else [])]:
            entered.active = False
        if mode is not None and is_innermost(mode):
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._pop_stranded()

    def end_step(self, elapsed: float, own: float, *, armed: bool) -> None:
        """Enter the cost of a step that has ended."""
        self.num_ended += 1
        if armed and not self.is_burst and self.budget.share is not None and self._typical_seconds > 0.0:
            self._hidden[self._part].append(elapsed - (own - self._hidden_charged) - self._typical_seconds)
        self._hidden_charged = 0.0
        self.budget.end_step(elapsed, own, burst=self.is_burst and armed)
        self._typical.append(max(0.0, elapsed - own))
        if self.num_ended <= FIRST_AGREEMENT or self.num_ended % _REFRESHED_EVERY == 0:
            self._typical_seconds = statistics.median(self._typical)
        if not armed:
            self._resting.append(own)

    def end_resting(self, costs: Sequence[tuple[float, float]]) -> None:
        """Enter the costs of steps that have ended, elapsed and own, of which none was armed."""
        self.num_ended += len(costs)
        for elapsed, own in costs:
            self.budget.end_step(elapsed, own)
        self._typical.extend([max(0.0, elapsed - own) for elapsed, own in costs])
        self._resting.extend([own for _, own in costs])
        self._typical_seconds = statistics.median(self._typical)
