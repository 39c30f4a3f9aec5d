"""Fits of made-up runs whose constants are known: the optimum, intervals, influence, roll-outs, predictions."""

from typing import Any

import numpy as np
import pytest

from numguard import scaling

TRUE = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def made_up(num: int, scatter: float, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    n = np.exp(random.uniform(np.log(5e7), np.log(1e10), num))
    d = np.exp(random.uniform(np.log(1e9), np.log(2e11), num))
    loss = TRUE["E"] + TRUE["A"] / n ** TRUE["alpha"] + TRUE["B"] / d ** TRUE["beta"]
    return {"N": n, "D": d, "loss": loss * np.exp(scatter * random.standard_normal(num))}


def without(runs: dict[str, Any], row: int) -> dict[str, Any]:
    return {name: np.delete(values, row) for name, values in runs.items()}


@pytest.fixture(scope="module")
def fitted() -> scaling.Fit:
    return scaling.fit(scaling.ChinchillaLaw(), num_bootstraps=200, **made_up(80, 0.003))


def test_runs_without_scatter_give_their_constants_back() -> None:
    found = scaling.fit(scaling.ChinchillaLaw(), num_bootstraps=20, **made_up(40, 0.0))
    assert {name: found.params[name] for name in TRUE} == pytest.approx(TRUE, rel=1e-4)
    assert found.params["a_opt"] == pytest.approx(0.37 / 0.72, rel=1e-4)
    assert found.warnings == ()


def test_constants_lie_in_their_intervals(fitted: scaling.Fit) -> None:
    for name, value in TRUE.items():
        for method in ("profile", "bootstrap"):
            assert value in fitted.interval(name, 0.999, method=method), (name, method)
    assert TRUE["beta"] / (TRUE["alpha"] + TRUE["beta"]) in fitted.interval("a_opt", 0.999)


def test_a_higher_level_gives_a_wider_interval(fitted: scaling.Fit) -> None:
    for method in ("profile", "bootstrap"):
        narrow, wide = (fitted.interval("alpha", level, method=method) for level in (0.5, 0.95))
        assert wide.low < narrow.low < fitted.params["alpha"] < narrow.high < wide.high


def test_nominal_intervals_cover_about_as_often_as_they_say() -> None:
    """Of 30 fits to normal errors, the 90 % intervals of c cover 27 on average; fewer than 21 has probability 1e-3."""
    compute = np.geomspace(1e15, 1e19, 20)
    covered = {"profile": 0, "bootstrap": 0}
    for seed in range(30):
        noise = np.exp(0.002 * np.random.default_rng(seed).standard_normal(20))
        found = scaling.fit(scaling.PowerLaw(), (2.0 + 900 * compute**-0.17) * noise, C=compute, num_bootstraps=50)
        for method in covered:
            covered[method] += 2.0 in found.interval("c", method=method)
    assert covered["profile"] >= 21
    assert covered["bootstrap"] >= 18  # percentiles of resamples of 20 runs are known to be narrow


def test_the_same_seed_gives_the_same_fit() -> None:
    runs = made_up(20, 0.003)
    first, second = (scaling.fit(scaling.ChinchillaLaw(), num_bootstraps=20, seed=3, **runs) for _ in range(2))
    np.testing.assert_array_equal(first.draws, second.draws)
    assert first.data_hash == second.data_hash
    assert first.data_hash != scaling.fit(scaling.ChinchillaLaw(), num_bootstraps=20, **made_up(20, 0.003, 1)).data_hash


def test_a_unit_changes_scales_and_nothing_else(fitted: scaling.Fit) -> None:
    runs = made_up(80, 0.003)
    bits = scaling.convert_loss(runs["loss"], "nats_per_token", "bits_per_byte", bytes_per_token=4.0)
    other = scaling.fit(scaling.ChinchillaLaw(), bits, N=runs["N"], D=runs["D"], num_bootstraps=200)
    factor = 1 / np.log(2) / 4
    assert other.objective == pytest.approx(fitted.objective, rel=1e-9)
    for name in ("alpha", "beta", "a_opt"):
        assert other.params[name] == pytest.approx(fitted.params[name], rel=1e-5)
    for name in ("E", "A", "B"):
        assert other.params[name] == pytest.approx(fitted.params[name] * factor, rel=1e-4)


def test_every_prediction_carries_an_interval_that_widens_with_distance(fitted: scaling.Fit) -> None:
    near = fitted.predict(N=1e10, D=2e11)
    far = fitted.predict(N=1e11, D=2e12)
    assert isinstance(near.value, float)
    for prediction in (near, far):
        assert prediction.low < prediction.value < prediction.high
    assert far.distance / near.distance == pytest.approx(100.0)
    assert np.log(far.high / far.low) > np.log(near.high / near.low)
    several = fitted.predict(N=[1e10, 1e11], D=[2e11, 2e12])
    np.testing.assert_allclose(several.high, [near.high, far.high], rtol=1e-12)
    assert fitted.predict(N=1e11, D=2e12, level=0.5).high < far.high


def test_an_outlier_is_named_and_its_weight_told() -> None:
    runs = made_up(60, 0.002)
    largest = int(np.argmax(runs["D"]))
    runs["loss"][largest] *= 1.3
    found = scaling.fit(scaling.ChinchillaLaw(), num_bootstraps=50, **runs)
    assert found.influence.outliers == (largest,)
    assert found.influence.shift.shape == (60, 6)
    clean = scaling.fit(scaling.ChinchillaLaw(), num_bootstraps=50, **without(runs, largest))
    np.testing.assert_allclose(
        found.influence.without_outliers[3:5], [clean.params["alpha"], clean.params["beta"]], rtol=1e-4
    )


def test_leaving_a_run_out_is_refitting_without_it() -> None:
    runs = made_up(24, 0.003)
    found = scaling.fit(scaling.ChinchillaLaw(), num_bootstraps=50, **runs)
    refitted = scaling.fit(scaling.ChinchillaLaw(), num_bootstraps=50, **without(runs, 5))
    shift = found.influence.shift[5, 3] * found.standard_errors["alpha"]
    assert found.params["alpha"] + shift == pytest.approx(refitted.params["alpha"], abs=1e-4)


def test_roll_outs_predict_only_what_is_larger(fitted: scaling.Fit) -> None:
    held = fitted.holdout
    assert len(held.error) > 20
    assert (held.distance > 0).all()
    assert held.median_error < 0.01


def test_rows_count_by_their_weight() -> None:
    """Weight 2 is the row twice; weight 0 is no row."""
    compute, value = np.geomspace(1e15, 1e19, 8), np.array([3.9, 3.5, 3.3, 3.05, 2.9, 2.85, 2.7, 2.66])
    weights = np.array([1.0, 2, 1, 1, 0, 1, 1, 1])
    rows = np.repeat(np.arange(8), weights.astype(int))
    weighted = scaling.fit(scaling.PowerLaw(), value, C=compute, weights=weights, num_bootstraps=20)
    repeated = scaling.fit(scaling.PowerLaw(), value[rows], C=compute[rows], num_bootstraps=20)
    assert weighted.params["b"] == pytest.approx(repeated.params["b"], rel=1e-5)


def test_least_squares_is_the_limit_of_a_wide_delta() -> None:
    compute = np.geomspace(1e15, 1e19, 10)
    value = 1e-3 * compute**0.5 * np.exp(0.1 * np.random.default_rng(0).standard_normal(10))
    found = scaling.fit(scaling.PowerLaw(floor=False), value, C=compute, delta=float("inf"), num_bootstraps=20)
    assert found.params["b"] == pytest.approx(np.polyfit(np.log(compute), np.log(value), 1)[0], rel=1e-8)


def test_repeated_tokens_lose_value() -> None:
    law = scaling.DataConstrainedLaw()
    true = {**TRUE, "R_D": 15.0, "R_N": 5.0}
    random = np.random.default_rng(0)
    unique = np.exp(random.uniform(np.log(1e8), np.log(1e10), 80))
    columns: dict[str, Any] = {
        "N": np.exp(random.uniform(17, 21, 80)),
        "D": unique * np.exp(random.uniform(0, 5, 80)),
        "U": unique,
    }
    loss = np.exp(law.log_value(law.theta(true)[None], law.design(columns)))[0]
    found = scaling.fit(law, loss, num_bootstraps=20, **columns)
    assert found.params == pytest.approx(true, rel=1e-3)
    once, ten_times = (found.predict(N=1e9, D=1e10, U=u).value for u in (1e10, 1e9))
    assert once < ten_times
