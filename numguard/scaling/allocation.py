"""How compute should be split: the exponent of the optimal model size, by two routes that must agree."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from numguard.errors import UsageError
from numguard.scaling.chinchilla import ChinchillaLaw
from numguard.scaling.columns import read_columns, read_loss
from numguard.scaling.fit_result import Fit
from numguard.scaling.fitting import fit
from numguard.scaling.law import FloatArray
from numguard.scaling.power_law import PowerLaw

MOST_APART = 0.05
_LEAST_SIZES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """The exponent ``a`` of the compute-optimal size ``N ~ C^a``, by parabolas and by a fitted surface.

    Parameters
    ----------
    compute, optimal_n
        ``[budgets]``, the budgets with a minimum inside of their sizes, and where it is.
    by_parabolas
        The exponent through these minima (approach 2 of Hoffmann et al.).
    by_surface
        ``a_opt`` of the Chinchilla law fitted to all runs (approach 3).
    surface
        That fit.
    warnings
        One sentence where the routes are more than 0.05 apart.
    """

    compute: FloatArray
    optimal_n: FloatArray
    by_parabolas: float
    by_surface: float
    surface: Fit
    warnings: tuple[str, ...]


def allocate(loss: ArrayLike, *, C: ArrayLike, N: ArrayLike, num_bootstraps: int = 200) -> Allocation:  # noqa: N803
    """Return the exponent of the compute-optimal model size from IsoFLOP runs.

    Parameters
    ----------
    loss
        ``[runs]``.
    C
        ``[runs]``, compute; runs of one budget have the same.
    N
        ``[runs]``, parameters.
    num_bootstraps
        Of the fitted surface.

    Raises
    ------
    UsageError
        Fewer than two budgets have four sizes with a minimum among them.

    Notes
    -----
    Parabolas in ``log N`` are biased where the surface is not symmetric about its valley (Open Athena's analysis of
    approach 2), so one number alone is no result: Hoffmann et al., arXiv 2203.15556, section 3.
    """
    columns = read_columns(ChinchillaLaw(), {"N": N, "D": C})
    n, compute = columns["N"], columns["D"]
    values = read_loss(ChinchillaLaw(), loss, num_rows=len(n), may_miss=False)
    budgets, optima = [], []
    for budget in np.unique(compute):
        optimum = _minimum(np.log(n[compute == budget]), np.log(values[compute == budget]))
        if optimum is not None:
            budgets.append(budget)
            optima.append(np.exp(optimum))
    if len(budgets) < 2:
        raise UsageError(
            f"{len(budgets)} compute budgets have {_LEAST_SIZES} sizes with the best one among them; add runs of "
            "smaller and larger N until the loss rises on both sides of at least two budgets"
        )
    line = fit(PowerLaw(floor=False), optima, C=budgets, delta=float("inf"), num_bootstraps=20)
    surface = fit(ChinchillaLaw(), values, N=n, D=compute / (6 * n), num_bootstraps=num_bootstraps)
    apart = abs(line.params["b"] - surface.params["a_opt"])
    warning = (
        f"the optimal size grows as C^{line.params['b']:.3f} by parabolas and C^{surface.params['a_opt']:.3f} by the "
        "fitted surface; do not plan a larger model on either before you know why they differ"
    )
    return Allocation(
        compute=np.asarray(budgets),
        optimal_n=np.asarray(optima),
        by_parabolas=line.params["b"],
        by_surface=surface.params["a_opt"],
        surface=surface,
        warnings=(*surface.warnings, *((warning,) if apart > MOST_APART else ())),
    )


def _minimum(log_n: FloatArray, log_loss: FloatArray) -> float | None:
    """Return where a parabola has its minimum, or None where that is outside of the sizes."""
    if len(np.unique(log_n)) < _LEAST_SIZES:
        return None
    middle = log_n.mean()
    second, first, _ = np.polyfit(log_n - middle, log_loss, 2)
    if second <= 0:
        return None
    lowest = float(middle - first / (2 * second))
    return lowest if log_n.min() < lowest < log_n.max() else None
