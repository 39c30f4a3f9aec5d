"""The step-to-step noise of the loss grows, or vanishes."""

import math
from dataclasses import dataclass, field
from typing import Final

from numguard.detectors.alarm import Alarm
from numguard.detectors.frozen_window import MAD_OF_NORMAL, FrozenWindow, scale_of

#: Most that a squared difference counts, in variances: one outlier alone is a spike, not noise.
CLIP: Final = 9.0
REFRESH: Final = 32
LEAST_ROWS: Final = 256


def _window() -> FrozenWindow:
    return FrozenWindow(capacity=512, gap=96)


@dataclass(slots=True, kw_only=True)
class LossNoise:
    """Likelihood-ratio sums of the differences between neighbouring rows, for twice and for half the noise.

    Differences do not see level or trend, so neither a shift nor a drift is taken for noise.

    Parameters
    ----------
    thresholds
        Of ``noise`` and ``noise_down``.
    window
        Sizes of older differences.
    previous
        Last row.
    growing, vanishing, growing_rows, vanishing_rows
        The sums, and rows since each was zero.
    num_rows
        Differences taken.

    Notes
    -----
    For a normal difference d with variance s^2 the log likelihood ratio of 4 s^2 against s^2 is
    3/8 (d/s)^2 - log 2, of s^2/4 against s^2 it is log 2 - 3/2 (d/s)^2 (Page's sum, Biometrika 41, 1954).
    """

    thresholds: dict[str, float]
    window: FrozenWindow = field(default_factory=_window)
    previous: float | None = None
    growing: float = 0.0
    vanishing: float = 0.0
    growing_rows: int = 0
    vanishing_rows: int = 0
    num_rows: int = 0

    def add(self, value: float, floor: float) -> Alarm | None:
        """Take one row of the residual.

        Parameters
        ----------
        value
            The loss, or its difference from a reference.
        floor
            Least standard deviation.
        """
        previous, self.previous = self.previous, value
        if previous is None:
            return None
        size = abs(value - previous) * 0.7071067811865476
        window = self.window
        self.num_rows += 1
        if self.num_rows % REFRESH == 0 and window.num_rows >= 64:
            window.scale = max(scale_of(sorted(window.values)), floor)
        window.add(0.0, size)
        if window.scale <= 0.0 or window.num_rows < LEAST_ROWS:
            return None
        ratio = size / window.scale
        square = min(ratio * ratio, CLIP)
        self.growing = max(0.0, self.growing + 0.375 * square - math.log(2.0))
        # Where there is no more noise than rounding in the log leaves, none can vanish.
        self.vanishing = max(0.0, self.vanishing + math.log(2.0) - 1.5 * square) if window.scale > 2.0 * floor else 0.0
        self.growing_rows = self.growing_rows + 1 if self.growing > 0.0 else 0
        self.vanishing_rows = self.vanishing_rows + 1 if self.vanishing > 0.0 else 0
        if self.growing > self.thresholds["noise"]:
            return self._alarm("up", self.growing, self.thresholds["noise"], self.growing_rows)
        if self.vanishing > self.thresholds["noise_down"]:
            return self._alarm("down", self.vanishing, self.thresholds["noise_down"], self.vanishing_rows)
        return None

    def _alarm(self, direction: str, statistic: float, threshold: float, rows: int) -> Alarm:
        newest = sorted([*self.window.waiting_values][-min(rows, 64) :])
        size = newest[len(newest) // 2] / MAD_OF_NORMAL / self.window.scale
        self.restart()
        return Alarm(
            detector="loss_noise",
            kind="loss_noise",
            direction="up" if direction == "up" else "down",
            statistic=statistic,
            threshold=threshold,
            onset_rows=rows,
            size=size,
            test="noise" if direction == "up" else "noise_down",
        )

    def restart(self) -> None:
        """Learn the noise anew: after an alarm, a restart or a new learning rate."""
        self.window.clear(keep_scale=False)
        self.previous = None
        self.growing = self.vanishing = 0.0
        self.growing_rows = self.vanishing_rows = 0
