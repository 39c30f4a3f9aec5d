"""How wide a prediction is: parameters, scatter, and the error of the form itself, measured by roll-outs."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from numguard.scaling.holdout import Holdout
from numguard.scaling.law import FloatArray
from numguard.scaling.problem import Problem

# Settled on families of published runs; docs/scaling_ground_truth.md scores each on constants from the other sources.
_ROLL_OUT_SHARE = 0.2
_LEAST_FORM_ERROR = 0.008
_LEAST_DISTANCE = 0.9 * np.log(2.0)  # nearer, the scatter of single runs hides the error of the form


@dataclass(frozen=True, kw_only=True, slots=True)
class Uncertainty:
    """What a prediction needs beside the parameters' own uncertainty.

    Parameters
    ----------
    scatter
        Standard deviation of a single run about the law, in natural logarithms of the value, by the median of absolute
        residuals with the degrees of freedom that the parameters took.
    form_error
        Error of the form for each natural logarithm of distance beyond the data.
    between_curves
        Root mean square error with which the other curves of a fit predict each; 0 where rows are runs.
    largest_size
        Natural logarithm of the largest fitted size.
    freedom
        Residual degrees of freedom.
    """

    scatter: float
    form_error: float
    between_curves: float
    largest_size: float
    freedom: int


def measure_uncertainty(problem: Problem, theta: FloatArray, holdout: Holdout, between_curves: float) -> Uncertainty:
    """Return the uncertainty of a fit from its residuals and roll-outs.

    Notes
    -----
    No form is true: loss curves bend in ways that three or five parameters do not follow, and runs with little scatter
    show it. Its error is taken to grow in proportion to the distance in the logarithm of size. Roll-outs within the
    data measure the rate, from fewer and smaller runs than the fit itself has. A fifth of their median rate, and 0.8 %
    for each factor of e beside it, is what families of published runs asked for to be covered nine times in ten.
    """
    counted = problem.weight > 0
    residuals = problem.residuals(theta[None])[0][counted]
    freedom = max(1, len(residuals) - len(theta))
    spread = 1.4826 * float(np.median(np.abs(residuals))) * np.sqrt(len(residuals) / freedom)
    far = holdout.distance >= _LEAST_DISTANCE
    beyond_scatter = np.sqrt(np.maximum(holdout.error[far] ** 2 - spread**2, 0.0))
    form = _ROLL_OUT_SHARE * float(np.median(beyond_scatter / holdout.distance[far])) if far.any() else 0.0
    return Uncertainty(
        scatter=spread,
        form_error=float(np.hypot(form, _LEAST_FORM_ERROR)),
        between_curves=between_curves,
        largest_size=float(problem.design.size[counted].max()),
        freedom=freedom,
    )


def band_half_widths(
    uncertainty: Uncertainty, centre: FloatArray, drawn: FloatArray, distance: FloatArray, level: float
) -> FloatArray:
    """Return ``[rows]``, half the width of the interval in natural logarithms of the value."""
    finite = np.where(np.isfinite(drawn), drawn, centre)
    parameters = ((finite - centre) ** 2).mean(axis=0)
    form = (uncertainty.form_error * np.maximum(distance, 0.0)) ** 2
    quantile = float(stats.t.ppf(0.5 + level / 2, uncertainty.freedom))
    return np.asarray(quantile * np.sqrt(parameters + uncertainty.scatter**2 + uncertainty.between_curves**2 + form))
