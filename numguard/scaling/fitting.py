"""Fit a scaling law to runs that are there."""

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from numguard.errors import UsageError
from numguard.scaling.columns import read_columns, read_loss
from numguard.scaling.distrust import reasons_for_distrust
from numguard.scaling.fit_result import Fit
from numguard.scaling.holdout import error_between_curves, roll_out
from numguard.scaling.influence import influence_of
from numguard.scaling.law import Columns, FloatArray, Law, quantities
from numguard.scaling.optima import search, search_again
from numguard.scaling.prediction_bands import measure_uncertainty
from numguard.scaling.problem import HUBER_DELTA, Problem
from numguard.scaling.resampling import bootstrap_weights


def fit(
    law: Law | Callable[[], Law],
    loss: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    delta: float = HUBER_DELTA,
    num_bootstraps: int = 1000,
    seed: int = 0,
    **columns: ArrayLike,
) -> Fit:
    """Return the law fitted to observed runs, with intervals, influence and roll-outs.

    Parameters
    ----------
    law
        One of the laws of this room, for example ``ChinchillaLaw()``; its class stands for it with default options.
    loss
        ``[rows]``, observed, in one unit (nats or bits per token or byte). None for laws that compute it from a column.
    weights
        ``[rows]``, how much each row counts; 1 by default. For least squares weigh by the inverse variance.
    delta
        Where the Huber loss of log residuals turns linear; ``float("inf")`` is least squares.
    num_bootstraps
        Resamples behind standard errors and predictions.
    seed
        Of the resampling.
    **columns
        The law's columns, named as in its formula.

    Returns
    -------
    Fit
        Everything is computed here; reading from it costs nothing, save profile intervals.

    Raises
    ------
    UsageError
        Columns are missing, unknown or not usable, or there are fewer observations than parameters.

    Notes
    -----
    The optimum is searched from the law's full grid of starts with analytic gradients, all starts at once
    (:mod:`numguard.scaling.optima`), so that neither the grid nor the tolerance has to be made coarse.

    Examples
    --------
    >>> from numguard import scaling
    >>> compute = [1e15, 3e15, 1e16, 3e16, 1e17]
    >>> small_runs = scaling.fit(scaling.PowerLaw(), [2 + 30 * c**-0.1 for c in compute], C=compute)
    >>> round(small_runs.params["c"], 3)
    2.0
    >>> expected = small_runs.predict(C=1e18)
    >>> expected.low < 2 + 30 * 1e18**-0.1 < expected.high
    True
    """
    law = _instance(law)
    problem = posed(law, loss, given := read_columns(law, columns), weights=weights, delta=delta)
    optimum = search(problem)
    if not np.isfinite(optimum.objective):
        raise UsageError(f"{law.name} has no finite value at any start of its grid; check the units of the columns")
    drawn = search_again(problem, optimum, bootstrap_weights(problem, _num_resamples(num_bootstraps), seed))
    with np.errstate(all="ignore"):
        spread, values = law.values(drawn.theta).std(axis=0, ddof=1), law.values(optimum.theta[None])[0]
        influence = influence_of(problem, optimum, spread)
    holdout = roll_out(problem, optimum)
    return Fit(
        law=law,
        params=dict(zip(quantities(law), values.tolist(), strict=True)),
        objective=optimum.objective,
        theta=optimum.theta,
        draws=drawn.theta,
        agreeing=optimum.agreeing,
        influence=influence,
        holdout=holdout,
        warnings=reasons_for_distrust(problem, optimum, drawn, spread, influence),
        data_hash=_data_hash(given, problem.target),
        problem=problem,
        rows=law.design(given),
        uncertainty=measure_uncertainty(problem, optimum.theta, holdout, error_between_curves(problem, optimum)),
    )


def _instance(law: object) -> Law:
    if isinstance(law, type):
        law = law()
    if not hasattr(law, "log_value_and_gradient"):
        raise UsageError(f"{law!r} is not a law; pass one of numguard.scaling, for example ChinchillaLaw()")
    return law  # type: ignore[return-value]


def posed(
    law: Law,
    loss: ArrayLike | None,
    columns: Columns,
    *,
    weights: ArrayLike | None = None,
    delta: float = HUBER_DELTA,
) -> Problem:
    """Return the problem that :func:`fit` solves, for columns that :func:`~numguard.scaling.columns.read_columns` gave.

    Raises
    ------
    UsageError
        As :func:`fit`.
    """
    if not delta > 0:
        raise UsageError(f"delta={delta!r} is not above 0; leave it out for the published {HUBER_DELTA}")
    design = law.design(columns)
    if loss is None and law.response == "loss":
        raise UsageError(f"{law.name} needs the observed losses; pass fit(law, loss, …) with one loss for each row")
    observed = None if loss is None else read_loss(law, loss, num_rows=design.num_rows, may_miss=law.rows_may_miss)
    target = law.target(observed, columns)
    seen = np.isfinite(target)
    weight = np.where(seen, 1.0, 0.0)
    if weights is not None:
        weight = weight * _row_weights(weights, design.num_rows)
    needed = len(law.parameters)
    if (weight > 0).sum() < needed:
        raise UsageError(
            f"{law.name} has {needed} parameters and there are {int((weight > 0).sum())} observations; "
            "add runs, or fit a law with fewer parameters"
        )
    row = np.nonzero(seen)[0]
    return Problem(
        law=law, design=design.select(row), target=target[row], weight=weight[row], row=row, delta=float(delta)
    )


def _row_weights(weights: ArrayLike, num_rows: int) -> FloatArray:
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (num_rows,) or not np.isfinite(array).all() or (array < 0).any():
        raise UsageError(f"weights must be {num_rows} finite numbers of at least 0, one for each row")
    total = float(array.sum())
    if total <= 0:
        raise UsageError("all weights are 0, so no row counts; give a weight to as many rows as there are parameters")
    return array * (np.count_nonzero(array) / total)


def _num_resamples(num_bootstraps: int) -> int:
    if num_bootstraps < 20:
        raise UsageError(f"num_bootstraps={num_bootstraps} is too few for a standard error; pass at least 20")
    return int(num_bootstraps)


def _data_hash(columns: Mapping[str, FloatArray], target: FloatArray) -> str:
    digest = hashlib.sha256()
    for name in sorted(columns):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(columns[name]).tobytes())
    digest.update(np.ascontiguousarray(target).tobytes())
    return digest.hexdigest()
