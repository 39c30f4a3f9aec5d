"""This run against another one on the same batches: the two upper rungs of the ladder of references."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from numguard.detectors.alarm import Alarm
from numguard.detectors.alarm_budget import AlarmBudget, Rung
from numguard.detectors.loss_drift import name_departure
from numguard.detectors.reference_run import ReferenceRun
from numguard.detectors.residual_bank import ResidualBank, new_residual_bank
from numguard.detectors.same_order import SameOrder

#: Standard deviations from the reference's own running mean beyond which a batch is hard, and the share of what lies
#: beyond by which two runs of the same recipe may answer it differently.
HARD: Final = 3.0
UNEQUAL: Final = 0.25


@dataclass(slots=True, kw_only=True)
class ComparisonRun:
    """Residuals against another run's loss and the statistics that look at them.

    Parameters
    ----------
    bank
        Statistics.
    order
        Proof that the batches are the same.
    residuals
        The last residuals, for naming a departure.
    """

    bank: ResidualBank
    order: SameOrder = field(default_factory=SameOrder)
    residuals: deque[float] = field(default_factory=lambda: deque(maxlen=320))

    @property
    def rung(self) -> Rung:
        """What the residuals are relative to."""
        return self.bank.rung

    @property
    def active(self) -> bool:
        """Whether this comparison speaks for the run: same batches proved, level known."""
        return self.order.proved and self.bank.ready

    def add(
        self,
        step: int,
        loss: float,
        batch: str | None,
        other: ReferenceRun,
        usual: float,
        may_rise: bool,
        may_fall: bool,
    ) -> list[Alarm]:
        """Take one finite loss; a step that the other run lacks is passed over.

        Parameters
        ----------
        step, loss, batch
            The row.
        other
            The run to compare with.
        usual
            Standard deviation of a row of the loss itself.
        may_rise, may_fall
            Directions that a change of the learning rate explains.
        """
        order = self.order
        if order.refused:
            return []
        counterpart = other.losses.get(step)
        if counterpart is None:
            self.bank.score = None
            return []
        order.add(loss, counterpart)
        known = other.batches.get(step)
        if batch is not None and known is not None:
            order.compare_batches(step, batch, known)
        residual, deviation = loss - counterpart, other.deviations.get(step)
        if self.rung == "proxy":
            if deviation is None:
                self.bank.score = None
                return []
            residual = loss - order.factor * deviation
        elif deviation is not None:
            residual = self._without_hard_batch(residual, abs(deviation), usual)
        self.residuals.append(residual)
        alarms = self.bank.add(step, residual, 1e-4 * abs(loss), may_rise, may_fall)
        # A young curve bends, and a running mean around each step of a proxy with it: too much for so little noise.
        speaks = order.proved and (self.rung == "reference" or self.bank.ready)
        return alarms if speaks else []

    def _without_hard_batch(self, residual: float, deviation: float, usual: float) -> float:
        """Pull in the residual of a batch that was hard for the reference: two runs answer it alike, not equally."""
        level, scale = self.bank.window.level, self.bank.window.scale
        excess = deviation - HARD * usual
        if excess <= 0.0 or usual <= 0.0 or scale <= 0.0:
            return residual
        return level + (residual - level) / math.hypot(1.0, UNEQUAL * excess / scale)

    def departure(self, alarm: Alarm, step: int, other: ReferenceRun) -> tuple[str, float, int]:
        """Return kind, size and age of what an alarm of the level means."""
        if self.rung != "reference":
            return "loss_shift", alarm.size, alarm.onset_rows
        return name_departure(alarm, list(self.residuals), self.bank.window.level, other.slope(step))


def new_comparison_run(rung: Rung, budget: AlarmBudget) -> ComparisonRun:
    """Return a comparison that has seen nothing yet."""
    return ComparisonRun(bank=new_residual_bank(rung, budget))
