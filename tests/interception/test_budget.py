"""No window of 200 steps spends more than its share, whatever the checks turn out to cost."""

import random
from unittest.mock import patch

import pytest

from numguard.interception.budget import WINDOW, Budget, OwnClock
from numguard.ranks import Schedule, interval_for
from numguard.ranks.schedule import SPARE

RESTING = 1e-5


def simulated(share: float, seed: int, num_steps: int = 3000) -> list[tuple[float, float]]:
    """Return ``(elapsed, own)`` of every step of a run whose checks are planned as those of a guard are.

    A check is started only where what it is expected to cost is left; it then costs up to a tenth more.
    """
    draw = random.Random(seed)
    base, arming = 10.0 ** draw.uniform(-3, 0), 10.0 ** draw.uniform(-5, -3)
    budget, schedule, steps = Budget(share), Schedule(seed=seed), []
    for step in range(num_steps):
        length = base * draw.lognormvariate(0.0, 0.2)
        own = RESTING
        if step == 10 or (step and step % 200 == 0):
            schedule.interval = interval_for(share, base, RESTING, arming)
        if schedule.armed(step):
            quota = budget.allowance(SPARE) - arming
            if quota > 0.0:
                own += arming
                spent = 0.0
                while (expected := base * 10.0 ** draw.uniform(-5, -2)) + spent < quota:
                    spent += expected * draw.uniform(0.5, 1.1)
                own += spent
        budget.end_step(length + own, own)
        steps.append((length + own, own))
    return steps


@pytest.mark.parametrize("share", [0.005, 0.01, 0.02, 0.1])
@pytest.mark.parametrize("seed", range(8))
def test_every_window_stays_within_the_budget(share: float, seed: int) -> None:
    steps = simulated(share, seed)
    elapsed = sum(step[0] for step in steps[:WINDOW])
    own = sum(step[1] for step in steps[:WINDOW])
    worst = own / elapsed
    for new, old in zip(steps[WINDOW:], steps, strict=False):
        elapsed += new[0] - old[0]
        own += new[1] - old[1]
        worst = max(worst, own / elapsed)
    unavoidable = RESTING * len(steps) / sum(step[0] for step in steps)
    assert worst <= max(share, 1.5 * unavoidable)


def test_bursts_are_counted_apart() -> None:
    budget = Budget(0.01)
    budget.end_step(1.0, 0.5, burst=True)
    assert budget.allowance() == pytest.approx(0.01 * 2 * 0.5)
    assert budget.allowance(0.5) == pytest.approx(0.01 * 0.5)
    assert (budget.own_seconds, budget.burst_seconds, budget.elapsed_seconds) == (0.5, 0.5, 1.0)


def test_without_a_limit_everything_is_allowed() -> None:
    assert Budget(None).allowance() == float("inf")


def test_a_clock_inside_itself_counts_once() -> None:
    clock, now = OwnClock(), iter([10.0, 13.0])
    with patch("numguard.interception.budget.process_time", lambda: next(now)), clock, clock:
        pass
    clock.add(0.5)
    assert clock.seconds == 3.5
