"""The loss leaves the band of a prediction that was registered before."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from numguard.detectors.alarm import Alarm

#: A trend: the value and the band that were predicted for a step, or None where nothing was predicted.
Trend = Callable[[int], "tuple[float, float, float] | None"]

BLOCK: Final = 16
#: Whole blocks outside the band, one after another, before it is said.
NUM_BLOCKS: Final = 2


@dataclass(slots=True, kw_only=True)
class OffTrend:
    """Means of blocks of rows against the band of a registered prediction.

    The band is the prediction's own claim; nothing is calibrated here. The noise of a block's mean is added to it, so
    that a noisy loss inside the band is inside.

    Parameters
    ----------
    total, value, low, high, num_rows
        Sums over the open block.
    outside
        Blocks outside one after another, negative below the band.
    said
        Whether this departure was reported.
    """

    total: float = 0.0
    value: float = 0.0
    low: float = 0.0
    high: float = 0.0
    num_rows: int = 0
    outside: int = 0
    said: bool = False

    def add(self, loss: float, predicted: tuple[float, float, float], scale: float) -> Alarm | None:
        """Take one row.

        Parameters
        ----------
        loss
            A finite loss.
        predicted
            Value, low and high end of the band at this step.
        scale
            Standard deviation of a row.
        """
        value, low, high = predicted
        self.total += loss
        self.value += value
        self.low += low
        self.high += high
        self.num_rows += 1
        if self.num_rows < BLOCK:
            return None
        mean, value, low, high = (part / BLOCK for part in (self.total, self.value, self.low, self.high))
        self.restart()
        margin = 3.0 * scale / BLOCK**0.5
        side = 1 if mean > high + margin else -1 if mean < low - margin else 0
        self.outside = self.outside + side if side * self.outside > 0 else side
        if side == 0:
            self.said = False
        if abs(self.outside) < NUM_BLOCKS or self.said:
            return None
        self.said = True
        return Alarm(
            detector="off_trend",
            kind="off_trend",
            direction="up" if side > 0 else "down",
            statistic=mean,
            threshold=high if side > 0 else low,
            onset_rows=NUM_BLOCKS * BLOCK,
            size=mean - value,
            test="",
        )

    def restart(self) -> None:
        """Open a new block."""
        self.total = self.value = self.low = self.high = 0.0
        self.num_rows = 0
