"""What a guard has cost, on its own clock."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Overhead:
    """Seconds and steps.

    Parameters
    ----------
    own_seconds, elapsed_seconds
        What numguard spent, and how long the run took in all, pauses left out.
    burst_seconds
        Part of ``own_seconds`` that was asked for as bursts and is not charged to the budget.
    num_steps, num_armed_steps, num_checks
        Counts so far.
    interval
        Every how many steps one is armed now; 0 while none is.
    """

    own_seconds: float = 0.0
    elapsed_seconds: float = 0.0
    burst_seconds: float = 0.0
    num_steps: int = 0
    num_armed_steps: int = 0
    num_checks: int = 0
    interval: int = 0

    @property
    def share(self) -> float:
        """Own seconds per elapsed second, bursts included."""
        return self.own_seconds / self.elapsed_seconds if self.elapsed_seconds else 0.0

    def __float__(self) -> float:
        """Return the share, so that ``float(g.overhead)`` can be logged beside the loss."""
        return self.share
