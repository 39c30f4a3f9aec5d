"""Page's cumulative sum: a small change of the mean that lasts adds up, noise does not."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class CumulativeSum:
    """One-sided sum of what exceeds an allowance, never below zero.

    Parameters
    ----------
    allowance
        What each row has to exceed to count, in standard deviations: half of the smallest change to be found soon.
    clip
        Most that one row can add, so that one hard batch is not a change of level.
    total
        The sum.
    num_rows
        Rows since the sum was last zero: the estimate of when the change began.

    Notes
    -----
    E. S. Page, Continuous inspection schemes, Biometrika 41 (1954). For independent rows the mean time between false
    alarms grows exponentially in the threshold; rows of a loss curve are not independent, therefore thresholds are
    measured on real runs (:mod:`numguard.detectors.alarm_budget`).
    """

    allowance: float
    clip: float
    total: float = 0.0
    num_rows: int = 0

    def add(self, score: float) -> float:
        """Take one standardised row and return the sum."""
        clip = self.clip
        gain = (clip if score > clip else -clip if score < -clip else score) - self.allowance
        total = self.total + gain
        if total > 0.0:
            self.num_rows += 1
        else:
            total, self.num_rows = 0.0, 0
        self.total = total
        return total

    def reset(self) -> None:
        """Start again from zero."""
        self.total, self.num_rows = 0.0, 0
