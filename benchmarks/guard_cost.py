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
    in every round each of them runs one block guarded and one block bare, so that the place cancels. A guard that is
    suspended for a bare block leaves its hooks in place, switched off: a few microseconds a step.
    """
    torch.set_num_threads(threads)
    num_steps = 100 if width == 64 else 40
    trainings = [Training(width, LENGTHS[width]) for _ in range(2)]
    guards = [numguard.guard(training.model, training.optimizer, budget=budget) for training in trainings]
    for training, guard in zip(trainings, guards, strict=True):
        guard.start()
        for _ in range(230):  # past the first agreement and the first armed steps of the first epoch
            guard.step(training.step())
        guard.suspend()
    guards[0].resume()  # the second start has suspended it as well: it was the outer one

    def block(place: int, guarded: bool) -> tuple[float, float]:
        training, guard = trainings[place], guards[place]
        if guarded:
            guard.resume()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(num_steps):
            loss = training.step()
            if guarded:
                guard.step(loss)
        times = time.perf_counter() - wall, time.process_time() - cpu
        if guarded:
            guard.suspend()
        return times

    random = np.random.default_rng(0)
    data = np.zeros((num_rounds, 2, 2))  # [round, guarded or bare, wall or cpu]
    for number in range(num_rounds):
        blocks = [(place, guarded) for place in (0, 1) for guarded in (True, False)]
        for index in random.permutation(4):
            place, guarded = blocks[index]
            data[number, 0 if guarded else 1] += block(place, guarded)
    for kind, name in enumerate(("wall", "cpu")):
        ratio = data[:, 0, kind].sum() / data[:, 1, kind].sum()
        picks = random.integers(0, len(data), (4000, len(data)))
        samples = data[picks, 0, kind].sum(1) / data[picks, 1, kind].sum(1)
        low, high = np.quantile(samples, (0.025, 0.975))
        print(f"width {width}, budget {budget:.2%}, {name}: guarded / bare = {ratio:.4f}  [{low:.4f}, {high:.4f}]")
    costs = [guard.overhead for guard in guards]
    print(
        f"  {num_rounds} rounds of 2 x {num_steps} steps each, "
        f"{1e3 * data[:, 1, 0].sum() / num_rounds / 2 / num_steps:.1f} ms a bare step, own clock "
        f"{sum(cost.own_seconds for cost in costs) / sum(cost.elapsed_seconds for cost in costs):.2%}, "
        f"{sum(cost.num_checks for cost in costs)} checks in {sum(cost.num_armed_steps for cost in costs)} armed steps "
        f"of {sum(cost.num_steps for cost in costs)}, {sum(len(guard.findings) for guard in guards)} findings"
    )
    guards[1].stop()
    guards[0].stop()


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
    parser.add_argument("--rounds", type=int, default=60)
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
