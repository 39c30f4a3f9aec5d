"""The Chinchilla fit with 1,000 bootstraps, against the reference way: scipy's L-BFGS from one start after another.

The reference descends from each of the 4,500 starts of the published grid, and for each bootstrap resample from the
optimum alone, as Besiroglu et al. (arXiv 2404.10102) ran it; numguard looks at every end point of the grid again for
every resample. The reference is timed on a random sample of starts and resamples, in turn with numguard's fit, and
scaled up; ``--full`` runs all of it. It is timed as published, with scipy's finite differences, and once more with
analytic gradients of its own. The 240 points are read from ``shared/data`` beside the repository, or made up with the
same constants and scatter where that is absent.

Usage::

    python -m benchmarks.scaling_fit
    python -m benchmarks.scaling_fit --full
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from benchmarks.campaigns.scaling_families import DATA, chinchilla
from numguard import scaling
from numguard.scaling.columns import read_columns
from numguard.scaling.fitting import posed
from numguard.scaling.law import FloatArray
from numguard.scaling.optima import search, search_again
from numguard.scaling.problem import Problem
from numguard.scaling.resampling import bootstrap_weights

NUM_BOOTSTRAPS = 1000
NUM_ROUNDS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What the reference took, and the best that it found."""

    seconds_per_start: float
    seconds_per_resample: float
    objective: float

    def seconds(self, num_starts: int) -> float:
        return self.seconds_per_start * num_starts + self.seconds_per_resample * NUM_BOOTSTRAPS


def points() -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return N, D and loss of the 240 points, or of 240 made-up ones."""
    if (DATA / "chinchilla_epoch").is_dir():
        family = chinchilla()
        return family.columns["N"], family.columns["D"], family.loss
    random = np.random.default_rng(0)
    n, d = np.exp(random.uniform(np.log(5e7), np.log(1.6e10), 240)), np.exp(random.uniform(21, 26.5, 240))
    return n, d, (1.817 + 480 / n**0.348 + 2085 / d**0.366) * np.exp(0.005 * random.standard_t(3, 240))


def reference_descent(problem: Problem, start: FloatArray, weights: FloatArray, *, analytic: bool) -> float:
    """Return the objective that L-BFGS reaches from one start, with the published code's arithmetic."""
    log_n, log_d, delta = problem.design.terms["log_n"], problem.design.terms["log_d"], problem.delta

    def objective(theta: FloatArray) -> tuple[float, FloatArray]:
        floor, size, data = np.exp(theta[0]), np.exp(theta[1] - theta[3] * log_n), np.exp(theta[2] - theta[4] * log_d)
        total = floor + size + data
        residuals = problem.target - np.log(total)
        inside = np.clip(residuals, -delta, delta)
        value = float((weights * inside * (residuals - 0.5 * inside)).sum())
        pull = -weights * inside / total
        by_size, by_data = pull * size, pull * data
        gradient = (pull.sum() * floor, by_size.sum(), by_data.sum(), -(by_size @ log_n), -(by_data @ log_d))
        return value, np.asarray(gradient)

    with np.errstate(all="ignore"):
        if analytic:
            return float(minimize(objective, start, jac=True, method="L-BFGS-B").fun)
        return float(minimize(lambda theta: objective(theta)[0], start, method="L-BFGS-B").fun)


def time_reference(
    problem: Problem, grid: FloatArray, resamples: FloatArray, best: FloatArray, *, analytic: bool
) -> Reference:
    began = time.perf_counter()
    reached = [reference_descent(problem, start, problem.weight, analytic=analytic) for start in grid]
    between = time.perf_counter()
    for weights in resamples:
        reference_descent(problem, best, weights, analytic=analytic)
    ended = time.perf_counter()
    return Reference(
        seconds_per_start=(between - began) / len(grid),
        seconds_per_resample=(ended - between) / len(resamples),
        objective=min(reached),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="run every start and resample of the reference")
    given = parser.parse_args()
    n, d, loss = points()
    law = scaling.ChinchillaLaw()
    problem = posed(law, loss, read_columns(law, {"N": n, "D": d}))
    grid = law.starts(problem.design, problem.target)
    resamples = bootstrap_weights(problem, NUM_BOOTSTRAPS, 0)
    random = np.random.default_rng(1)
    own: list[float] = []
    references: dict[bool, list[Reference]] = {False: [], True: []}
    for _ in range(1 if given.full else NUM_ROUNDS):
        began = time.perf_counter()
        optimum = search(problem)
        search_again(problem, optimum, resamples)
        own.append(time.perf_counter() - began)
        starts = grid if given.full else grid[random.choice(len(grid), 60, replace=False)]
        some = resamples if given.full else resamples[random.choice(len(resamples), 20, replace=False)]
        for analytic, timed in references.items():
            timed.append(time_reference(problem, starts, some, optimum.theta, analytic=analytic))
    print(
        f"{len(loss)} points, {len(grid)} starts, {NUM_BOOTSTRAPS} bootstraps; "
        f"the reference {'ran in full' if given.full else 'is scaled up from a sample'}"
    )
    print(f"numguard: {np.median(own):.2f} s, objective {optimum.objective:.7e}")
    for analytic, timed in references.items():
        report("analytic gradients" if analytic else "as published", own, timed, len(grid))


def report(name: str, own: list[float], timed: list[Reference], num_starts: int) -> None:
    ratios = [theirs.seconds(num_starts) / ours for ours, theirs in zip(own, timed, strict=True)]
    every = np.median([theirs.seconds_per_start for theirs in timed]) * num_starts * (NUM_BOOTSTRAPS + 1)
    print(
        f"reference, {name}: {np.median([theirs.seconds(num_starts) for theirs in timed]):.1f} s, "
        f"best objective {min(theirs.objective for theirs in timed):.7e}\n"
        f"  ratio {np.median(ratios):.1f} (rounds: {', '.join(f'{ratio:.1f}' for ratio in ratios)}); "
        f"{every / np.median(own):.0f} if the reference ran its grid for every resample"
    )


if __name__ == "__main__":
    main()
