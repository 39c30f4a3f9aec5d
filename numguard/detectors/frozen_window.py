"""What is normal just now: a level and a scale from rows that are old enough not to hold the fault being looked for."""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

#: Median absolute deviation of a normal distribution, as a share of its standard deviation.
MAD_OF_NORMAL: Final = 0.6745
#: Smallest scale, as a share of the loss: what rounding to four digits in a log can hide.
SCALE_FLOOR: Final = 1e-4

REFRESH: Final = 8
NUM_NEWEST: Final = 7
NUM_DIFFERENCES: Final = 96
#: Deviation, in standard deviations by the median, from which on a row counts no more for the scale.
MOST: Final = 3.0


def scale_of(ordered: Sequence[float]) -> float:
    """Return the standard deviation of rows from the sizes of their deviations.

    Parameters
    ----------
    ordered
        Absolute deviations, in ascending order; not empty.

    Notes
    -----
    The tau-scale of Yohai and Zamar (JASA 83, 1988): the root mean square of the deviations, each pulled in to
    :data:`MOST` standard deviations by the median. As robust as the median, but heavier tails than those of a normal
    distribution make it wider; for a normal one it is 0.25 % below the standard deviation.
    """
    num_rows = len(ordered)
    by_median = ordered[num_rows // 2] / MAD_OF_NORMAL
    most = MOST * by_median
    inside = bisect_right(ordered, most)
    return math.sqrt((sum([size * size for size in ordered[:inside]]) + (num_rows - inside) * most * most) / num_rows)


@dataclass(slots=True, kw_only=True)
class FrozenWindow:
    """The last rows but for the newest ones, with their median and a robust scale.

    Parameters
    ----------
    capacity
        Rows that are kept.
    gap
        Newest rows that wait outside, so that a fault does not become its own baseline before it is seen.
        While fewer than four times as many rows are known, a quarter of them waits.
    steps, values, waiting_steps, waiting_values
        The rows; a row's place in the log is its "step" here, so that a log that thins out stays even.
    level, scale
        Median of the values, carried to ``origin`` along ``slope``, and the scale of the deviations from that line.
    origin, slope, middle
        Step to which ``level`` belongs, the change of the level per step, and the step in the middle of the rows.
    num_seen
        Rows taken so far.
    """

    capacity: int
    gap: int
    steps: deque[float] = field(default_factory=deque)
    values: deque[float] = field(default_factory=deque)
    waiting_steps: deque[float] = field(default_factory=deque)
    waiting_values: deque[float] = field(default_factory=deque)
    level: float = 0.0
    scale: float = 0.0
    origin: float = 0.0
    slope: float = 0.0
    middle: float = 0.0
    num_seen: int = 0

    @property
    def num_rows(self) -> int:
        """Rows inside the window."""
        return len(self.values)

    def add(self, step: float, value: float) -> None:
        """Take a row that is not part of a fault."""
        waiting_steps, waiting_values = self.waiting_steps, self.waiting_values
        waiting_steps.append(step)
        waiting_values.append(value)
        self.num_seen += 1
        gap = self.gap if self.num_seen >= 4 * self.gap else self.num_seen // 4
        while len(waiting_values) > gap:
            self.steps.append(waiting_steps.popleft())
            self.values.append(waiting_values.popleft())
            if len(self.values) > self.capacity:
                self.steps.popleft()
                self.values.popleft()

    def refresh(self, step: float, slope: float | None, floor: float) -> None:
        """Compute level and scale anew.

        Parameters
        ----------
        step
            The present step.
        slope
            Change of the level per step as known from elsewhere; None to take it from this window's outer thirds.
        floor
            Least scale.

        Notes
        -----
        The slope from the outer thirds is Tukey's resistant line (Exploratory Data Analysis, 1977, chapter 10).
        """
        if not self.values:
            return
        self.slope = self._resistant_slope() if slope is None else slope
        slope = self.slope
        carried = [value + slope * (step - at) for at, value in zip(self.steps, self.values, strict=True)]
        ordered = sorted(carried)
        num_rows = len(ordered)
        level = ordered[num_rows // 2]
        deviations = sorted([abs(value - level) for value in carried])
        self.level, self.origin, self.middle = level, step, self.steps[num_rows // 2]
        self.scale = max(scale_of(deviations), floor)

    def forecast(self, step: float) -> float:
        """Return the value that is expected at a step."""
        return self.level + self.slope * (step - self.origin)

    def rise_by_slope(self, step: float) -> float:
        """Return how much of the forecast at a step is the slope carried on from the middle of the rows."""
        return self.slope * (step - self.middle)

    def newest_level(self) -> float:
        """Return the median of the newest normal rows; minus infinity where there are none."""
        newest = sorted([*self.waiting_values][-NUM_NEWEST:])
        return newest[len(newest) // 2] if newest else -math.inf

    def difference_scale(self, floor: float) -> float:
        """Return the standard deviation of a row by the differences of the newest rows: blind to level and slope."""
        # The newest rows may hold the fault itself, so the median alone speaks.
        rows = [*self.values, *self.waiting_values][-NUM_DIFFERENCES:]
        if len(rows) < 2:
            return 0.0
        sizes = sorted([abs(after - before) for before, after in pairwise(rows)])
        return max(sizes[len(sizes) // 2] / MAD_OF_NORMAL * math.sqrt(0.5), floor)

    def clear(self, *, keep_scale: bool) -> None:
        """Forget the rows, after a restart or a jump that is now the new normal."""
        for rows in (self.steps, self.values, self.waiting_steps, self.waiting_values):
            rows.clear()
        self.num_seen = 0
        if not keep_scale:
            self.scale = 0.0

    def _resistant_slope(self) -> float:
        num_rows = len(self.values)
        third = num_rows // 3
        if third < 2:
            return 0.0
        steps, values = list(self.steps), list(self.values)
        early, late = sorted(values[:third])[third // 2], sorted(values[-third:])[third // 2]
        distance = sum(steps[-third:]) / third - sum(steps[:third]) / third
        return (late - early) / distance if distance > 0 else 0.0
