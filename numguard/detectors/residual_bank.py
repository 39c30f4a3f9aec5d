"""The statistics that look at one stream of residuals: a loss, or its difference from a reference."""

import math
from dataclasses import dataclass, field
from typing import Final

from numguard.detectors.alarm import Alarm
from numguard.detectors.alarm_budget import AlarmBudget, Rung
from numguard.detectors.frozen_window import REFRESH, FrozenWindow
from numguard.detectors.log_trend import BLOCK, LogTrend
from numguard.detectors.loss_noise import LossNoise
from numguard.detectors.loss_shift import HOLD, LossShift
from numguard.detectors.loss_spike import LEAST_ROWS, QUIET_ROWS, LossSpike

#: Rows before a claim about the level is made. A young curve is not straight in the logarithm of the step, and two
#: runs on the same batches part quickly in their first few hundred steps. With a proxy the noise is small, so the same
#: bend of the curve weighs more.
LEVEL_ROWS: Final = {"log-trend": 1536, "proxy": 3072, "reference": 512}
#: Rows left out of the log-trend and of the noise: the fall from the initial loss.
FIRST_ROWS: Final = 100
#: A row further out than this is not normal and does not enter the baseline.
OUTSIDE: Final = 8.0
#: Such rows in a row, less the others, after which the new level is taken for the normal one.
GIVE_UP: Final = 24


@dataclass(slots=True, kw_only=True)
class ResidualBank:
    """Spike, shift and noise of one stream of residuals.

    Parameters
    ----------
    rung
        What the residuals are relative to.
    window, trend, spike, shift, noise
        Baseline and statistics.
    num_rows, num_outside
        Rows taken; rows outside, less rows inside, lately.
    score
        Last standardised residual; None while there is no baseline.
    young_scale
        Standard deviation of a row by the differences of the newest ones, while there is no log-trend.
    """

    rung: Rung
    window: FrozenWindow
    spike: LossSpike
    shift: LossShift
    noise: LossNoise
    trend: LogTrend = field(default_factory=LogTrend)
    num_rows: int = 0
    num_outside: int = 0
    score: float | None = None
    young_scale: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether the level is being judged."""
        return self.num_rows >= LEVEL_ROWS[self.rung]

    @property
    def young(self) -> bool:
        """Whether there is no log-trend yet: the curve bends, so only the newest rows tell where the loss is."""
        return self.rung != "reference" and not self.trend.fitted

    def add(self, step: float, value: float, floor: float, may_rise: bool, may_fall: bool) -> list[Alarm]:
        """Take one finite residual and return what crossed.

        Parameters
        ----------
        step
            Optimizer step.
        value
            The residual.
        floor
            Least standard deviation that is believed.
        may_rise, may_fall
            Directions that a change of the learning rate explains.
        """
        window, row = self.window, self.num_rows
        self.num_rows = row + 1
        if self.shift.resting > 0:
            self.shift.resting -= 1
        young = row < LEVEL_ROWS[self.rung] and self.young
        if row % REFRESH == 0 or (young and window.num_seen < 4 * REFRESH):
            window.refresh(row, self._slope_per_row(step), floor)
            self.young_scale = window.difference_scale(floor) if young else 0.0
        alarms: list[Alarm] = []
        score, scale = None, self.young_scale if young else window.scale
        pulled, outside = value, False
        if scale > 0.0 and window.num_seen >= LEAST_ROWS:
            expected = window.newest_level() if young else window.forecast(row)
            score = (value - expected) / scale
            outside = not -OUTSIDE <= score <= OUTSIDE
            if outside or not -3.0 <= score <= 3.0:
                pulled = expected + math.copysign(3.0, score) * scale
            self._judge_row(score, scale, young, may_rise, may_fall, alarms)
        self.score = score
        self._take(row, value, outside)
        if row >= FIRST_ROWS:
            alarm = self.noise.add(value, floor)
            if alarm is not None and self.spike.quiet >= QUIET_ROWS:
                alarms.append(alarm)
            # What follows a jump of the level or of the learning rate is a transient, not the new trend.
            if self.rung != "reference" and self.shift.resting == 0 and self.trend.add(step, pulled):
                self._judge_block(max(scale, floor), may_rise, may_fall, alarms)
        return alarms

    def _judge_row(
        self, score: float, scale: float, young: bool, may_rise: bool, may_fall: bool, alarms: list[Alarm]
    ) -> None:
        alarm = self.spike.add(max(0.0, score) if young else score, scale)
        if alarm is not None:
            alarms.append(alarm)
        if self.rung != "reference":
            if not self.trend.fitted:
                return
            score = self.shift.learn_bias(score)
        if self.num_rows > LEVEL_ROWS[self.rung]:
            # A loss that only stops falling did not rise: whether it should have gone on, a trend of its own past
            # cannot say.
            slack = self.window.rise_by_slope(self.num_rows - 1) / scale
            alarm = self.shift.add(score + min(slack, 0.0), -score - max(slack, 0.0), scale, may_rise, may_fall)
            if alarm is not None:
                alarms.append(alarm)
                self.trend.clear()

    def _judge_block(self, scale: float, may_rise: bool, may_fall: bool, alarms: list[Alarm]) -> None:
        scores = self.trend.close_block(scale)
        if scores is None or self.num_rows <= LEVEL_ROWS[self.rung]:
            return
        alarm = self.shift.add_block(*scores, self.trend.error_scale(scale), BLOCK, may_rise, may_fall)
        if alarm is not None:
            alarms.append(alarm)
            self.trend.clear()

    def _take(self, row: int, value: float, outside: bool) -> None:
        if not outside:
            self.num_outside = max(0, self.num_outside - 1)
            self.window.add(row, value)
            return
        self.num_outside += 1
        if self.num_outside > GIVE_UP:
            self.forget()
            self.window.add(row, value)

    def _slope_per_row(self, step: float) -> float | None:
        if self.rung == "reference":
            return 0.0
        slope = self.trend.slope_at(step)
        if slope is None:
            return None
        return slope * self.trend.steps_per_row

    def forget(self) -> None:
        """Learn the level anew; what is normal has changed."""
        self.window.clear(keep_scale=False)
        self.trend.clear()
        self.shift.rest()
        self.num_outside = 0

    def resume(self, step: float) -> None:
        """Go on from an earlier step: level and noise stay known, sums start again."""
        self.trend.drop_after(step)
        self.shift.rest()
        self.spike.reset()
        self.noise.previous = None


def new_residual_bank(rung: Rung, budget: AlarmBudget) -> ResidualBank:
    """Return an empty bank.

    Parameters
    ----------
    rung
        What the residuals will be relative to.
    budget
        Allowed false alarms.
    """
    same_order = rung == "reference"
    return ResidualBank(
        rung=rung,
        window=FrozenWindow(capacity=256 if same_order else 128, gap=32 if same_order else 24),
        spike=LossSpike(thresholds=budget.thresholds(rung, "loss_spike")),
        shift=LossShift(
            thresholds=budget.thresholds(rung, "loss_shift"),
            allowance=0.4 if same_order else 0.75,
            hold=288 if same_order else HOLD,
        ),
        noise=LossNoise(thresholds=budget.thresholds(rung, "loss_noise")),
    )
