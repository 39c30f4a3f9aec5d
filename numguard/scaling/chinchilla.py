"""Loss as a function of parameters and training tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from numguard.scaling.columns import log_loss, require_positive
from numguard.scaling.law import Columns, Design, FloatArray
from numguard.scaling.power_sums import Term, grid, log_sum, log_sum_and_gradient, vector


@dataclass(frozen=True, kw_only=True, slots=True)
class ChinchillaLaw:
    """Loss of a model of ``N`` parameters trained on ``D`` tokens: ``E + A / N^alpha + B / D^beta``.

    Derived is ``a_opt = beta / (alpha + beta)``, the exponent of the compute-optimal size ``N ~ C^a_opt`` under
    ``C = 6 N D``.

    Notes
    -----
    Form and grid of 4,500 starts: Hoffmann et al., *Training Compute-Optimal Large Language Models*, arXiv 2203.15556,
    equation 10 and appendix D.3 (the grid as Besiroglu et al., *Chinchilla Scaling: A replication attempt*,
    arXiv 2404.10102, ran it). ``theta`` is ``log E, log A, log B, alpha, beta``.
    """

    name: ClassVar[str] = "ChinchillaLaw"
    formula: ClassVar[str] = "E + A/N^alpha + B/D^beta"
    source: ClassVar[str] = "Hoffmann et al., arXiv 2203.15556, equation 10"
    columns: ClassVar[tuple[str, ...]] = ("N", "D")
    optional_columns: ClassVar[tuple[str, ...]] = ()
    response: ClassVar[str] = "loss"
    rows_may_miss: ClassVar[bool] = False
    parameters: ClassVar[tuple[str, ...]] = ("E", "A", "B", "alpha", "beta")
    derived: ClassVar[tuple[str, ...]] = ("a_opt",)

    def design(self, columns: Columns) -> Design:
        """Return the rows; the size of a run is its compute, ``6 N D``."""
        require_positive(self, columns, "N", "D")
        log_n, log_d = np.log(columns["N"]), np.log(columns["D"])
        return Design(
            terms={"log_n": log_n, "log_d": log_d}, size=np.log(6.0) + log_n + log_d, block=np.arange(len(log_n))
        )

    def target(self, loss: FloatArray | None, columns: Columns) -> FloatArray:
        """Return the logarithms of the losses."""
        return log_loss(loss)

    def starts(self, design: Design, target: FloatArray) -> FloatArray:
        """Return the published grid: 5 E x 6 A x 6 B x 5 alpha x 5 beta."""
        scales, exponents = np.arange(0.0, 30.0, 5.0), np.arange(0.0, 2.5, 0.5)
        return grid(np.arange(-1.0, 1.5, 0.5), scales, scales, exponents, exponents)

    def log_value(self, theta: FloatArray, design: Design) -> FloatArray:
        """Return ``log L``."""
        return log_sum(theta, _terms(design))[0]

    def log_value_and_gradient(self, theta: FloatArray, design: Design) -> tuple[FloatArray, FloatArray]:
        """Return ``log L`` and its derivatives."""
        return log_sum_and_gradient(theta, _terms(design), len(self.parameters))

    def values(self, theta: FloatArray) -> FloatArray:
        """Return ``E, A, B, alpha, beta, a_opt``."""
        alpha, beta = theta[:, 3], theta[:, 4]
        return np.column_stack([np.exp(theta[:, :3]), alpha, beta, beta / (alpha + beta)])

    def theta(self, params: Mapping[str, float]) -> FloatArray:
        """Return the vector of given constants."""
        return vector(params, self.parameters, ("E", "A", "B"))


def _terms(design: Design) -> tuple[Term, Term, Term]:
    log_n, log_d = design.terms["log_n"], design.terms["log_d"]
    return (
        Term(scale=0, exponent=None, log_base=log_n),
        Term(scale=1, exponent=3, log_base=log_n),
        Term(scale=2, exponent=4, log_base=log_d),
    )
