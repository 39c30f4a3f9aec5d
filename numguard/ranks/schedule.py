"""Which steps are armed: a pure function of step and seed that is the same on all ranks.

A synchronous job runs at the pace of its slowest rank: ranks that arm different steps would each slow down all of
them. So they arm the same steps, every ``interval`` steps, and the interval changes only at agreed steps.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Final

#: Intervals divide 200, so that every window of 200 steps holds the same number of armed steps.
INTERVALS: Final = (1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 200)
FIRST_AGREEMENT: Final = 10  # the first steps only measure how long a step lasts
EPOCH: Final = 200
SPARE: Final = 0.85  # share of the budget that is planned; the rest covers what an estimate misses


def is_armed(step: int, seed: int, interval: int) -> bool:
    """Return whether a step is armed.

    Parameters
    ----------
    step
        Counted from 0 within the attempt, the same on all ranks.
    seed
        The run's seed; shifts the phase so that a period of the training loop is not always met at the same point.
    interval
        Every how many steps; 0 arms none.
    """
    if interval <= 0:
        return False
    return step % interval == _phase(seed) % interval


@cache
def _phase(seed: int) -> int:
    return int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "little")


def interval_for(
    share: float,
    step_seconds: float,
    resting_seconds: float,
    arming_seconds: float,
    checking_seconds: float | None = None,
) -> int:
    """Return every how many steps one can afford to arm, or 0 where the budget does not allow it at all.

    Parameters
    ----------
    share
        Budget.
    step_seconds
        Length of a step.
    resting_seconds
        What an unarmed step costs.
    arming_seconds
        What an armed step costs before it has checked anything: the mode's pass over every operator.
    checking_seconds
        What checks of all its calls would cost; None where that is not known yet.

    Notes
    -----
    Rarely armed steps lose little to ``arming_seconds``, until there is no call left that they could check; steps that
    are armed often find a fault earlier. So the shortest interval is taken that buys nine tenths of the checks that the
    best one does; while it is not known what checks cost, three times ``arming_seconds`` where that can be had within
    200 steps, and any positive remainder where it cannot.
    """
    earned = SPARE * share * step_seconds - resting_seconds
    if earned <= 0.0:
        return 0
    if checking_seconds:
        bought = [min(interval * earned - arming_seconds, checking_seconds) / interval for interval in INTERVALS]
        if EPOCH * earned >= 3.0 * arming_seconds:
            return next(i for i, worth in zip(INTERVALS, bought, strict=True) if worth >= 0.9 * max(bought))
    for interval in INTERVALS:
        if interval * earned >= 3.0 * arming_seconds:
            return interval
    return EPOCH if EPOCH * earned >= 1.25 * arming_seconds else 0


@dataclass(slots=True)
class Schedule:
    """The interval now in force.

    Parameters
    ----------
    seed
        As for :func:`is_armed`.
    interval
        0 until the first agreement.
    """

    seed: int
    interval: int = 0

    def armed(self, step: int) -> bool:
        """Return whether a step is armed under the interval in force."""
        return is_armed(step, self.seed, self.interval)
