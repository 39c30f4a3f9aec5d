"""Where the loss is heading by its own past: between two curves through blocks of rows."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from numguard.detectors.frozen_window import MAD_OF_NORMAL

BLOCK: Final = 32
NUM_BLOCKS: Final = 96
NUM_ERRORS: Final = 64
NUM_WAITING: Final = 12
LEAST_BLOCKS: Final = 8
#: Standard deviation of a block's mean around a forecast, as a multiple of that of independent rows, before the run
#: has shown its own; and the number of blocks that this guess counts for.
PRIOR_INFLATION: Final = 1.5
PRIOR_BLOCKS: Final = 8
#: No curve keeps its shape for ever: older blocks than this are left out.
LOG_SPAN: Final = math.log(2.5)
#: Exponents b of ``level + slope * (1 - step^-b) / b`` that are believed: from a line in the logarithm of the step
#: (b = 0) to a power law that has nearly reached its end.
BENDS: Final = (0.0, 1.0)


@dataclass(slots=True, kw_only=True)
class LogTrend:
    """Blocks of rows, the curves through the older ones, and how well they forecast the newer ones.

    The newest :data:`NUM_WAITING` blocks do not enter the curves, and the errors of the newest do not enter their
    scale: a slow fault is judged against what was known before it began. How a loss curve bends cannot be told from
    the noise of the part that is fitted, so the forecast is all that lies between a curve that goes on falling and
    one that comes to rest, and only what leaves that range counts.

    Parameters
    ----------
    log_steps, means, errors
        One entry for each of the last blocks; errors are relative to the middle of the forecast of that time, for
        one in the middle of the blocks behind it.
    open_total, open_log_step, open_rows
        The block being filled.
    origin, levels, slopes
        Logarithm of the step at which each of the :data:`BENDS` has this level and this change per e-fold of steps.
    num_fitted, centre, spread
        Blocks behind the curves, the mean of their logarithms of the step and the squares around it.
    """

    log_steps: deque[float] = field(default_factory=deque)
    means: deque[float] = field(default_factory=deque)
    errors: deque[float] = field(default_factory=deque)
    open_total: float = 0.0
    open_log_step: float = 0.0
    open_rows: int = 0
    origin: float = 0.0
    levels: list[float] = field(default_factory=lambda: [0.0, 0.0])
    slopes: list[float] = field(default_factory=lambda: [0.0, 0.0])
    num_fitted: int = 0
    centre: float = 0.0
    spread: float = 1.0

    @property
    def fitted(self) -> bool:
        """Whether there is a forecast."""
        return self.num_fitted >= LEAST_BLOCKS

    def add(self, step: float, value: float) -> bool:
        """Take a row, outliers already pulled in; return whether a block is full."""
        self.open_total += value
        self.open_log_step += math.log(step + 1.0) if step > -1.0 else 0.0
        self.open_rows += 1
        return self.open_rows == BLOCK

    def close_block(self, row_scale: float) -> tuple[float, float] | None:
        """Judge the full block and refit.

        Parameters
        ----------
        row_scale
            Standard deviation of a row.

        Returns
        -------
        tuple of float, or None
            How far the block's mean is above the upper and below the lower end of its forecast, in standard deviations
            of forecast errors; None before there is a forecast.

        Notes
        -----
        A line through n points forecasts a new one with ``sqrt(1 + 1/n + (x - mean)^2 / sum (x_i - mean)^2)`` times
        the standard deviation around it (Draper and Smith, Applied Regression Analysis, section 1.4).
        """
        mean, at = self.open_total / BLOCK, self.open_log_step / BLOCK
        self.open_total = self.open_log_step = 0.0
        self.open_rows = 0
        scores = None
        if self.fitted:
            low, high = self._forecast(at)
            distance = at - self.centre
            leverage = distance * distance / self.spread if self.spread > 0.0 else 0.0
            widening = math.sqrt(1.0 + 1.0 / self.num_fitted + leverage)
            scale = self.error_scale(row_scale) * widening
            scores = (mean - high) / scale, (low - mean) / scale
            self.errors.append((mean - (low + high) / 2.0) / widening)
            if len(self.errors) > NUM_ERRORS:
                self.errors.popleft()
        self.log_steps.append(at)
        self.means.append(mean)
        if len(self.means) > NUM_BLOCKS:
            self.log_steps.popleft()
            self.means.popleft()
        self._fit()
        return scores

    def error_scale(self, row_scale: float) -> float:
        """Return the standard deviation of a block's forecast error: a guess, outweighed by the run's own errors."""
        guess = PRIOR_INFLATION * row_scale / math.sqrt(BLOCK)
        known = list(self.errors)[:-NUM_WAITING]
        if not known:
            return guess
        own = sorted([abs(error) for error in known])[len(known) // 2] / MAD_OF_NORMAL
        return math.sqrt((PRIOR_BLOCKS * guess * guess + len(known) * own * own) / (PRIOR_BLOCKS + len(known)))

    def slope_at(self, step: float) -> float | None:
        """Return the change of the loss per step in the middle of the forecast, None before there is one."""
        if not self.fitted or step <= -1.0:
            return None
        ahead = max(0.0, math.log(step + 1.0) - self.origin)
        per_e_fold = [slope * math.exp(-bend * ahead) for bend, slope in zip(BENDS, self.slopes, strict=True)]
        return sum(per_e_fold) / len(BENDS) / (step + 1.0)

    @property
    def steps_per_row(self) -> float:
        """Steps between two rows, from the last two blocks; 1 before there are two."""
        if len(self.log_steps) < 2:
            return 1.0
        return max(0.0, math.exp(self.log_steps[-1]) - math.exp(self.log_steps[-2])) / BLOCK

    def drop_after(self, step: float) -> None:
        """Forget the blocks that lie after a step to which the run went back."""
        end = math.log(max(step, 0.0) + 1.0)
        while self.log_steps and self.log_steps[-1] >= end:
            self.log_steps.pop()
            self.means.pop()
        self.open_total = self.open_log_step = 0.0
        self.open_rows = 0
        self._fit()

    def clear(self) -> None:
        """Forget the blocks; the scale of the errors stays."""
        self.log_steps.clear()
        self.means.clear()
        self.open_total = self.open_log_step = 0.0
        self.open_rows = self.num_fitted = 0

    def _fit(self) -> None:
        # After going back the curves that are there stay, until there are blocks enough for new ones.
        num_waiting = min(NUM_WAITING, len(self.means) // 4)
        num_blocks = len(self.means) - num_waiting
        if num_blocks < LEAST_BLOCKS:
            self.num_fitted = num_blocks
            return
        steps, means = list(self.log_steps)[:num_blocks], list(self.means)[:num_blocks]
        recent = sum([at >= self.log_steps[-1] - LOG_SPAN for at in steps])
        num_blocks = self.num_fitted = max(LEAST_BLOCKS, recent)
        steps, means = steps[-num_blocks:], means[-num_blocks:]
        self.origin, mean = steps[-1], sum(means) / num_blocks
        for index, bend in enumerate(BENDS):
            places = [_place(at - self.origin, bend) for at in steps]
            middle = sum(places) / num_blocks
            spread = sum([(place - middle) ** 2 for place in places])
            product = sum([(place - middle) * (value - mean) for place, value in zip(places, means, strict=True)])
            self.slopes[index] = product / spread if spread > 0.0 else 0.0
            self.levels[index] = mean - self.slopes[index] * middle
            if bend == 0.0:
                self.centre, self.spread = self.origin + middle, spread

    def _forecast(self, at: float) -> tuple[float, float]:
        ends = [
            level + slope * _place(at - self.origin, bend)
            for bend, level, slope in zip(BENDS, self.levels, self.slopes, strict=True)
        ]
        return min(ends), max(ends)


def _place(ahead: float, bend: float) -> float:
    """Return the abscissa in which a curve of this bend is a line: ``ahead`` itself near zero."""
    return ahead if bend == 0.0 else -math.expm1(-bend * ahead) / bend
