"""Changes of the loss that a change of the learning rate explains."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

SPAN: Final = 128
#: Relative change over :data:`SPAN` rows below which a schedule counts as flat. A cosine over 20,000 steps changes by
#: 2 % in that span, a linear cooldown over 1,500 by 8 % and more.
FLAT: Final = 0.05
#: Relative change from one row to the next that is a new setting, not a schedule.
STEP: Final = 0.2


@dataclass(slots=True, kw_only=True)
class LearningRate:
    """The last learning rates.

    Parameters
    ----------
    recent
        One for each of the last rows.
    """

    recent: deque[float] = field(default_factory=lambda: deque(maxlen=SPAN))

    def add(self, rate: float) -> tuple[bool, bool, bool]:
        """Take one rate; return whether the loss may rise, may fall, and whether a new setting began."""
        recent = self.recent
        last, first = (recent[-1], recent[0]) if recent else (rate, rate)
        recent.append(rate)
        jumped = abs(rate - last) > STEP * max(abs(rate), abs(last))
        change = rate - first
        flat = FLAT * max(abs(rate), abs(first))
        return change > flat, change < -flat, jumped
