"""Where the loss is heading by its own past: a line in the logarithm of the step, through blocks of rows."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from numguard.detectors.frozen_window import MAD_OF_NORMAL

BLOCK: Final = 32
NUM_BLOCKS: Final = 64
NUM_WAITING: Final = 12
LEAST_BLOCKS: Final = 8
#: Standard deviation of a block's mean around a forecast, as a multiple of that of independent rows, before the run
#: has shown its own; and the number of blocks that this guess counts for.
PRIOR_INFLATION: Final = 1.5
PRIOR_BLOCKS: Final = 8
#: A curve is straight in the logarithm of the step only for a while: older blocks than this are left out.
LOG_SPAN: Final = math.log(2.5)


@dataclass(slots=True, kw_only=True)
class LogTrend:
    """Blocks of rows, the line through the older ones, and how well it forecast the newer ones.

    The newest :data:`NUM_WAITING` blocks do not enter the line, and the errors of the newest do not enter its scale:
    a slow fault is judged against what was known before it began.

    Parameters
    ----------
    log_steps, means, errors
        One entry for each of the last blocks; errors are relative to the forecast of that time.
    open_total, open_log_step, open_rows
        The block being filled.
    level, slope
        ``level + slope * log(step)``.
    num_fitted
        Blocks behind the line.
    """

    log_steps: deque[float] = field(default_factory=deque)
    means: deque[float] = field(default_factory=deque)
    errors: deque[float] = field(default_factory=deque)
    open_total: float = 0.0
    open_log_step: float = 0.0
    open_rows: int = 0
    level: float = 0.0
    slope: float = 0.0
    num_fitted: int = 0

    @property
    def fitted(self) -> bool:
        """Whether there is a line."""
        return self.num_fitted >= LEAST_BLOCKS

    def add(self, step: float, value: float) -> bool:
        """Take a row, outliers already pulled in; return whether a block is full."""
        self.open_total += value
        self.open_log_step += math.log(step + 1.0) if step > -1.0 else 0.0
        self.open_rows += 1
        return self.open_rows == BLOCK

    def close_block(self, row_scale: float) -> float | None:
        """Judge the full block and refit.

        Parameters
        ----------
        row_scale
            Standard deviation of a row.

        Returns
        -------
        float or None
            The block's mean minus its forecast, in standard deviations of such errors; None before there is a line.
        """
        mean, at = self.open_total / BLOCK, self.open_log_step / BLOCK
        self.open_total = self.open_log_step = 0.0
        self.open_rows = 0
        score = None
        if self.fitted:
            error = mean - self.level - self.slope * at
            score = error / self.error_scale(row_scale)
            self.errors.append(error)
            if len(self.errors) > NUM_BLOCKS:
                self.errors.popleft()
        self.log_steps.append(at)
        self.means.append(mean)
        if len(self.means) > NUM_BLOCKS:
            self.log_steps.popleft()
            self.means.popleft()
        self._fit()
        return score

    def error_scale(self, row_scale: float) -> float:
        """Return the standard deviation of a block's forecast error: a guess, outweighed by the run's own errors."""
        guess = PRIOR_INFLATION * row_scale / math.sqrt(BLOCK)
        known = list(self.errors)[:-NUM_WAITING]
        if not known:
            return guess
        own = sorted([abs(error) for error in known])[len(known) // 2] / MAD_OF_NORMAL
        return math.sqrt((PRIOR_BLOCKS * guess**2 + len(known) * own**2) / (PRIOR_BLOCKS + len(known)))

    def slope_at(self, step: float) -> float | None:
        """Return the change of the loss per step, None before there is a line."""
        return self.slope / (step + 1.0) if self.fitted else None

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
        # After going back the line that is there stays, until there are blocks enough for a new one.
        num_waiting = min(NUM_WAITING, len(self.means) // 4)
        num_blocks = len(self.means) - num_waiting
        self.num_fitted = num_blocks
        if num_blocks < LEAST_BLOCKS:
            return
        steps, means = list(self.log_steps)[:num_blocks], list(self.means)[:num_blocks]
        recent = sum([at >= self.log_steps[-1] - LOG_SPAN for at in steps])
        num_blocks = max(LEAST_BLOCKS, recent)
        steps, means = steps[-num_blocks:], means[-num_blocks:]
        middle, mean = sum(steps) / num_blocks, sum(means) / num_blocks
        spread = sum([(at - middle) ** 2 for at in steps])
        product = sum([(at - middle) * (value - mean) for at, value in zip(steps, means, strict=True)])
        self.slope = product / spread if spread > 0.0 else 0.0
        self.level = mean - self.slope * middle
