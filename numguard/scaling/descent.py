"""Descend many parameter vectors at once: damped Newton steps on the Huber objective with analytic gradients.

One vector per start of a grid, per bootstrap resample, per held-out part or per point of a profile; each has weights of
its own, so that all of them are one array computation and no loop over fits remains.
"""

from dataclasses import dataclass

import numpy as np

from numguard.scaling.law import FloatArray
from numguard.scaling.problem import Problem, huber_sum

_MOST_ELEMENTS = 1 << 17  # of a gradient held at once: larger arrays leave the cache and cost more each
_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-2, 1e-12, 1e10
_RIDGE = 1e-13


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """Where the vectors arrived.

    Parameters
    ----------
    theta
        ``[vectors, parameters]``.
    objective
        ``[vectors]``; infinite where the law has no finite value.
    converged
        ``[vectors]``, whether the last accepted step changed the objective by less than the tolerance.
    """

    theta: FloatArray
    objective: FloatArray
    converged: np.ndarray


def descend(
    problem: Problem,
    starts: FloatArray,
    *,
    weights: FloatArray | None = None,
    fixed: int | None = None,
    num_steps: int = 400,
    tolerance: float = 1e-12,
) -> Descent:
    """Return where each start ends after at most ``num_steps`` steps.

    Parameters
    ----------
    problem
        What is minimised.
    starts
        ``[vectors, parameters]``.
    weights
        ``[vectors, rows]``, or ``[rows]`` for all; the problem's own by default.
    fixed
        A component that keeps its starting value, for profiles.
    num_steps
        The most steps for each vector.
    tolerance
        A vector is finished when an accepted step lowers its objective by less than this share of it.

    Notes
    -----
    A step solves ``(J^T H J + damping) step = J^T psi`` (Levenberg 1944, Marquardt 1963), with ``psi`` the derivative
    of the Huber loss and ``H = w min(1, (delta / |r|)^3)`` for its curvature. Exponent 1 would be iteratively
    reweighted least squares, safe and slow; no weight at all for outliers would be Newton's method, which has too few
    points to stand on when ``delta`` is far below the noise. Only steps that lower the objective are taken, so the
    choice decides about the speed and not about the optimum.
    """
    weights = problem.weight if weights is None else weights
    per_vector = max(1, problem.design.num_rows * starts.shape[1])
    chunk = max(1, _MOST_ELEMENTS // per_vector)
    parts = []
    for first in range(0, len(starts), chunk):
        part = slice(first, first + chunk)
        own = weights[part] if weights.ndim == 2 else weights
        parts.append(_descend_chunk(problem, starts[part], own, fixed, num_steps, tolerance))
    return Descent(
        theta=np.concatenate([part.theta for part in parts]),
        objective=np.concatenate([part.objective for part in parts]),
        converged=np.concatenate([part.converged for part in parts]),
    )


def _descend_chunk(
    problem: Problem, starts: FloatArray, weights: FloatArray, fixed: int | None, num_steps: int, tolerance: float
) -> Descent:
    theta = np.array(starts, dtype=np.float64)
    with np.errstate(all="ignore"):
        residuals, jacobian = _linearised(problem, theta, fixed)
        objective = huber_sum(residuals, weights, problem.delta)
        damping = np.full(len(theta), _FIRST_DAMPING)
        active = np.nonzero(np.isfinite(objective))[0]
        residuals, jacobian = residuals[active], jacobian[active]
        for _ in range(num_steps):
            if len(active) == 0:
                break
            own = weights[active] if weights.ndim == 2 else weights
            moved = theta[active] + _steps(residuals, jacobian, own, damping[active], problem.delta)
            new_residuals, new_jacobian = _linearised(problem, moved, fixed)
            reached = huber_sum(new_residuals, own, problem.delta)
            gain = objective[active] - reached
            better = gain >= 0
            finished = better & (gain <= tolerance * objective[active])
            theta[active[better]] = moved[better]
            objective[active[better]] = reached[better]
            np.copyto(residuals, new_residuals, where=better[:, None])
            np.copyto(jacobian, new_jacobian, where=better[:, None, None])
            damping[active] = np.maximum(damping[active] * np.where(better, 0.3, 4.0), _LEAST_DAMPING)
            # Where even the shortest step does not descend, the vector stands at the optimum to rounding.
            going = ~(finished | (damping[active] > _MOST_DAMPING))
            if not going.all():
                active, residuals, jacobian = active[going], residuals[going], jacobian[going]
    converged = np.isfinite(objective)
    converged[active] = False
    return Descent(theta=theta, objective=objective, converged=converged)


def _linearised(problem: Problem, theta: FloatArray, fixed: int | None) -> tuple[FloatArray, FloatArray]:
    value, jacobian = problem.law.log_value_and_gradient(theta, problem.design)
    if fixed is not None:
        jacobian[:, fixed] = 0.0
    return problem.target - value, jacobian


def _steps(
    residuals: FloatArray, jacobian: FloatArray, weights: FloatArray, damping: FloatArray, delta: float
) -> FloatArray:
    pull = weights * np.clip(residuals, -delta, delta)
    ratio = np.minimum(1.0, delta / np.maximum(np.abs(residuals), np.finfo(np.float64).tiny))
    curvature = (jacobian * (weights * ratio * ratio * ratio)[:, None, :]) @ jacobian.transpose(0, 2, 1)
    gradient = (jacobian @ pull[:, :, None])[..., 0]
    diagonal = np.einsum("vpp->vp", curvature)
    ridge = damping[:, None] * diagonal + _RIDGE * diagonal.max(axis=1, keepdims=True) + np.finfo(np.float64).tiny
    index = np.arange(jacobian.shape[1])
    curvature[:, index, index] += ridge
    solvable = np.isfinite(curvature).all(axis=(1, 2)) & np.isfinite(gradient).all(axis=1)
    if not solvable.all():
        curvature[~solvable], gradient[~solvable] = np.eye(len(index)), 0.0
    return np.asarray(np.linalg.solve(curvature, gradient[..., None])[..., 0])
