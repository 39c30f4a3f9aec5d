"""Schedule laws on published curves and on curves made of their own formulas, step by step."""

from typing import Any

import numpy as np
import pytest

from numguard import scaling
from numguard.scaling.columns import read_columns
from tests.scaling.published import PREDICTED, TRAINED_ON, curve_scores, schedule_curves

# Luo et al., arXiv 2503.12811: the constants in their repository, and R² and MAE over the six predicted curves.
CONSTANTS = {
    25: (3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257),
    100: (2.6514477, 0.60115152, 0.45295811, 437.9464276, 2.13245612, 0.59785199, 0.65523644),
}
SCORES = {25: (0.998802, 0.003760), 100: (0.998301, 0.004348)}


def made_of_steps(rate: Any, constants: dict[str, float]) -> Any:
    """Return the multi-power law's loss at every step by its definition: one term for each step before."""
    sums = np.cumsum(rate)
    losses = [np.inf]  # at step 0 of a warm-up no rate has been spent yet
    for t in range(1, len(rate)):
        rest = sums[t] - np.concatenate([[0.0], sums[:t]])[1 : t + 1]
        faded = 1 - (1 + constants["C"] * rate[1 : t + 1] ** -constants["gamma"] * rest) ** -constants["beta"]
        fall = constants["B"] * ((rate[:t] - rate[1 : t + 1]) * faded).sum()
        losses.append(constants["L0"] + constants["A"] * sums[t] ** -constants["alpha"] - fall)
    return np.asarray(losses)


