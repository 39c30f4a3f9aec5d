"""Steps from the onset of a fault to its finding, live, against what coverage predicts.

One call site of a small GPT is wrong in a share of its calls from a random step on; the guard runs at a given budget.
Each trial notes the steps until the finding and the probability by which coverage expected it to be found by then: over
trials those probabilities must be spread evenly, if the prediction is right.

Usage::

    python benchmarks/latency.py --rate 1.0 --trials 20
    python benchmarks/latency.py --rate 0.1 --trials 20
"""

import argparse
import logging
import statistics

import numpy as np
import torch
from small_gpt import Training

import numguard
from numguard.testing import KernelCall, faulty_kernel

OP = "aten::nll_loss_forward"  # one call site of the model, one call per step
WARM_UP = 60
MOST_STEPS = 4000


def _spoil(call: KernelCall) -> None:
    call.results[0].mul_(1.5)


def _steps_to_finding(guard: numguard.Guard, run: Training) -> int | None:
    for step in range(1, MOST_STEPS):
        guard.step(run.step())
        if any(finding.kind in ("wrong_result", "corruption") for finding in guard.findings):
            return step
    return None


def trial(rate: float, budget: float, seed: int) -> tuple[int | None, float]:
    """Return the steps until the fault was found, and the probability by which it was expected by then."""
    run = Training(64, 64, seed)
    random = np.random.default_rng(seed)
    with numguard.guard(
        run.model, run.optimizer, budget=budget, seed=seed, checks=["nll_loss", "layer_norm.*"]
    ) as guard:
        for _ in range(WARM_UP + int(random.integers(40))):
            guard.step(run.step())
        with faulty_kernel(OP, _spoil, when=lambda arguments: random.random() < rate):
            step = _steps_to_finding(guard, run)
    if step is None:
        return None, 1.0
    site = next(site for site in guard.coverage.sites if site.op == OP)
    per_step = site.checks_per_step
    expected = min(1.0, step * per_step) if rate == 1.0 else 1.0 - (1.0 - rate) ** (step * per_step)
    return step, expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--budget", type=float, default=0.05)
    parser.add_argument("--trials", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    outcomes = [trial(given.rate, given.budget, seed) for seed in range(given.trials)]
    steps = [step for step, _ in outcomes if step is not None]
    expected = sorted(probability for _, probability in outcomes)
    quarters = [round(expected[int(q * (len(expected) - 1))], 2) for q in (0.25, 0.5, 0.75, 0.95)]
    print(
        f"fault in {given.rate:.0%} of the calls of one site, budget {given.budget:.0%}: found in {len(steps)} of "
        f"{len(outcomes)} trials, median {statistics.median(steps):.0f} steps, most {max(steps)}"
    )
    print(f"  expected probability at the time of finding, quantiles 25/50/75/95 %: {quarters} (even: .25 .5 .75 .95)")


if __name__ == "__main__":
    main()
