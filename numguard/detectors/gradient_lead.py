"""The gradient norm jumps; on real logs the loss follows one step later."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from numguard.detectors.alarm import Alarm

CAPACITY: Final = 64
#: Standard deviation of the logarithm of a gradient norm that is believed before the run has shown its own, and the
#: number of rows that this belief counts for.
PRIOR_SCALE: Final = 0.25
PRIOR_ROWS: Final = 8
QUIET_ROWS: Final = 50
#: Rows from which on the run's own scatter outweighs the prior, and the tighter threshold of a known scatter holds.
GROWN: Final = 16
#: Least ratio to the usual gradient norm, below which nothing is said, however calm the run was before.
LEAST_RATIO: Final = 10.0


@dataclass(slots=True, kw_only=True)
class GradientLead:
    """The logarithm of the gradient norm against its own recent past, from the second row on.

    Parameters
    ----------
    thresholds
        Of ``gradient`` and, with fewer than :data:`GROWN` rows known, ``gradient_young``, in standard deviations
        of the logarithm.
    recent
        Logarithms of the last norms that were not outside.
    quiet
        Rows since the last one outside.

    Notes
    -----
    The scale is that of a normal prior worth :data:`PRIOR_ROWS` rows mixed with the run's own mean square deviation,
    widened by ``sqrt(1 + 1/n)`` for the error of the mean: with one earlier row the rule is wide, but not blind.
    """

    thresholds: dict[str, float]
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=CAPACITY))
    quiet: int = QUIET_ROWS

    def add(self, norm: float) -> Alarm | None:
        """Take the gradient norm of one row; zero and nonfinite norms are left to the exact alarms."""
        if not 0.0 < norm < math.inf:
            return None
        value, recent = math.log(norm), self.recent
        num_rows = len(recent)
        if num_rows == 0:
            recent.append(value)
            return None
        level = sum(recent) / num_rows
        if value - level < math.log(LEAST_RATIO):
            recent.append(value)
            self.quiet += 1
            return None
        variance = sum([(known - level) ** 2 for known in recent])
        scale = math.sqrt((PRIOR_ROWS * PRIOR_SCALE**2 + variance) / (PRIOR_ROWS + num_rows) * (1.0 + 1.0 / num_rows))
        score = (value - level) / scale
        test = "gradient" if num_rows >= GROWN else "gradient_young"
        threshold = self.thresholds[test]
        if score <= threshold:
            recent.append(value)
            self.quiet += 1
            return None
        first, self.quiet = self.quiet >= QUIET_ROWS, 0
        # One row outside in eight is let in, so that a new and higher level becomes the usual one in the end.
        recent.append(level + min(value - level, math.log(LEAST_RATIO)) / 8.0)
        if not first:
            return None
        return Alarm(
            detector="gradient_lead",
            kind="loss_spike",
            direction="up",
            statistic=score,
            threshold=threshold,
            onset_rows=1,
            size=math.exp(value - level),
            test=test,
        )

    def restart(self) -> None:
        """Forget the past: the rows after a jump in the steps belong to another stretch."""
        self.recent.clear()
