"""Numguard's watch over itself: the planted fault, swallowed exceptions, lost events, armed steps that saw nothing."""

import logging
import traceback
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from numguard.interception.mode import ArmedMode
from numguard.interception.observation import Observation
from numguard.session.casebook import Casebook
from numguard.session.self_test import SelfTest, call_planted, planted_overload

if TYPE_CHECKING:
    from numguard.session.run import Run

log = logging.getLogger("numguard")

_EMPTY_STEPS: Final = 2  # armed steps without one operator before it is said
_LATE_STEPS: Final = 20  # steps after which a verdict from the device counts as lost


class Health:
    """Finds out when numguard does not do what it promises, and says so as a ``degraded`` finding.

    Parameters
    ----------
    run
        Whose health this is.
    """

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._faults: Counter[str] = Counter()
        self._test: SelfTest | None = None
        self._test_step = 0
        self._dropped = 0
        self._testing = False

    def degrade(self, step: int, stage: str, what: str, advice: str, **evidence: Any) -> None:
        """Enter a ``degraded`` finding, once for each stage and reason; the log has but one reason, lost events."""
        self._run.enter(
            "degraded",
            (stage,) if stage == "log" else (stage, what),
            op="",
            module="",
            first_caught_step=step,
            message=f"numguard's {stage} is not working: {what}",
            advice=advice,
            evidence={"stage": stage, **evidence},
        )

    def fault(self, stage: str, error: BaseException) -> None:
        """Note an exception inside numguard: training goes on, the check it was in does not count."""
        place = _innermost(error)
        key = f"{type(error).__name__} at {place}"
        self._faults[key] += 1
        if self._faults[key] == 1:
            log.debug("numguard: fault in %s", stage, exc_info=error)
            self.degrade(
                self._run.inspector.step,
                stage,
                f"{key}: {str(error)[:200]}",
                "Training is not affected. Please report this with the numguard and torch versions.",
            )

    def failed(self, error: Exception) -> None:
        """Note an exception of a session's own code, between two steps; never raises."""
        try:
            self.fault("session", error)
        except Exception:
            log.exception("numguard failed twice; training goes on")

    # -- the planted fault -------------------------------------------------------------------------------------

    def test(self, step: int) -> None:
        """Send a planted fault through the whole pipeline and follow it."""
        run = self._run
        self._test, self._test_step = SelfTest(), step
        planted = planted_overload()
        checks_before, judged_before = run.inspector.num_checks, run.inspector.num_judged
        restore = run.inspector.begin_private()
        mode = ArmedMode({planted: ()}, run.inspector.observe)
        try:
            with mode:
                call_planted(torch.device("cpu"))
        except Exception as error:
            self.fault("self-test", error)
        finally:
            restore()
        if mode.num_observed:
            self._test.reach("interception")
        if run.inspector.num_checks > checks_before:
            self._test.reach("check")
        run.mailbox.flush()
        run.mailbox.collect()
        if run.inspector.num_judged > judged_before:
            self._test.reach("verdict")
        if run.inspector.immediate:
            self._conclude(step)

    def planted_came_out(self, observation: Observation) -> None:
        """Take the planted fault's observation where any other would become a finding."""
        if self._test is None:
            return
        for stage in ("interception", "check", "verdict"):
            self._test.reach(stage)
        if observation.kind == "wrong_result" and observation.confirmed != "no":
            self._test.reach("confirmation")
            entered = Casebook(self._run.rank, {}).observe(observation)
            if entered is not None and entered[0].kind == "wrong_result":
                self._test.reach("finding")
        if not self._run.inspector.immediate:
            self._conclude(self._test_step)

    def _conclude(self, step: int) -> None:
        test, self._test = self._test, None
        if test is None:
            return
        if not test.lost_at or test.lost_at == "log":
            written = self._run.journal.write("selftest", step=step, passed=True, stage="", detail="")
            if written:
                return
            test.detail = self._run.log.last_failure or "the event was not written"
        else:
            self._run.journal.write("selftest", step=step, passed=False, stage=test.lost_at, detail=test.detail)
        stage = test.lost_at
        what = f"a planted wrong sum was lost at the stage {stage!r}"
        self.degrade(
            step, stage, what + (f" ({test.detail})" if test.detail else ""), _ADVICE.get(stage, _ADVICE["check"])
        )

    # -- all along ---------------------------------------------------------------------------------------------

    def watch(self, step: int) -> None:
        """After an armed step: is everything still doing what it should."""
        run = self._run
        if run.arming.num_empty >= _EMPTY_STEPS and run.arming.num_empty * 2 > run.arming.num_armed:
            self.degrade(
                step,
                "interception",
                "armed steps have not seen a single checked operator",
                "Is the loop run by another thread, or wholly inside a compiled region or a CUDA graph? "
                "Then numguard cannot see it; start the guard in the thread that trains.",
            )
        if self._test is not None and step - self._test_step > _LATE_STEPS:
            self._conclude(step)
        self._watch_losses(step)

    def _watch_losses(self, step: int) -> None:
        run = self._run
        dropped = run.log.num_dropped
        if dropped > self._dropped:
            self._dropped = dropped
            self.degrade(
                step,
                "log",
                f"events were lost ({run.log.last_failure})",
                "Is the run directory there, writable, and with room? g.findings still has what is in memory.",
                num_dropped=dropped,
            )
        if run.mailbox.num_dropped:
            self.degrade(
                step, "verdict", "verdicts were lost because the ring was full", "Lower the budget, or report this."
            )
        if run.arming.missed_agreements:
            self.degrade(
                step,
                "schedule",
                "the ranks could not agree on the armed steps",
                "Ranks may arm different steps and slow each other down; is the process group's store reachable?",
            )

    def close(self, step: int) -> None:
        """At the end: the last look."""
        run = self._run
        self._watch_losses(step)
        if self._test is not None:
            self._conclude(step)
        if run.inspector.num_judged < run.inspector.num_checks:
            lost = run.inspector.num_checks - run.inspector.num_judged
            self.degrade(step, "verdict", f"{lost} checks were made whose verdict never arrived", "Please report this.")


_ADVICE: Final = {
    "interception": "No operator is seen: is another dispatch mode or torch.library override in the way?",
    "check": "The check of sums was switched off or failed: see checks= and the other degraded findings.",
    "verdict": "Verdicts do not arrive: see the other degraded findings.",
    "confirmation": "The second shadow does not confirm: see the other degraded findings.",
    "finding": "Findings are not kept: see the other degraded findings.",
    "log": "Nothing is written: is the run directory writable and the disk not full?",
}


def _innermost(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "an unknown place"
    last = frames[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
