"""The Chinchilla fit on the points of Hoffmann et al.'s figure 4 reaches the published optimum, and says its limits.

Published: Besiroglu et al., arXiv 2404.10102 (table 1, and the optimum of their notebook).
"""

import numpy as np
import pytest

from numguard import scaling
from tests.scaling.published import chinchilla_points, column, rows_of

OPTIMUM = {"E": 1.81721, "A": 477.817, "B": 2142.52, "alpha": 0.347310, "beta": 0.367152}
STANDARD_ERRORS = {"E": 0.026, "alpha": 0.015, "beta": 0.021, "a_opt": 0.020}
HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


@pytest.fixture(scope="module")
def fitted() -> scaling.Fit:
    points = chinchilla_points(5)
    assert len(points["loss"]) == 240
    return scaling.fit(scaling.ChinchillaLaw(), **points)


def test_the_optimum_is_the_published_one(fitted: scaling.Fit) -> None:
    assert fitted.objective <= 1.0183e-3
    assert fitted.params["E"] == pytest.approx(OPTIMUM["E"], abs=1e-3)
    for name in ("alpha", "beta"):
        assert fitted.params[name] == pytest.approx(OPTIMUM[name], abs=5e-4)
    for name in ("A", "B"):
        assert fitted.params[name] == pytest.approx(OPTIMUM[name], rel=5e-3)


def test_the_objective_of_the_mean_would_have_stopped_elsewhere(fitted: scaling.Fit) -> None:
    """The known trap: E 1.51, alpha .279, beta .235 is no stationary point of the sum."""
    assert abs(fitted.params["E"] - 1.51) > 0.2
    assert fitted.objective < 1.51e-3 / 1.4


def test_bootstrap_errors_are_within_a_quarter_of_the_published(fitted: scaling.Fit) -> None:
    ratios = {name: fitted.standard_errors[name] / error for name, error in STANDARD_ERRORS.items()}
    assert {name: ratio for name, ratio in ratios.items() if not 0.75 <= ratio <= 1.25} == {}


def test_240_points_give_no_warning(fitted: scaling.Fit) -> None:
    assert fitted.warnings == ()


def test_hoffmanns_constants_do_not_fit(fitted: scaling.Fit) -> None:
    assessed = scaling.assess(fitted, **HOFFMANN)
    assert assessed.verdict == "does not fit"
    assert assessed.objective == pytest.approx(4.12e-3, rel=0.01)
    assert assessed.ratio == pytest.approx(4.0, abs=0.1)


def test_its_own_optimum_fits(fitted: scaling.Fit) -> None:
    assert scaling.assess(fitted, **{name: fitted.params[name] for name in HOFFMANN}).verdict == "fits"
    assert scaling.assess(fitted, **OPTIMUM).verdict == "fits"


def test_245_points_give_a_warning_that_names_the_five() -> None:
    points = chinchilla_points(0)
    worst = {int(row) for row in np.argsort(-points["loss"], kind="stable")[:5]}
    fitted = scaling.fit(scaling.ChinchillaLaw(), num_bootstraps=200, **points)
    assert fitted.params["E"] == pytest.approx(1.891, abs=2e-3)
    assert fitted.params["a_opt"] == pytest.approx(0.565, abs=2e-3)
    outliers = set(fitted.influence.outliers)
    assert len(outliers) == 5
    assert len(outliers & worst) >= 4
    assert any("5 of 245" in warning and "a_opt" in warning for warning in fitted.warnings)


# Exponents of N*(C) as the authors' repository stores them, settings in the order of the file: least squares in
# logarithms, plain and weighted by the inverse variance of log N* (Porian et al., arXiv 2406.19146).
PLAIN = (0.83376793, 0.70089920, 0.60352776, 0.57142489, 0.49702880)
WEIGHTED = (0.83530004, 0.70646991, 0.60203753, 0.57149479, 0.49689508)


@pytest.mark.parametrize("setting", range(5))
@pytest.mark.parametrize("weighted", [False, True])
def test_exponents_of_the_optimal_size_are_the_stored_ones(setting: int, weighted: bool) -> None:
    rows = [row for row in rows_of("porian/optimal_pairs.csv") if row["row"] == str(setting)]
    rows = [row for row in rows if all(row.values())]
    fitted = scaling.fit(
        scaling.PowerLaw(floor=False),
        column(rows, "n"),
        C=column(rows, "flops"),
        weights=column(rows, "n_star_std") ** -2 if weighted else None,
        delta=float("inf"),
        num_bootstraps=20,
    )
    assert fitted.params["b"] == pytest.approx((WEIGHTED if weighted else PLAIN)[setting], abs=1e-4)
