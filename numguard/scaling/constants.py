"""Do given constants fit observed runs? Published ones, or those of an earlier fit."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from numguard.errors import UsageError
from numguard.scaling.fit_result import Fit
from numguard.scaling.profiles import likelihood_scale

_LEAST_P_VALUE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessment:
    """Whether given constants are compatible with the runs of a fit.

    Parameters
    ----------
    verdict
        ``"fits"`` or ``"does not fit"``: the p-value is below 0.001.
    objective
        The objective at the constants.
    ratio
        That over the objective at the optimum.
    p_value
        Probability of so large a rise if the constants were true.
    """

    verdict: str
    objective: float
    ratio: float
    p_value: float

    def __str__(self) -> str:
        return f"{self.verdict}: the objective is {self.ratio:.3g} times the optimum's (p = {self.p_value:.2g})"


def assess(fitted: Fit, **params: float) -> Assessment:
    """Return whether given constants fit the runs to which a law was fitted.

    Parameters
    ----------
    fitted
        A fit of the same law.
    **params
        Every parameter of the law; derived quantities are left out.

    Raises
    ------
    UsageError
        A parameter is missing or unknown, or the law has no finite value for them.

    Notes
    -----
    Twice the rise of the objective over its optimum, divided by ``kappa`` and by the number of parameters, is compared
    with an F distribution (the robust likelihood-ratio test, see :func:`~numguard.scaling.profiles.likelihood_scale`).
    """
    names = fitted.law.parameters
    if set(params) != set(names):
        raise UsageError(
            f"{fitted.law.name} has the parameters {', '.join(names)} and was given {', '.join(params) or 'none'}; "
            "pass each of them once"
        )
    with np.errstate(all="ignore"):
        objective = float(fitted.problem.objective(fitted.law.theta(params)[None])[0])
    if not np.isfinite(objective):
        raise UsageError(f"{fitted.law.name} has no finite value for {params}; check signs and units")
    rise = max(objective - fitted.objective, 0.0)
    freedom = max(1, fitted.num_points - len(names))
    statistic = 2 * rise / max(likelihood_scale(fitted.problem, fitted.theta), np.finfo(np.float64).tiny) / len(names)
    p_value = float(stats.f.sf(statistic, len(names), freedom))
    return Assessment(
        verdict="does not fit" if p_value < _LEAST_P_VALUE else "fits",
        objective=objective,
        ratio=objective / fitted.objective if fitted.objective > 0 else float("inf") if rise > 0 else 1.0,
        p_value=p_value,
    )
