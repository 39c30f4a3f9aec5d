"""Analytic derivatives of every law against differences of its own values."""

from typing import Any

import numpy as np
import pytest

from numguard import scaling
from numguard.scaling.columns import read_columns
from numguard.scaling.law import quantities

COMPUTE = np.geomspace(1e15, 1e20, 9)
SIZES = {"N": np.geomspace(1e7, 1e10, 9), "D": np.geomspace(1e9, 1e11, 9)}
CURVES = {
    "step": [0, 100, 400, 900, 1600, 0, 100, 500, 501, 1200],
    "lr": [0, 1e-3, 8e-4, 4e-4, 1e-5, 0, 1e-3, 1e-3, 3e-4, 3e-4],
    "curve": ["a"] * 5 + ["b"] * 5,
}
CASES: list[tuple[Any, dict[str, Any], dict[str, float]]] = [
    (scaling.PowerLaw(), {"C": COMPUTE}, {"a": 200.0, "b": -0.12, "c": 1.7}),
    (scaling.PowerLaw(floor=False), {"C": COMPUTE}, {"a": 0.1, "b": 0.5}),
    (scaling.ChinchillaLaw(), SIZES, {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37}),
    (
        scaling.DataConstrainedLaw(),
        {**SIZES, "U": SIZES["D"] / np.linspace(1.0, 30.0, 9)},
        {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37, "R_D": 15.4, "R_N": 5.3},
    ),
    (scaling.AnnealingLaw(), CURVES, {"L0": 2.6, "A": 0.5, "alpha": 0.5, "K": 0.3}),
    (
        scaling.MultiPowerLaw(),
        CURVES,
        {"L0": 2.6, "A": 0.5, "alpha": 0.5, "B": 300.0, "C": 2.0, "beta": 0.6, "gamma": 0.6},
    ),
]
NAMES = [f"{case[0].name}-{len(case[0].parameters)}" for case in CASES]


@pytest.mark.parametrize(("law", "columns", "params"), CASES, ids=NAMES)
def test_derivatives_agree_with_central_differences(
    law: Any, columns: dict[str, Any], params: dict[str, float]
) -> None:
    design = law.design(read_columns(law, columns)).select(np.arange(1, 5))
    theta = law.theta(params)
    value, gradient = law.log_value_and_gradient(theta[None], design)
    np.testing.assert_array_equal(value, law.log_value(theta[None], design))
    # A central difference of step h errs by h^2 / 6 times the third derivative and by 2^-53 |f| / h.
    step = 1e-5 * np.maximum(1.0, np.abs(theta))
    for component in range(len(theta)):
        moved = np.stack([theta, theta])
        moved[:, component] += [step[component], -step[component]]
        above, below = law.log_value(moved, design)
        difference = (above - below) / (2 * step[component])
        np.testing.assert_allclose(gradient[0, component], difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("law", "columns", "params"), CASES, ids=NAMES)
def test_parameters_survive_the_way_to_theta_and_back(
    law: Any, columns: dict[str, Any], params: dict[str, float]
) -> None:
    values = dict(zip(quantities(law), law.values(law.theta(params)[None])[0], strict=True))
    assert {name: values[name] for name in params} == pytest.approx(params, rel=1e-12)


@pytest.mark.parametrize(("law", "columns", "params"), CASES, ids=NAMES)
def test_many_vectors_give_what_each_gives_alone(law: Any, columns: dict[str, Any], params: dict[str, float]) -> None:
    design = law.design(read_columns(law, columns))
    several = law.theta(params) + np.linspace(0, 0.1, 5)[:, None]
    together = law.log_value_and_gradient(several, design)
    alone = [law.log_value_and_gradient(theta[None], design) for theta in several]
    np.testing.assert_allclose(together[0], np.concatenate([value for value, _ in alone]), rtol=1e-14)
    np.testing.assert_allclose(together[1], np.concatenate([gradient for _, gradient in alone]), rtol=1e-12)


@pytest.mark.parametrize(("law", "columns", "params"), CASES, ids=NAMES)
def test_selected_rows_keep_their_values(law: Any, columns: dict[str, Any], params: dict[str, float]) -> None:
    design = law.design(read_columns(law, columns))
    rows = np.asarray([7, 2, 4])
    theta = law.theta(params)[None]
    np.testing.assert_array_equal(law.log_value(theta, design.select(rows)), law.log_value(theta, design)[:, rows])
