"""The tests behind a verdict on one task: trend, two lines, and whether its models differ at all."""

from dataclasses import dataclass

import numpy as np
from scipy import special

from numguard.scaling.law import FloatArray
from numguard.scaling.shape_scores import TaskScores


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """A score that changes its direction.

    Parameters
    ----------
    p_value
        Corrected for the breakpoints that were tried.
    turning_size
        The breakpoint.
    """

    p_value: float
    turning_size: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the scores of one task say.

    Parameters
    ----------
    slope, slope_error
        Of the score for each factor of ten in size.
    trend_p
        Two-sided, against no trend.
    dip, hump
        A score that falls and rises, or rises and falls; None with fewer than three sizes on which to turn.
    difference_p
        Against models that differ by no more than their items explain.
    scatter
        Standard deviation of the models beyond their items.
    """

    slope: float
    slope_error: float
    trend_p: float
    dip: Turn | None
    hump: Turn | None
    difference_p: float
    scatter: float

    @property
    def smallest_p(self) -> float:
        """Of the three shapes."""
        return min([self.trend_p, *(turn.p_value for turn in (self.dip, self.hump) if turn is not None)])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Errors:
    """Covariance from items, variance from scatter beyond them, and how well the latter is known."""

    covariance: FloatArray
    scatter_variance: float
    degrees: int

    def tail(self, weights: FloatArray, contrast: float) -> float:
        """Return the one-sided p value of a contrast being above 0.

        The variance is a known part and an estimated one; Welch and Satterthwaite's degrees of freedom are those of
        the estimated part, times the squared inverse of its share.
        """
        extra = self.scatter_variance * float(weights @ weights)
        variance = self.variance(weights)
        if extra <= 0.0:
            return float(special.ndtr(-contrast / np.sqrt(variance)))
        return float(special.stdtr(self.degrees * (variance / extra) ** 2, -contrast / np.sqrt(variance)))

    def variance(self, weights: FloatArray) -> float:
        """Return the variance of a contrast."""
        return float(weights @ self.covariance @ weights) + self.scatter_variance * float(weights @ weights)


def evidence_of(task: TaskScores) -> Evidence:
    """Return the tests of one task."""
    errors = _measured(task)
    everywhere = np.ones(len(task.score), dtype=bool)
    weights = _slope_weights(task.log_size, everywhere)
    slope = float(weights @ task.score)
    trend_p = min(1.0, 2.0 * errors.tail(weights, abs(slope)))
    return Evidence(
        slope=slope,
        slope_error=float(np.sqrt(errors.variance(weights))),
        trend_p=trend_p,
        dip=_turn(task, errors, direction=1.0),
        hump=_turn(task, errors, direction=-1.0),
        difference_p=_difference(task),
        scatter=float(np.sqrt(errors.scatter_variance)),
    )


def _measured(task: TaskScores) -> _Errors:
    """Return the errors of a task: the scatter about a parabola, beyond what the items alone would give it."""
    num_models = len(task.score)
    degrees = num_models - 3
    if degrees < 1 or len(np.unique(task.log_size)) < 3:
        return _Errors(covariance=task.covariance, scatter_variance=0.0, degrees=1)
    centred = task.log_size - task.log_size.mean()
    basis, _ = np.linalg.qr(np.vander(centred, 3))
    residual_maker = np.eye(num_models) - basis @ basis.T
    squares = float(np.square(residual_maker @ task.score).sum())
    explained = float(np.trace(residual_maker @ task.covariance @ residual_maker))
    return _Errors(
        covariance=task.covariance, scatter_variance=max(squares - explained, 0.0) / degrees, degrees=degrees
    )


def _turn(task: TaskScores, errors: _Errors, *, direction: float) -> Turn | None:
    """Return the best breakpoint: down before it and up after it for direction 1, the other way round for -1."""
    inner = np.unique(task.log_size)[1:-1]
    tried = []
    for place in inner:
        tails = []
        for side, sign in ((task.log_size <= place, -direction), (task.log_size >= place, direction)):
            weights = sign * _slope_weights(task.log_size, side)
            tails.append(errors.tail(weights, float(weights @ task.score)))
        tried.append((max(tails), float(10**place)))
    if not tried:
        return None
    p_value, turning_size = min(tried)
    return Turn(p_value=min(1.0, p_value * len(tried)), turning_size=turning_size)


def _slope_weights(log_size: FloatArray, chosen: np.ndarray) -> FloatArray:
    """Return the weights whose sum with the scores is the least-squares slope over the chosen models."""
    centred = np.where(chosen, log_size - log_size[chosen].mean(), 0.0)
    return np.asarray(centred / np.square(centred).sum())


def _difference(task: TaskScores) -> float:
    """Return p of the chi-squared test that all models have one score, given their items."""
    num_models = len(task.score)
    contrasts = np.eye(num_models)[1:] - np.eye(num_models)[0]
    differences = contrasts @ task.score
    covariance = contrasts @ task.covariance @ contrasts.T
    statistic = float(differences @ np.linalg.solve(covariance, differences))
    return float(special.chdtrc(num_models - 1, statistic))
