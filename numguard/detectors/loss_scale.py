"""Exact rules on what mixed-precision training says about itself: the loss scale, and steps that were skipped."""

from dataclasses import dataclass
from typing import Final

#: A gradient scaler halves its scale after an overflow and doubles it every 2,000 steps. Halving now and then is its
#: way of working; this many halvings with no doubling between them are not.
NUM_HALVINGS: Final = 3
#: Overflows one after another are skipped steps; this many in a row mean that no step is taken.
NUM_SKIPPED: Final = 5


@dataclass(slots=True, kw_only=True)
class LossScale:
    """Counts halvings and skipped steps; no statistic.

    Parameters
    ----------
    scale, top
        Last loss scale, and the one from which it began to fall.
    num_skipped
        Skipped steps in a row.
    said_fall, said_skipped
        Whether this fall, or these skipped steps, were reported.
    """

    scale: float | None = None
    top: float = 0.0
    num_skipped: int = 0
    said_fall: bool = False
    said_skipped: bool = False

    def add_scale(self, scale: float) -> str:
        """Take the loss scale of one row; return what is wrong, or an empty text."""
        before, self.scale = self.scale, scale
        if before is None or scale > before:
            self.top, self.said_fall = scale, False
            return ""
        if self.said_fall or scale > self.top / 2.0**NUM_HALVINGS:
            return ""
        self.said_fall = True
        return f"the loss scale fell from {self.top:g} to {scale:g} without rising in between"

    def add_skipped(self, skipped: bool) -> str:
        """Take whether the step was skipped; return what is wrong, or an empty text."""
        if not skipped:
            self.num_skipped, self.said_skipped = 0, False
            return ""
        self.num_skipped += 1
        if self.said_skipped or self.num_skipped < NUM_SKIPPED:
            return ""
        self.said_skipped = True
        return f"{self.num_skipped} optimizer steps in a row were skipped"
