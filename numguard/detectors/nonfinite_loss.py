"""The logged loss is NaN or infinite: an exact rule, outside all statistics."""

import math
from dataclasses import dataclass
from typing import Final

QUIET_ROWS: Final = 50


@dataclass(slots=True, kw_only=True)
class NonfiniteLoss:
    """One finding for each episode of nonfinite values.

    Parameters
    ----------
    quiet
        Finite rows since the last nonfinite one.
    num_rows
        Nonfinite rows so far.
    """

    quiet: int = QUIET_ROWS
    num_rows: int = 0

    def add(self, value: float, what: str) -> str:
        """Take a value; return what is wrong at the first nonfinite one of an episode, else an empty text."""
        if math.isfinite(value):
            self.quiet += 1
            return ""
        first, self.quiet = self.quiet >= QUIET_ROWS, 0
        self.num_rows += 1
        return f"the {what} is {value}" if first else ""
