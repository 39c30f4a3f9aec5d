"""What the fitter gives on runs whose fitted constants are published."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from numguard import scaling
from numguard.scaling.columns import read_columns
from tests.scaling.published import (
    PREDICTED,
    TRAINED_ON,
    chinchilla_points,
    column,
    curve_scores,
    rows_of,
    schedule_curves,
)
from tests.scaling.test_loss_curves import CONSTANTS, SCORES
from tests.scaling.test_published_constants import HOFFMANN, OPTIMUM, PLAIN, STANDARD_ERRORS, WEIGHTED

HEADER = ("what", "published", "here", "asserted within")


def rows() -> list[tuple[str, str, str, str]]:
    """Return the table of published constants and what is found here, row by row."""
    return [*_chinchilla(), *_porian(), *_curves()]


def _chinchilla() -> Iterator[tuple[str, str, str, str]]:
    fitted = scaling.fit(scaling.ChinchillaLaw(), **chinchilla_points(5))
    tolerances = {"E": "1e-3", "alpha": "5e-4", "beta": "5e-4", "A": "0.5 %", "B": "0.5 %"}
    for name, tolerance in tolerances.items():
        yield f"Chinchilla law, 240 points: {name}", f"{OPTIMUM[name]:.6g}", f"{fitted.params[name]:.6g}", tolerance
    yield "its objective", "1.018274e-3", f"{fitted.objective:.6e}", "at most 1.0183e-3"
    for name, error in STANDARD_ERRORS.items():
        yield f"standard error of {name}", f"{error:.3f}", f"{fitted.standard_errors[name]:.4f}", "25 %"
    yield "warnings", "", str(len(fitted.warnings)), "none"
    assessed = scaling.assess(fitted, **HOFFMANN)
    yield "Hoffmann et al.'s constants on these", "objective 4.12e-3", str(assessed), "does not fit"
    everything = scaling.fit(scaling.ChinchillaLaw(), num_bootstraps=200, **chinchilla_points(0))
    outliers = len(everything.influence.outliers)
    yield "all 245 points: a_opt", "0.565", f"{everything.params['a_opt']:.4f}, {outliers} points named", "a warning"


def _porian() -> Iterator[tuple[str, str, str, str]]:
    table = [row for row in rows_of("porian/optimal_pairs.csv") if all(row.values())]
    for name, stored in (("plain", PLAIN), ("weighted", WEIGHTED)):
        apart = []
        for setting, exponent in enumerate(stored):
            own = [row for row in table if row["row"] == str(setting)]
            weights = column(own, "n_star_std") ** -2 if name == "weighted" else None
            law, size, compute = scaling.PowerLaw(floor=False), column(own, "n"), column(own, "flops")
            fitted = scaling.fit(law, size, C=compute, weights=weights, delta=float("inf"), num_bootstraps=20)
            apart.append(abs(fitted.params["b"] - exponent))
        listed = ", ".join(f"{exponent:.4f}" for exponent in stored)
        yield f"exponents of the optimal size, {name}", listed, f"at most {max(apart):.1e} off", "1e-4"


def _curves() -> Iterator[tuple[str, str, str, str]]:
    multi_power = scaling.MultiPowerLaw()
    for size, constants in CONSTANTS.items():
        curves: dict[str, Any] = schedule_curves(size, PREDICTED)
        given = {name: curves[name] for name in ("step", "lr", "curve")}
        theta = multi_power.theta(dict(zip(multi_power.parameters, constants, strict=True)))
        modelled = np.exp(multi_power.log_value(theta[None], multi_power.design(read_columns(multi_power, given))))[0]
        published = "R² {:.6f}, MAE {:.6f}".format(*SCORES[size])
        found = "R² {:.6f}, MAE {:.6f}".format(*curve_scores(curves, modelled))
        yield f"multi-power law, authors' constants, {size}M", published, found, "1e-4, 1e-5"
        for law in (scaling.AnnealingLaw(), multi_power):
            fitted = scaling.fit(law, num_bootstraps=20, **schedule_curves(size, TRAINED_ON, every=4))
            predicted = fitted.predict(**given)
            found = "R² {:.4f}, MAE {:.4f}".format(*curve_scores(curves, predicted.value))
            yield f"{law.name}, own fit of three curves, {size}M", published, found, "R² ≥ .996, MAE ≤ .0065"
            inside = (predicted.low <= curves["loss"]) & (curves["loss"] <= predicted.high)
            share = inside[np.isfinite(curves["loss"])].mean()
            width = np.nanmedian(predicted.high / predicted.value) - 1
            yield (
                f"points of the six curves in its 90 % interval, {size}M",
                "",
                f"{share:.0%}, half-width {width:.2%}",
                "",
            )
