"""The level of the loss leaves its forecast and stays away."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from numguard.detectors.alarm import Alarm
from numguard.detectors.cumulative_sums import CumulativeSum

#: Rows after which the standardised residual is believed to be unbiased on average, and how long a row waits before
#: it counts for that: a fault is found before it becomes its own correction.
BIAS_MEMORY: Final = 128
BIAS_LAG: Final = 48
#: Standard deviations that a block's mean has to leave its forecast by to count: data that get a little harder for a
#: thousand rows do not add up, a drift goes on growing.
BLOCK_ALLOWANCE: Final = 0.75
#: Rows for which an arm rests after an alarm, until the new level has become the baseline.
HOLD: Final = 160


@dataclass(slots=True, kw_only=True)
class LossShift:
    """Two-sided cumulative sums over rows and, where there is a log-trend, over blocks of rows.

    Parameters
    ----------
    thresholds
        Of ``fast``, ``fast_down``, ``slow`` and ``slow_down``.
    allowance
        Standard deviations that a row has to exceed to count: 0.75 against a log-trend, which wanders, 0.4 against a
        reference on the same batches.
    hold
        Rows for which the arms rest after an alarm.
    rise, fall, slow_rise, slow_fall
        The sums.
    bias, lagging
        Running mean of older standardised residuals, and the rows that wait.
    resting
        Rows until the arms act again.
    """

    thresholds: dict[str, float]
    allowance: float
    hold: int = HOLD
    rise: CumulativeSum = field(init=False)
    fall: CumulativeSum = field(init=False)
    slow_rise: CumulativeSum = field(default_factory=lambda: CumulativeSum(allowance=BLOCK_ALLOWANCE, clip=4.0))
    slow_fall: CumulativeSum = field(default_factory=lambda: CumulativeSum(allowance=BLOCK_ALLOWANCE, clip=4.0))
    bias: float = 0.0
    lagging: deque[float] = field(default_factory=deque)
    resting: int = 0

    def __post_init__(self) -> None:
        self.rise = CumulativeSum(allowance=self.allowance, clip=3.0)
        self.fall = CumulativeSum(allowance=self.allowance, clip=3.0)

    def learn_bias(self, score: float) -> float:
        """Return the score less the mean of older ones."""
        self.lagging.append(4.0 if score > 4.0 else -4.0 if score < -4.0 else score)
        if len(self.lagging) > BIAS_LAG:
            self.bias += (self.lagging.popleft() - self.bias) / BIAS_MEMORY
        return score - self.bias

    def add(self, above: float, below: float, scale: float, may_rise: bool, may_fall: bool) -> Alarm | None:
        """Take one standardised row.

        Parameters
        ----------
        above, below
            How far the row is above and below what is expected, in standard deviations: one is the other's negative,
            less what is uncertain in the forecast.
        scale
            Standard deviation of a row, for the size of the shift.
        may_rise, may_fall
            Whether a change in that direction is expected because the learning rate changes; that arm then rests.
        """
        return self._take("fast", self.rise, self.fall, above, below, scale, 1, may_rise, may_fall)

    def add_block(
        self, above: float, below: float, scale: float, num_rows: int, may_rise: bool, may_fall: bool
    ) -> Alarm | None:
        """Take one standardised block of ``num_rows`` rows."""
        return self._take("slow", self.slow_rise, self.slow_fall, above, below, scale, num_rows, may_rise, may_fall)

    def _take(
        self,
        test: str,
        rise: CumulativeSum,
        fall: CumulativeSum,
        above: float,
        below: float,
        scale: float,
        num_rows: int,
        may_rise: bool,
        may_fall: bool,
    ) -> Alarm | None:
        if self.resting > 0:
            return None
        if may_rise:
            rise.reset()
        elif rise.add(above) > self.thresholds[test]:
            return self._alarm("up", rise, test, scale, num_rows)
        if may_fall:
            fall.reset()
        elif fall.add(below) > self.thresholds[f"{test}_down"]:
            return self._alarm("down", fall, f"{test}_down", scale, num_rows)
        return None

    def rest(self) -> None:
        """Start all sums again after a pause."""
        for total in (self.rise, self.fall, self.slow_rise, self.slow_fall):
            total.reset()
        self.lagging.clear()
        self.bias = 0.0
        self.resting = self.hold

    def _alarm(self, direction: str, total: CumulativeSum, test: str, scale: float, rows: int) -> Alarm:
        up = direction == "up"
        num, statistic = max(1, total.num_rows), total.total
        size = (statistic / num + total.allowance) * scale
        self.rest()
        return Alarm(
            detector="loss_shift",
            kind="loss_shift",
            direction="up" if up else "down",
            statistic=statistic,
            threshold=self.thresholds[test],
            onset_rows=num * rows,
            size=size if up else -size,
            test=test,
        )
