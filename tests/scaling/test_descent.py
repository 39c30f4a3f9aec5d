"""The batched descent: it ends where scipy ends, no start that is cut short would have ended lower."""

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from numguard import scaling
from numguard.scaling.columns import read_columns
from numguard.scaling.descent import descend
from numguard.scaling.fitting import posed
from numguard.scaling.optima import search, search_again
from numguard.scaling.problem import Problem, huber_sum
from numguard.scaling.resampling import bootstrap_weights


@pytest.fixture(scope="module")
def problem() -> Problem:
    random = np.random.default_rng(0)
    n, d = np.exp(random.uniform(18, 23, 40)), np.exp(random.uniform(21, 26, 40))
    loss = (1.8 + 480 / n**0.35 + 2100 / d**0.37) * np.exp(0.004 * random.standard_t(3, 40))
    law = scaling.ChinchillaLaw()
    return posed(law, loss, read_columns(law, {"N": n, "D": d}))


def test_huber_loss_is_quadratic_within_and_linear_beyond() -> None:
    residuals = np.array([[0.0, 0.5, -1.0, 3.0]])
    assert huber_sum(residuals, np.ones(4), 1.0) == pytest.approx([0.125 + 0.5 + 2.5])
    assert huber_sum(residuals, np.array([1.0, 2, 0, 1]), float("inf")) == pytest.approx([0.25 + 4.5])
    assert huber_sum(np.array([[np.nan]]), np.ones(1), 1.0) == np.inf


def test_no_start_that_is_cut_short_would_have_ended_lower(problem: Problem) -> None:
    grid = problem.law.starts(problem.design, problem.target)
    assert len(grid) == 4500
    every = descend(problem, grid)
    assert search(problem).objective <= every.objective.min() * (1 + 1e-9)


def test_it_ends_where_scipy_ends(problem: Problem) -> None:
    found = search(problem)

    def objective(theta: Any) -> float:
        return float(problem.objective(theta[None])[0])

    theirs = minimize(objective, found.theta, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-16})
    assert theirs.fun == pytest.approx(found.objective, rel=1e-6)


def test_vectors_do_not_see_each_other(problem: Problem) -> None:
    starts = problem.law.starts(problem.design, problem.target)[::500]
    weights = bootstrap_weights(problem, len(starts), 0)
    together = descend(problem, starts, weights=weights, num_steps=8)
    for row, start in enumerate(starts):
        alone = descend(problem, start[None], weights=weights[row], num_steps=8)
        np.testing.assert_allclose(together.objective[row], alone.objective[0], rtol=1e-6)


def test_it_never_ends_higher_than_it_began(problem: Problem) -> None:
    starts = problem.law.starts(problem.design, problem.target)[::50]
    assert (descend(problem, starts, num_steps=5).objective <= problem.objective(starts)).all()


def test_a_fixed_component_keeps_its_value(problem: Problem) -> None:
    found = search(problem)
    moved = found.theta + np.array([0.0, 0.0, 0.0, 0.02, 0.0])
    reached = descend(problem, moved[None], fixed=3)
    assert reached.theta[0, 3] == moved[3]
    assert found.objective < reached.objective[0] < problem.objective(moved[None])[0]


def test_resamples_weigh_every_run_and_keep_blocks_together(problem: Problem) -> None:
    weights = bootstrap_weights(problem, 500, 0)
    assert (weights > 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 40.0)
    np.testing.assert_allclose(weights.mean(axis=0), 1.0, atol=5 / np.sqrt(500))
    again = search_again(problem, search(problem), weights[:3])
    assert (again.objective <= problem.objective(np.repeat(search(problem).theta[None], 3, axis=0), weights[:3])).all()
