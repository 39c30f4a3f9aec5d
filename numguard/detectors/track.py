"""Everything that is known of one run in a log, and the order in which a row is looked at."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Final

from numguard.detectors.alarm import Alarm
from numguard.detectors.alarm_budget import AlarmBudget
from numguard.detectors.comparison_run import ComparisonRun, new_comparison_run
from numguard.detectors.frozen_window import SCALE_FLOOR
from numguard.detectors.gradient_lead import GradientLead
from numguard.detectors.hard_batch import HardBatches
from numguard.detectors.learning_rate import LearningRate
from numguard.detectors.loss_scale import LossScale
from numguard.detectors.loss_spike import QUIET_ROWS
from numguard.detectors.nonfinite_loss import NonfiniteLoss
from numguard.detectors.off_trend import OffTrend, Trend
from numguard.detectors.reference_run import ReferenceRun
from numguard.detectors.residual_bank import ResidualBank, new_residual_bank
from numguard.detectors.wording import (
    finding_exact,
    finding_hard_batch,
    finding_of_alarm,
    finding_off_trend,
    finding_refused,
)
from numguard.finding import Finding

#: A gap of this many usual distances between rows makes the level of before unknown.
LONG_GAP: Final = 64.0
#: A loss that is exactly zero all the time has some spread, too: divided by, and squared, it stays a number.
LEAST_SCALE: Final = 1e-100
#: A change of the distance between rows by this factor makes it another log.
OTHER_CADENCE: Final = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """What a run can be compared with, best first.

    Parameters
    ----------
    reference, proxy
        An earlier run with the same recipe on the same batches; a smaller one on the same batches.
    trend
        Registered prediction.
    """

    reference: ReferenceRun | None = None
    proxy: ReferenceRun | None = None
    trend: Trend | None = None


@dataclass(slots=True, kw_only=True)
class Track:
    """One run.

    Parameters
    ----------
    bank
        Statistics of the loss itself.
    reference, proxy
        Comparisons, where there is something to compare with.
    gradient, rate, scale, loss_value, gradient_value, off_trend, hard
        The other detectors.
    first_step, last_step, cadence
        Steps of the first and the last row, and the usual distance between rows.
    """

    bank: ResidualBank
    gradient: GradientLead
    hard: HardBatches
    reference: ComparisonRun | None = None
    proxy: ComparisonRun | None = None
    rate: LearningRate = field(default_factory=LearningRate)
    scale: LossScale = field(default_factory=LossScale)
    loss_value: NonfiniteLoss = field(default_factory=NonfiniteLoss)
    gradient_value: NonfiniteLoss = field(default_factory=NonfiniteLoss)
    off_trend: OffTrend = field(default_factory=OffTrend)
    first_step: int | None = None
    last_step: int | None = None
    cadence: float = 1.0

    def update(self, step: int, loss: float | None, ladder: Ladder, row: dict[str, Any]) -> list[Finding]:
        """Take one row.

        Parameters
        ----------
        step, loss
            Optimizer step, and its loss where it was logged.
        ladder
            What to compare with.
        row
            The other channels.
        """
        found: list[Finding] = []
        if row:
            self._exact_rules(step, row, found)
        last = self.last_step
        again = last is not None and step == last
        if not again:
            self._place(step)
        if loss is not None:
            wrong = self.loss_value.add(loss, "loss")
            if wrong:
                found.append(finding_exact("nonfinite", wrong, step=step, clean=last, row=row))
            elif not again and math.isfinite(loss):
                self._statistics(step, last, loss, ladder, row, found)
        norm = row.get("grad_norm") if row else None
        if norm is not None and not again:
            alarm = self.gradient.add(norm)
            if alarm is not None:
                found.append(finding_of_alarm(alarm, step=step, clean=last, rung="log-trend", name="", row=row))
        return found

    def _place(self, step: int) -> None:
        """Notice a run that went back, one that left rows out, and one that logs more rarely than before."""
        last, self.last_step = self.last_step, step
        if last is None:
            self.first_step = step
            return
        gap = step - last
        if gap < 0:
            for bank in self._banks():
                bank.resume(step)
            self.off_trend.restart()
            self.gradient.restart()
            return
        if gap > LONG_GAP * self.cadence:
            for bank in self._banks():
                bank.window.clear(keep_scale=True)
                bank.resume(step)
                bank.trend.clear()
            self.gradient.restart()
        elif gap > OTHER_CADENCE * self.cadence and self.bank.num_rows > 1:
            self.bank.window.clear(keep_scale=False)
            self.bank.noise.restart()
        self.cadence = float(gap) if self.bank.num_rows <= 1 else self.cadence + (gap - self.cadence) / 4.0

    def _banks(self) -> list[ResidualBank]:
        return [self.bank, *[side.bank for side in (self.reference, self.proxy) if side is not None]]

    def _exact_rules(self, step: int, row: dict[str, Any], found: list[Finding]) -> None:
        clean = self.last_step
        norm, scale, skipped = row.get("grad_norm"), row.get("loss_scale"), row.get("skipped")
        if norm is not None:
            # A gradient scaler finds its scale by overflowing: a skipped step's norm is infinite by design.
            wrong = "" if skipped else self.gradient_value.add(norm, "gradient norm")
            if wrong:
                found.append(finding_exact("nonfinite", wrong, step=step, clean=clean, row=row))
        if scale is not None:
            wrong = self.scale.add_scale(scale)
            if wrong:
                found.append(finding_exact("loss_scale", wrong, step=step, clean=clean, row=row))
        if skipped is not None:
            wrong = self.scale.add_skipped(bool(skipped))
            if wrong:
                found.append(finding_exact("loss_scale", wrong, step=step, clean=clean, row=row))

    def _statistics(
        self, step: int, last: int | None, loss: float, ladder: Ladder, row: dict[str, Any], found: list[Finding]
    ) -> None:
        may_rise = may_fall = False
        batch = row.get("batch_id") if row else None
        rate = row.get("lr") if row else None
        if rate is not None and math.isfinite(rate):
            may_rise, may_fall, jumped = self.rate.add(rate)
            if jumped and self.bank.num_rows > 0:
                for bank in self._banks():
                    bank.shift.rest()
                    bank.noise.restart()
                    bank.trend.clear()
        alarms = self.bank.add(step, loss, max(SCALE_FLOOR * abs(loss), LEAST_SCALE), may_rise, may_fall)
        speaking: ComparisonRun | None = None
        for comparison, other in ((self.proxy, ladder.proxy), (self.reference, ladder.reference)):
            if comparison is None or other is None:
                continue
            refused = comparison.order.refused
            heard = comparison.add(step, loss, batch, other, self.bank.window.scale, may_rise, may_fall)
            if comparison.order.refused and not refused:
                found.append(finding_refused(other.name, comparison.order.refused, step=step, row=row))
            if comparison.active and comparison.bank.score is not None:
                speaking = comparison
            for alarm in heard:
                found.append(self._name(alarm, step, last, comparison, other, row))
        reference_score = speaking.bank.score if speaking is not None else None
        for alarm in alarms:
            self._report(alarm, step, last, speaking, reference_score, batch, ladder, row, found)
        if ladder.trend is not None:
            self._follow(step, last, loss, ladder.trend, row, found)

    def _report(
        self,
        alarm: Alarm,
        step: int,
        last: int | None,
        speaking: ComparisonRun | None,
        reference_score: float | None,
        batch: str | None,
        ladder: Ladder,
        row: dict[str, Any],
        found: list[Finding],
    ) -> None:
        if alarm.kind == "loss_spike":
            other = ladder.reference if speaking is self.reference else ladder.proxy
            name = other.name if other is not None else ""
            reason = self.hard.explain(batch, reference_score, name)
            if batch is not None:
                self.hard.learn(batch)
            if reason:
                found.append(finding_hard_batch(alarm, reason, step=step, row=row))
                return
        # A better reference speaks for the run; what the loss does by itself was said by it, or is the data's. Only a
        # single row far outside is the loss's own.
        own = alarm.kind == "loss_spike" and speaking is not None and speaking.bank.spike.quiet >= QUIET_ROWS
        if speaking is None or own:
            clean = self._clean(last, alarm.onset_rows)
            found.append(finding_of_alarm(alarm, step=step, clean=clean, rung="log-trend", name="", row=row))

    def _name(
        self,
        alarm: Alarm,
        step: int,
        last: int | None,
        comparison: ComparisonRun,
        other: ReferenceRun,
        row: dict[str, Any],
    ) -> Finding:
        if alarm.kind == "loss_shift":
            kind, size, age = comparison.departure(alarm, step, other)
            alarm = replace(alarm, kind=kind, onset_rows=age, size=size)
        clean = self._clean(last, alarm.onset_rows)
        return finding_of_alarm(alarm, step=step, clean=clean, rung=comparison.rung, name=other.name, row=row)

    def _follow(
        self, step: int, last: int | None, loss: float, trend: Trend, row: dict[str, Any], found: list[Finding]
    ) -> None:
        predicted = trend(step)
        if predicted is None or self.bank.window.scale <= 0.0:
            return
        alarm = self.off_trend.add(loss, predicted, self.bank.window.scale)
        if alarm is not None:
            clean = self._clean(last, alarm.onset_rows)
            found.append(finding_off_trend(alarm, step=step, clean=clean, row=row))

    def _clean(self, last: int | None, onset_rows: int) -> int | None:
        if last is None:
            return None
        return max(self.first_step or 0, round(last - (onset_rows - 1) * self.cadence))


def new_track(ladder: Ladder, budget: AlarmBudget, hard_batches: tuple[str, ...]) -> Track:
    """Return a track that has seen nothing yet."""
    return Track(
        bank=new_residual_bank("log-trend", budget),
        gradient=GradientLead(thresholds=budget.thresholds("log-trend", "gradient_lead")),
        hard=HardBatches(known=dict.fromkeys(hard_batches, True)),
        reference=new_comparison_run("reference", budget) if ladder.reference is not None else None,
        proxy=new_comparison_run("proxy", budget) if ladder.proxy is not None else None,
    )
