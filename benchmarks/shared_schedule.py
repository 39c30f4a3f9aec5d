"""How much the slowest of many ranks loses when all arm the same steps, against ranks that arm steps of their own.

A synchronous job waits for its slowest rank in every step. Simulated with the schedule that runs use, and with the
cost of armed steps drawn from a range around the quota (checks differ between ranks).

Usage::

    python benchmarks/shared_schedule.py
"""

import numpy as np

from numguard.ranks import is_armed

NUM_STEPS = 4000
BUDGET = 0.01
INTERVAL = 20


def main() -> None:
    random = np.random.default_rng(0)
    cost = BUDGET * INTERVAL  # of an armed step, in units of a bare step
    print(f"budget {BUDGET:.0%}, every {INTERVAL}th step armed, cost of an armed step {cost:.2f} steps +- 20 %")
    print(f"{'ranks':>6}  {'shared schedule':>16}  {'own schedules':>14}")
    for num_ranks in (1, 8, 64, 1024):
        noise = random.uniform(0.8, 1.2, (NUM_STEPS, num_ranks)) * cost
        shared = np.array([is_armed(step, 0, INTERVAL) for step in range(NUM_STEPS)])[:, None]
        phases = random.integers(0, INTERVAL, num_ranks)
        own = (np.arange(NUM_STEPS)[:, None] + phases) % INTERVAL == 0
        slowdown = [(1.0 + (armed * noise).max(axis=1)).mean() for armed in (shared, own)]
        print(f"{num_ranks:>6}  {slowdown[0]:>15.4f}x  {slowdown[1]:>13.4f}x")


if __name__ == "__main__":
    main()
