"""The objective of every fit: a sum of Huber losses of residuals in the logarithm."""

from dataclasses import dataclass

import numpy as np

from numguard.scaling.law import Design, FloatArray, IntArray, Law

HUBER_DELTA = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A law and the observations that it is fitted to.

    Parameters
    ----------
    law, design
        The form and its rows.
    target
        ``[rows]``, logarithms of the observed values.
    weight
        ``[rows]``, at least 0: how much a row counts, 1 where nothing else was asked for.
    row
        ``[rows]``, the numbers of the rows in what the user handed in; rows without an observation are not here.
    delta
        Where the Huber loss turns from quadratic to linear, in natural logarithms of the value.
    """

    law: Law
    design: Design
    target: FloatArray
    weight: FloatArray
    row: IntArray
    delta: float

    @property
    def num_observed(self) -> int:
        """Rows that count."""
        return int((self.weight > 0).sum())

    def residuals(self, theta: FloatArray) -> FloatArray:
        """Return ``[vectors, rows]``, observed minus modelled logarithm."""
        return np.asarray(self.target - self.law.log_value(theta, self.design))

    def objective(self, theta: FloatArray, weights: FloatArray | None = None) -> FloatArray:
        """Return ``[vectors]``, the objective under ``weights`` (``[rows]`` or ``[vectors, rows]``)."""
        return huber_sum(self.residuals(theta), self.weight if weights is None else weights, self.delta)


def huber_sum(residuals: FloatArray, weights: FloatArray, delta: float) -> FloatArray:
    """Return ``sum_i w_i rho(r_i)`` over the last axis; infinite where a residual is not a number.

    Notes
    -----
    ``rho(r) = r^2 / 2`` for ``|r| <= delta`` and ``delta (|r| - delta / 2)`` beyond (Huber, Annals of Mathematical
    Statistics 35, 1964). Of log residuals with ``delta = 1e-3`` it is the objective of Hoffmann et al.,
    arXiv 2203.15556, appendix D.3. It is summed: of the mean, gradients are so small that L-BFGS at its default
    tolerance stops far from the optimum (Besiroglu et al., arXiv 2404.10102).
    """
    size = np.abs(residuals)
    inside = np.minimum(size, delta)
    total = (weights * inside * (size - 0.5 * inside)).sum(axis=-1)
    return np.where(np.isfinite(total), total, np.inf)
