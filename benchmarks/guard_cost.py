"""What the guard costs, measured against the bare run in interleaved blocks of one process.

Usage::

    python benchmarks/guard_cost.py total --width 64      time of guarded blocks over time of bare blocks
    python benchmarks/guard_cost.py windows --width 64    own time over every window of 200 steps, four budgets
    python benchmarks/guard_cost.py step                  g.step on a step that is not armed
    python benchmarks/guard_cost.py memory                resident memory over 2,000 steps

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


def total(width: int, num_blocks: int, budget: float, threads: int) -> None:
    """Print guarded over bare, wall and processor time, with 95 % bootstrap intervals over pairs of blocks."""
    torch.set_num_threads(threads)
    steps = 400 if width == 64 else 100
    bare, guarded = Training(width, LENGTHS[width]), Training(width, LENGTHS[width])
    guard = numguard.guard(guarded.model, guarded.optimizer, budget=budget)
    pairs = []
    for _ in range(30):
        bare.step()
    with guard:
        for _ in range(230):  # past the first agreement and the first armed steps of the first epoch
            guard.step(guarded.step())
        for block in range(num_blocks):
            times = {}
            for name in ("bare", "guarded") if block % 2 else ("guarded", "bare"):
                if name == "bare":
                    guard.suspend()  # the hooks of the other model do not touch this one; its clock must not run
                wall, cpu = time.perf_counter(), time.process_time()
                for _ in range(steps):
                    if name == "bare":
                        bare.step()
                    else:
                        guard.step(guarded.step())
                times[name] = (time.perf_counter() - wall, time.process_time() - cpu)
                if name == "bare":
                    guard.resume()
            pairs.append((times["guarded"], times["bare"]))
    overhead = guard.overhead
    data = np.array(pairs)  # [block, guarded/bare, wall/cpu]
    random = np.random.default_rng(0)
    for kind, name in enumerate(("wall", "cpu")):
        ratio = data[:, 0, kind].sum() / data[:, 1, kind].sum()
        picks = random.integers(0, len(data), (4000, len(data)))
        samples = data[picks, 0, kind].sum(1) / data[picks, 1, kind].sum(1)
        low, high = np.quantile(samples, (0.025, 0.975))
        print(f"width {width}, budget {budget:.2%}, {name}: guarded / bare = {ratio:.4f}  [{low:.4f}, {high:.4f}]")
    print(
        f"  {num_blocks} pairs of {steps} steps, {1e3 * data[:, 1, 0].sum() / num_blocks / steps:.1f} ms a bare step, "
        f"own clock {overhead.share:.2%}, {overhead.num_checks} checks in {overhead.num_armed_steps} armed steps of "
        f"{overhead.num_steps}, interval {overhead.interval}, {len(guard.findings)} findings"
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
        for number in range(2001):
            loss = run.step()
            if guard is not None:
                guard.step(loss)
            if number in (50, 500, 1000, 1500, 2000):
                with open("/proc/self/statm") as file:
                    marks.append(int(file.read().split()[1]) * resource.getpagesize() / 2**20)
        if guard is not None:
            guard.stop()
        print(f"{name}: resident MiB after 50, 500, 1000, 1500, 2000 steps: {[round(mark, 1) for mark in marks]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("total", "windows", "step", "memory"))
    parser.add_argument("--width", type=int, default=64, choices=sorted(LENGTHS))
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--budget", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if given.what == "total":
        total(given.width, given.blocks, given.budget, given.threads)
    elif given.what == "windows":
        windows(given.width, given.steps, given.threads)
    elif given.what == "step":
        step()
    else:
        memory(given.width)


if __name__ == "__main__":
    main()
