"""What a detector hands to the monitor when its statistic crosses its threshold."""

from dataclasses import dataclass
from typing import Literal

Direction = Literal["up", "down"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """One crossing.

    Parameters
    ----------
    detector
        Name in :data:`numguard.detectors.DETECTORS`.
    kind
        Kind of finding.
    direction
        Whether the quantity rose or fell: a wrong sum can make the loss look better.
    statistic, threshold
        In the detector's own unit.
    onset_rows
        Estimated number of rows since the change began, this one included.
    size
        Height of the change, in the unit of the loss (for noise and gradients: a ratio).
    test
        Name of the threshold in :data:`numguard.detectors.alarm_budget.THRESHOLDS`; empty where there is none.
    """

    detector: str
    kind: str
    direction: Direction
    statistic: float
    threshold: float
    onset_rows: int
    size: float
    test: str
