"""Laws against each other, constants against runs, allocations by two routes, units, figures."""

from typing import Any

import numpy as np
import pytest

from numguard import scaling

COMPUTE = np.geomspace(1e15, 1e19, 14)


def test_the_law_that_extrapolates_wins() -> None:
    loss = 2.0 + 900 * COMPUTE**-0.17
    compared = scaling.compare([scaling.PowerLaw(floor=False), scaling.PowerLaw()], loss, C=COMPUTE, num_bootstraps=20)
    assert compared.best.law == scaling.PowerLaw()
    assert compared.errors[0] < compared.errors[1]
    with_floor, without = compared.predictions(C=1e22)
    assert without.value < with_floor.value
    assert "PowerLaw" in str(compared)


def test_laws_take_the_columns_that_they_know() -> None:
    n, d = np.geomspace(1e7, 1e9, 14), np.geomspace(2e8, 2e10, 14)
    columns: dict[str, Any] = {"N": n, "D": d * np.tile([0.5, 2.0], 7), "C": 6 * n * d * np.tile([0.5, 2.0], 7)}
    loss = 1.8 + 480 / n**0.35 + 2100 / columns["D"] ** 0.37
    compared = scaling.compare([scaling.PowerLaw(), scaling.ChinchillaLaw()], loss, num_bootstraps=20, **columns)
    assert compared.best.law.name == "ChinchillaLaw"


def test_constants_are_judged_by_the_runs() -> None:
    loss = (2.0 + 900 * COMPUTE**-0.17) * np.exp(0.002 * np.random.default_rng(0).standard_normal(14))
    fitted = scaling.fit(scaling.PowerLaw(), loss, C=COMPUTE, num_bootstraps=20)
    assert scaling.assess(fitted, a=900.0, b=-0.17, c=2.0).verdict == "fits"
    wrong = scaling.assess(fitted, a=900.0, b=-0.17, c=2.05)
    assert wrong.verdict == "does not fit"
    assert wrong.ratio > 2
    assert "does not fit" in str(wrong)


def isoflops(*, tilt: float) -> dict[str, Any]:
    """Return four budgets of nine sizes; a tilt adds a loss that grows with the size at large budgets."""
    budgets = np.repeat([1e18, 1e19, 1e20, 1e21], 9)
    n = np.sqrt(budgets / 120) * np.tile(np.geomspace(0.2, 5, 9), 4)
    loss = 1.8 + 400 / n**0.34 + 2000 / (budgets / (6 * n)) ** 0.37
    return {"C": budgets, "N": n, "loss": loss * (1 + tilt * np.log(budgets / 1e18) * np.log(n / 1e9) / 100)}


def test_two_routes_to_the_allocation_agree_on_a_clean_surface() -> None:
    runs = isoflops(tilt=0.0)
    allocation = scaling.allocate(runs.pop("loss"), **runs, num_bootstraps=20)
    assert allocation.by_surface == pytest.approx(0.37 / 0.71, abs=1e-3)
    assert abs(allocation.by_parabolas - allocation.by_surface) < 0.05
    assert not any("parabolas" in warning for warning in allocation.warnings)
    assert len(allocation.compute) == len(allocation.optimal_n) == 4


def test_two_routes_that_differ_warn() -> None:
    runs = isoflops(tilt=1.0)
    allocation = scaling.allocate(runs.pop("loss"), **runs, num_bootstraps=20)
    apart = abs(allocation.by_parabolas - allocation.by_surface)
    assert (apart > 0.05) == any("parabolas" in warning for warning in allocation.warnings)
    assert apart > 0.05


@pytest.mark.parametrize(
    ("unit", "to", "expected"),
    [
        ("nats_per_token", "bits_per_token", 1 / np.log(2)),
        ("bits_per_token", "nats_per_token", np.log(2)),
        ("nats_per_token", "bits_per_byte", 1 / np.log(2) / 4),
        ("bits_per_byte", "nats_per_token", 4 * np.log(2)),
        ("nats_per_byte", "nats_per_token", 4.0),
        ("bits_per_byte", "bits_per_byte", 1.0),
    ],
)
def test_units_are_factors(unit: str, to: str, expected: float) -> None:
    assert float(scaling.convert_loss(1.0, unit, to, bytes_per_token=4.0)) == pytest.approx(expected)


def test_a_fit_draws_itself() -> None:
    pytest.importorskip("plotly")
    loss = 2.0 + 900 * COMPUTE**-0.17
    loss[9] *= 1.2
    figure = scaling.fit(scaling.PowerLaw(), loss, C=COMPUTE, num_bootstraps=20).plot()
    names = [trace.name for trace in figure.data]
    assert names == ["90% interval", "a*C^b + c", "observed", "outlier"]
    assert len(figure.data[3].x) == 1
    assert figure.data[3].text == ("row 9",)
