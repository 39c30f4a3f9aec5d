"""What a fit returns: parameters, intervals, predictions that always carry one, and what to distrust."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from numguard.errors import UsageError
from numguard.scaling.columns import read_columns
from numguard.scaling.holdout import Holdout
from numguard.scaling.influence import Influence
from numguard.scaling.law import Design, FloatArray, Law, quantities
from numguard.scaling.prediction_bands import Uncertainty, band_half_widths
from numguard.scaling.problem import Problem
from numguard.scaling.profiles import profile_interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An interval of a parameter.

    Parameters
    ----------
    low, high
        Its ends, in the parameter's own unit.
    level
        Nominal coverage, for example 0.9.
    method
        ``"profile"`` or ``"bootstrap"``.
    """

    low: float
    high: float
    level: float
    method: str

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A predicted value with the interval that belongs to it; floats for one row, arrays ``[rows]`` for several.

    Parameters
    ----------
    value
        The law's value at the optimum.
    low, high
        The ends of the interval in which a further run is expected.
    level
        Nominal coverage of the interval.
    distance
        How many times larger the row is than the largest that was fitted; below 1 inside of the data.
    """

    value: Any
    low: Any
    high: Any
    level: float
    distance: Any


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fit:
    """A law fitted to observations.

    Parameters
    ----------
    law
        The form, with its options.
    params
        Parameters and derived quantities by name, in the users' units.
    objective
        The sum of Huber losses at the optimum.
    theta
        ``[parameters]``, the optimum on the law's own scales.
    draws
        ``[bootstraps, parameters]``, optima of the resamples.
    agreeing
        Share of the 64 best starts that ended at the optimum; low where the objective has many valleys.
    influence
        What leaving out observations does.
    holdout
        Roll-outs: smaller runs fitted, larger ones predicted.
    warnings
        Reasons for distrust, one sentence each; empty where there are none.
    data_hash
        SHA-256 of columns and observations, for the registry of predictions.
    problem
        The rows with an observation, and the objective.
    rows
        All rows that were handed in, observed or not.
    uncertainty
        What widens predictions beyond the uncertainty of the parameters.
    """

    law: Law
    params: Mapping[str, float]
    objective: float
    theta: FloatArray
    draws: FloatArray
    agreeing: float
    influence: Influence
    holdout: Holdout
    warnings: tuple[str, ...]
    data_hash: str
    problem: Problem
    rows: Design
    uncertainty: Uncertainty

    @property
    def num_points(self) -> int:
        """Observations that were fitted."""
        return self.problem.num_observed

    @property
    def standard_errors(self) -> Mapping[str, float]:
        """Bootstrap standard errors of parameters and derived quantities."""
        with np.errstate(all="ignore"):
            spread = self.law.values(self.draws).std(axis=0, ddof=1)
        return {name: float(value) for name, value in zip(quantities(self.law), spread, strict=True)}

    def interval(self, name: str, level: float = 0.9, *, method: str | None = None) -> Interval:
        """Return an interval of a parameter or derived quantity.

        Parameters
        ----------
        name
            One of ``params``.
        level
            Nominal coverage.
        method
            ``"profile"`` (the default for parameters): all values whose best fit of the other parameters is not
            significantly worse. ``"bootstrap"`` (the only one for derived quantities): percentiles of the resamples.

        Raises
        ------
        UsageError
            There is no such quantity, level or method.
        """
        names = list(quantities(self.law))
        if name not in names:
            raise UsageError(f"{self.law.name} has no parameter {name!r}; it has {', '.join(names)}")
        if not 0.0 < level < 1.0:
            raise UsageError(f"level={level!r} is not a coverage; pass a share between 0 and 1, for example 0.9")
        derived = name in self.law.derived
        method = method or ("bootstrap" if derived else "profile")
        if method not in ("profile", "bootstrap") or (derived and method == "profile"):
            raise UsageError(f"method={method!r} is not available for {name}; pass method='bootstrap'")
        position = names.index(name)
        if method == "bootstrap":
            tails = [0.5 - level / 2, 0.5 + level / 2]
            low, high = np.quantile(self.law.values(self.draws)[:, position], tails)
            return Interval(low=float(low), high=float(high), level=level, method=method)
        low_high = profile_interval(
            self.problem, self.theta, position, float(self.draws[:, position].std(ddof=1)), level
        )
        ends = np.repeat(self.theta[None], 2, axis=0)
        ends[:, position] = low_high
        with np.errstate(all="ignore"):
            low, high = sorted(float(value) for value in self.law.values(ends)[:, position])
        return Interval(low=low, high=high, level=level, method=method)

    def predict(self, *, level: float = 0.9, **columns: ArrayLike) -> Prediction:
        """Return the law's value at further rows, with the interval in which a further run is expected.

        Parameters
        ----------
        level
            Nominal coverage.
        **columns
            The law's columns; scalars for one row.

        Raises
        ------
        UsageError
            Columns are missing, unknown or not usable.

        Notes
        -----
        In logarithms the interval is symmetric about the value. Its width combines the spread of the bootstrap
        resamples, the scatter of single runs, the error with which the other curves predict each (for laws of loss
        curves), and what roll-outs within the data have shown about the error of the form itself
        (:mod:`numguard.scaling.prediction_bands`); the last grows with the distance from the data.
        """
        single = all(np.ndim(values) == 0 for values in columns.values())
        return self._expected(self.law.design(read_columns(self.law, columns)), level, single=single)

    def along_run(self, *, level: float = 0.9) -> tuple[FloatArray, Prediction]:
        """Return the steps of the run that is to come, or is on its way, and the prediction for each.

        That run is the curve whose last rows were handed in with a loss of NaN: its planned steps and learning rates.

        Parameters
        ----------
        level
            Nominal coverage.

        Returns
        -------
        tuple
            ``[rows]``, its steps in ascending order, and the prediction at them.

        Raises
        ------
        UsageError
            The law speaks of whole runs, or not exactly one curve goes on beyond its losses.
        """
        curve = self.rows.curve
        if curve is None:
            raise UsageError(
                f"{self.law.name} says where runs of some size end, not where one is on its way; register what it says "
                "of several steps, or fit AnnealingLaw"
            )
        last = {int(curve[row]): row for row in np.argsort(self.rows.size, kind="stable")}
        ahead = [number for number, row in last.items() if row not in self.problem.row]
        if len(ahead) != 1:
            raise UsageError(
                f"{len(ahead)} of the {len(last)} curves of this {self.law.name} end in rows without a loss, so "
                "nothing says which run is to be followed; hand fit() its planned steps and learning rates too, with a "
                "loss of NaN for each, and those of no other run"
            )
        rows = np.nonzero(curve == ahead[0])[0]
        rows = rows[np.diff(self.rows.size[rows], prepend=-np.inf) > 0]
        design = self.rows.select(rows)
        return np.exp(design.size), self._expected(design, level, single=False)

    def _expected(self, design: Design, level: float, *, single: bool) -> Prediction:
        if not 0.0 < level < 1.0:
            raise UsageError(f"level={level!r} is not a coverage; pass a share between 0 and 1, for example 0.9")
        with np.errstate(all="ignore"):
            centre = self.law.log_value(self.theta[None], design)[0]
            drawn = self.law.log_value(self.draws, design)
        distance = design.size - self.uncertainty.largest_size
        half = band_half_widths(self.uncertainty, centre, drawn, distance, level)
        parts = [np.exp(centre), np.exp(centre - half), np.exp(centre + half), np.exp(distance)]
        value, low, high, ratio = [float(part[0]) if single else part for part in parts]
        return Prediction(value=value, low=low, high=high, level=level, distance=ratio)

    def plot(self) -> Any:
        """Return a plotly figure of the observations, the law and its 90 % band over the size of the run.

        Raises
        ------
        UsageError
            plotly is not installed.
        """
        from numguard.scaling.figure import fit_figure

        return fit_figure(self)
