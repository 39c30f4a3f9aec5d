"""What the guard costs, measured against the bare run in interleaved blocks of one process.

Usage::

    python benchmarks/guard_cost.py total --width 64      time of guarded blocks over time of bare blocks
    python benchmarks/guard_cost.py windows --width 64    own time over every window of 200 steps, four budgets
    python benchmarks/guard_cost.py step                  g.step on a step that is not armed
    python benchmarks/guard_cost.py memory                resident memory over 4,000 steps

Totals, not medians: what comes rarely and in bursts is counted where it falls. Ratios only; a machine that others
use moves both sides of a ratio.
"""

import argparse
import resource
import statistics
import time

import numpy as np
import torch
from small_gpt import Training

import numguard

LENGTHS = {64: 64, 256: 128}


def total(width: int, num_rounds: int, budget: float, threads: int) -> None:
    """Print guarded over bare, wall and processor time, with 95 % bootstrap intervals over rounds.

    Two trainings that differ in nothing but where their memory lies, which alone moves a step by one or two percent:
    in the first half of the rounds one is guarded and the other bare, in the second half it is the other way round, so
    that the place cancels. Within a round the two run block by block, in random order.
    """
    torch.set_num_threads(threads)
    num_steps = 20 if width == 64 else 5  # short blocks, so that what drifts on the machine cancels
    trainings = [Training(width, LENGTHS[width]) for _ in range(2)]
    random = np.random.default_rng(0)
    data = np.zeros((num_rounds, 2, 2))  # [round, guarded or bare, wall or cpu]
    costs: list[numguard.Overhead] = []
    kinds: list[str] = []

    def block(training: Training, guard: numguard.Guard | None) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(num_steps):
            loss = training.step()
            if guard is not None:
                guard.step(loss)
        return time.perf_counter() - wall, time.process_time() - cpu

    for place in (0, 1):
        watched, bare = trainings[place], trainings[1 - place]
        with numguard.guard(watched.model, watched.optimizer, budget=budget) as guard:
            for _ in range(230):  # past the first agreement and the first armed steps of the first epoch
                guard.step(watched.step())
                bare.step()
            for number in range(place, num_rounds, 2):
                for side in random.permutation(2):
                    data[number, side] = block(watched, guard) if side == 0 else block(bare, None)
        costs.append(guard.overhead)
        kinds += [finding.kind for finding in guard.findings]
    for kind, name in enumerate(("wall", "cpu")):
        ratio = data[:, 0, kind].sum() / data[:, 1, kind].sum()
        halves = [data[place::2, :, kind] for place in (0, 1)]  # drawn again apart: they differ by the place in memory
        sums = sum(half[random.integers(0, len(half), (4000, len(half)))].sum(1) for half in halves)
        samples = sums[:, 0] / sums[:, 1]
        low, high = np.quantile(samples, (0.025, 0.975))
        print(f"width {width}, budget {budget:.2%}, {name}: guarded / bare = {ratio:.4f}  [{low:.4f}, {high:.4f}]")
    elapsed = sum(cost.elapsed_seconds for cost in costs)
    print(
        f"  {num_rounds} rounds of 2 x {num_steps} steps, {1e3 * data[:, 1, 0].sum() / num_rounds / num_steps:.1f} ms "
        f"bare, own clock {sum(c.own_seconds for c in costs) / elapsed:.2%} (bursts "
        f"{sum(c.burst_seconds for c in costs) / elapsed:.2%}), "
        f"{sum(c.num_checks for c in costs)} checks in {sum(c.num_armed_steps for c in costs)} armed steps of "
        f"{sum(c.num_steps for c in costs)}, findings: {', '.join(kinds) or 'none'}"
    )


def windows(width: int, num_steps: int, threads: int) -> None:
    """Print the largest own time over budget times elapsed time among all windows of 200 steps."""
    torch.set_num_threads(threads)
    for budget in (0.005, 0.01, 0.02, 0.1):
        run = Training(width, LENGTHS[width])
        own, elapsed, counts = [0.0], [0.0], [0]
        with numguard.guard(run.model, run.optimizer, budget=budget) as guard:
            for _ in range(num_steps):
                guard.step(run.step())
                overhead = guard.overhead
                if overhead.num_steps > counts[-1]:
                    own.append(overhead.own_seconds)
                    elapsed.append(overhead.elapsed_seconds)
                    counts.append(overhead.num_steps)
        worst = 0.0
        for first in range(len(counts)):
            last = next((i for i in range(first, len(counts)) if counts[i] - counts[first] >= 200), None)
            if last is not None:
                worst = max(worst, (own[last] - own[first]) / (budget * (elapsed[last] - elapsed[first])))
        print(
            f"width {width}, budget {budget:.1%}: own / (budget x elapsed) <= {worst:.3f} over windows of 200 steps; "
            f"{guard.overhead.num_checks} checks in {guard.overhead.num_armed_steps} armed steps of {num_steps}"
        )


def step() -> None:
    """Print what g.step takes in steps that are not armed, between the steps of a model."""
    torch.set_num_threads(1)
    run = Training(64, 64)
    times = []
    with numguard.guard(run.model, run.optimizer) as guard:
        for _ in range(1200):
            loss = run.step()
            armed = guard.overhead.num_armed_steps
            began = time.perf_counter()
            guard.step(loss)
            taken = time.perf_counter() - began
            if guard.overhead.num_armed_steps == armed:
                times.append(1e6 * taken)
    quantiles = statistics.quantiles(times, n=20)
    print(f"g.step, not armed: median {statistics.median(times):.1f} us, 95 % below {quantiles[-1]:.1f} us")


def memory(width: int) -> None:
    """Print how resident memory grows with a guard and without one."""
    torch.set_num_threads(1)
    for name in ("bare", "guarded"):
        run = Training(width, LENGTHS[width])
        guard = numguard.guard(run.model, run.optimizer, budget=0.05) if name == "guarded" else None
        if guard is not None:
            guard.start()
        marks = []
        for number in range(4001):
            loss = run.step()
            if guard is not None:
                guard.step(loss)
            if number in (50, 500, 1000, 2000, 3000, 4000):
                with open("/proc/self/statm") as file:
                    marks.append(int(file.read().split()[1]) * resource.getpagesize() / 2**20)
        if guard is not None:
            guard.stop()
        print(
            f"{name}: resident MiB after 50, 500, 1000, 2000, 3000 and 4000 steps: {[round(mark, 1) for mark in marks]}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("total", "windows", "step", "memory"))
    parser.add_argument("--width", type=int, default=64, choices=sorted(LENGTHS))
    parser.add_argument("--rounds", type=int, default=240)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--budget", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if given.what == "total":
        total(given.width, given.rounds, given.budget, given.threads)
    elif given.what == "windows":
        windows(given.width, given.steps, given.threads)
    elif given.what == "step":
        step()
    else:
        memory(given.width)


if __name__ == "__main__":
    main()