def schedules(num_steps: int = 1500) -> dict[str, Any]:
    """Return three schedules, one rate for each step: cosine, constant, two stages; 50 steps of warm-up."""
    step = np.arange(num_steps)
    warm = np.minimum(step / 50, 1.0)
    cosine = 1e-4 + 0.5 * 9e-4 * (1 + np.cos(np.pi * np.maximum(step - 50, 0) / (num_steps - 50)))
    two_stages = np.where(step < num_steps // 2, 1e-3, 3e-4)
    return {"cosine": warm * cosine, "constant": warm * 1e-3, "stages": warm * two_stages}


def sampled(curves: dict[str, Any], losses: dict[str, Any], every: int) -> dict[str, Any]:
    """Return columns with one row for each step and one loss in so many, from step 100 on."""
    rows = [(name, step, rate) for name, rates in curves.items() for step, rate in enumerate(rates)]
    loss = [losses[name][step] if step >= 100 and step % every == 0 else np.nan for name, step, _ in rows]
    return {
        "curve": [row[0] for row in rows],
        "step": np.asarray([float(row[1]) for row in rows]),
        "lr": np.asarray([row[2] for row in rows]),
        "loss": np.asarray(loss),
    }


MULTI_POWER = {"L0": 2.5, "A": 0.6, "alpha": 0.45, "B": 300.0, "C": 2.0, "beta": 0.6, "gamma": 0.65}


def test_pieces_of_a_schedule_stand_for_its_steps() -> None:
    """Middles of pieces of at most 1/256 of a curve leave second-order errors: far below the scatter of any run."""
    law = scaling.MultiPowerLaw()
    for name, rates in schedules().items():
        exact = made_of_steps(rates, MULTI_POWER)
        rows = np.unique(np.concatenate([[0, 50, 749, 750], np.arange(0, 1500, 30)]))
        design = law.design(read_columns(law, {"step": rows, "lr": rates[rows]}))
        modelled = np.exp(law.log_value(law.theta(MULTI_POWER)[None], design))[0]
        np.testing.assert_allclose(modelled[rows >= 100], exact[rows[rows >= 100]], rtol=2e-4, err_msg=name)


def test_annealing_area_is_its_recursion() -> None:
    rates = schedules(400)["cosine"]
    momentum = area = 0.0
    areas = []
    for before, rate in zip([0.0, *rates[:-1]], rates, strict=True):
        momentum = 0.999 * momentum + max(before - rate, 0.0)
        area += momentum
        areas.append(area)
    law = scaling.AnnealingLaw()
    design = law.design(read_columns(law, {"step": np.arange(400), "lr": rates}))
    np.testing.assert_allclose(design.terms["area"], areas, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(np.exp(design.terms["log_sum"][1:]), np.cumsum(rates)[1:], rtol=1e-12)


def test_annealing_law_finds_the_constants_of_its_own_curves() -> None:
    law, true = scaling.AnnealingLaw(), {"L0": 2.5, "A": 0.4, "alpha": 0.45, "K": 0.5}
    bare = sampled(schedules(), {name: np.ones(1500) for name in schedules()}, 20)
    design = law.design(read_columns(law, {name: bare[name] for name in ("step", "lr", "curve")}))
    bare["loss"] = np.where(np.isnan(bare["loss"]), np.nan, np.exp(law.log_value(law.theta(true)[None], design))[0])
    fitted = scaling.fit(law, num_bootstraps=20, **bare)
    assert fitted.params == pytest.approx(true, rel=1e-4)


def test_multi_power_law_predicts_a_schedule_that_it_has_not_seen() -> None:
    curves = schedules()
    losses = {name: made_of_steps(rates, MULTI_POWER) for name, rates in curves.items()}
    fitted = scaling.fit(scaling.MultiPowerLaw(), num_bootstraps=20, **sampled(curves, losses, 100))
    linear = np.minimum(np.arange(1500) / 50, 1.0) * np.interp(np.arange(1500), [0, 1000, 1499], [1e-3, 1e-3, 5e-5])
    rows = np.union1d(np.arange(0, 1500, 20), [50])  # with the corner of the warm-up
    predicted = fitted.predict(step=rows, lr=linear[rows])
    exact = made_of_steps(linear, MULTI_POWER)[rows]
    late = rows >= 100
    np.testing.assert_allclose(predicted.value[late], exact[late], rtol=2e-4)
    assert (predicted.low <= predicted.value).all()
    assert (predicted.value <= predicted.high).all()


@pytest.mark.parametrize("size", [25, 100])
def test_the_authors_constants_give_the_authors_scores(size: int) -> None:
    law = scaling.MultiPowerLaw()
    curves = schedule_curves(size, PREDICTED)
    design = law.design(read_columns(law, {name: curves[name] for name in ("step", "lr", "curve")}))
    theta = law.theta(dict(zip(law.parameters, CONSTANTS[size], strict=True)))
    squared, absolute = curve_scores(curves, np.exp(law.log_value(theta[None], design))[0])
    assert squared == pytest.approx(SCORES[size][0], abs=1e-4)
    assert absolute == pytest.approx(SCORES[size][1], abs=1e-5)


@pytest.mark.parametrize("size", [25, 100])
@pytest.mark.parametrize(
    "law",
    [scaling.AnnealingLaw(), pytest.param(scaling.MultiPowerLaw(), marks=pytest.mark.slow)],
    ids=["annealing", "multi-power"],
)
def test_three_fitted_curves_predict_six_others(law: scaling.Law, size: int) -> None:
    fitted = scaling.fit(law, num_bootstraps=20, **schedule_curves(size, TRAINED_ON, every=4))
    curves = schedule_curves(size, PREDICTED)
    predicted = fitted.predict(step=curves["step"], lr=curves["lr"], curve=curves["curve"])
    squared, absolute = curve_scores(curves, predicted.value)
    assert squared >= 0.996
    assert absolute <= 0.0065


@pytest.mark.parametrize("size", [25, 100])
def test_intervals_hold_on_schedules_that_were_not_fitted(size: int) -> None:
    """Nominal 90 % of the points of six other schedules; neighbours err together, so five percent are allowed."""
    fitted = scaling.fit(scaling.AnnealingLaw(), num_bootstraps=100, **schedule_curves(size, TRAINED_ON, every=4))
    curves = schedule_curves(size, PREDICTED)
    predicted = fitted.predict(step=curves["step"], lr=curves["lr"], curve=curves["curve"])
    inside = (predicted.low <= curves["loss"]) & (curves["loss"] <= predicted.high)
    seen = np.isfinite(curves["loss"])
    names = np.asarray(curves["curve"])
    assert np.mean([inside[seen & (names == name)].mean() for name in PREDICTED]) >= 0.85
    assert np.median((predicted.high / predicted.value)[seen]) < 1.006


def test_one_curve_alone_says_that_nothing_shows_its_error_on_another() -> None:
    rates = schedules()["cosine"]
    rows = np.arange(100, 1500, 50)
    loss = made_of_steps(rates, MULTI_POWER)[rows]
    alone = scaling.fit(scaling.AnnealingLaw(), loss, step=rows, lr=rates[rows], num_bootstraps=20)
    assert any("one curve was fitted" in warning for warning in alone.warnings)
    assert alone.uncertainty.between_curves == 0.0


def test_curves_widen_the_band_by_how_badly_they_predict_each_other() -> None:
    curves = schedules()
    losses = {name: made_of_steps(rates, MULTI_POWER) for name, rates in curves.items()}
    fitted = scaling.fit(scaling.AnnealingLaw(), num_bootstraps=20, **sampled(curves, losses, 50))
    prediction = fitted.predict(step=np.arange(1000), lr=curves["constant"][:1000])
    assert fitted.uncertainty.between_curves > 1e-3
    assert (np.log(prediction.high / prediction.value)[1:] > fitted.uncertainty.between_curves).all()
