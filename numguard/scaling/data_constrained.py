"""Loss where the tokens are repeated: data-constrained training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from numguard.errors import UsageError
from numguard.scaling.columns import log_loss, require_positive
from numguard.scaling.law import Columns, Design, FloatArray
from numguard.scaling.power_sums import Term, grid, log_sum, log_sum_gradient, vector

_HALF_LIVES = (3.0, 15.0, 60.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConstrainedLaw:
    """Loss of ``N`` parameters trained on ``D`` tokens of which ``U`` are unique: ``E + A / N'^alpha + B / D'^beta``.

    Repetitions lose value: ``D' = U + U R_D (1 - exp(-r / R_D))`` with ``r = D / U - 1``, and parameters beyond what
    the unique tokens feed, ``N_U``, likewise: ``N' = N_U + N_U R_N (1 - exp(-s / R_N))`` with ``s = N / N_U - 1``,
    where ``N_U = min(N, tokens_per_parameter^-1 U)``.

    Parameters
    ----------
    tokens_per_parameter
        Unique tokens that one parameter can use, 20 after Hoffmann et al.

    Notes
    -----
    Muennighoff et al., *Scaling Data-Constrained Language Models*, arXiv 2305.16264, equations 5 to 7; there
    ``R_D = 15.4`` and ``R_N = 5.3``. ``N_U`` is the compute-optimal size for ``U``, taken from the fixed ratio rather
    than from the fitted exponents, which keeps it independent of ``theta``. Without repetition the law is
    :class:`ChinchillaLaw`, and ``R_D`` and ``R_N`` are not determined, which the fit says. ``theta`` is
    ``log E, log A, log B, alpha, beta, log R_D, log R_N``.
    """

    tokens_per_parameter: float = 20.0

    name: ClassVar[str] = "DataConstrainedLaw"
    formula: ClassVar[str] = "E + A/N'^alpha + B/D'^beta, D' = U + U*R_D*(1 - exp((1 - D/U)/R_D))"
    source: ClassVar[str] = "Muennighoff et al., arXiv 2305.16264, equations 5 to 7"
    columns: ClassVar[tuple[str, ...]] = ("N", "D", "U")
    optional_columns: ClassVar[tuple[str, ...]] = ()
    response: ClassVar[str] = "loss"
    rows_may_miss: ClassVar[bool] = False
    parameters: ClassVar[tuple[str, ...]] = ("E", "A", "B", "alpha", "beta", "R_D", "R_N")
    derived: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.tokens_per_parameter > 0:
            raise UsageError(f"tokens_per_parameter={self.tokens_per_parameter!r} is not above 0; pass 20, for example")

    def design(self, columns: Columns) -> Design:
        """Return the rows; the size of a run is its compute, ``6 N D``."""
        require_positive(self, columns, "N", "D", "U")
        n, d, unique = columns["N"], columns["D"], columns["U"]
        if (unique > d).any():
            row = int(np.argmax(unique > d))
            raise UsageError(
                f"row {row} has U = {unique[row]:g} unique tokens and trained on D = {d[row]:g}; "
                "U is the number of distinct tokens seen, at most D"
            )
        fed = np.minimum(n, unique / self.tokens_per_parameter)
        terms = {
            "log_unique": np.log(unique),
            "repeats": d / unique - 1,
            "log_fed": np.log(fed),
            "excess": n / fed - 1,
        }
        return Design(terms=terms, size=np.log(6.0) + np.log(n) + np.log(d), block=np.arange(len(n)))

    def target(self, loss: FloatArray | None, columns: Columns) -> FloatArray:
        """Return the logarithms of the losses."""
        return log_loss(loss)

    def starts(self, design: Design, target: FloatArray) -> FloatArray:
        """Return Hoffmann et al.'s grid, coarser in the scales, times three half-lives for each kind of excess."""
        scales, exponents = np.arange(0.0, 30.0, 6.0), np.arange(0.0, 1.5, 0.5)
        lives = np.log(_HALF_LIVES)
        return grid(np.arange(-1.0, 1.5, 1.0), scales, scales, exponents, exponents, lives, lives)

    def log_value(self, theta: FloatArray, design: Design) -> FloatArray:
        """Return ``log L``."""
        return log_sum(theta, _terms(theta, design)[0])[0]

    def log_value_and_gradient(self, theta: FloatArray, design: Design) -> tuple[FloatArray, FloatArray]:
        """Return ``log L`` and its derivatives."""
        terms, by_data, by_size = _terms(theta, design)
        value, shares = log_sum(theta, terms)
        gradient = log_sum_gradient(terms, shares, len(self.parameters))
        gradient[:, 5] = -shares[:, 2] * theta[:, 4, None] * by_data
        gradient[:, 6] = -shares[:, 1] * theta[:, 3, None] * by_size
        return value, gradient

    def values(self, theta: FloatArray) -> FloatArray:
        """Return ``E, A, B, alpha, beta, R_D, R_N``."""
        return np.column_stack([np.exp(theta[:, :3]), theta[:, 3:5], np.exp(theta[:, 5:])])

    def theta(self, params: Mapping[str, float]) -> FloatArray:
        """Return the vector of given constants."""
        return vector(params, self.parameters, ("E", "A", "B", "R_D", "R_N"))


def _terms(theta: FloatArray, design: Design) -> tuple[tuple[Term, Term, Term], FloatArray, FloatArray]:
    """Return the three terms and the derivatives of ``log D'`` and ``log N'`` by ``log R_D`` and ``log R_N``."""
    grown_d, by_data = _effective(design.terms["repeats"], theta[:, 5, None])
    grown_n, by_size = _effective(design.terms["excess"], theta[:, 6, None])
    log_d, log_n = design.terms["log_unique"] + grown_d, design.terms["log_fed"] + grown_n
    terms = (
        Term(scale=0, exponent=None, log_base=log_n),
        Term(scale=1, exponent=3, log_base=log_n),
        Term(scale=2, exponent=4, log_base=log_d),
    )
    return terms, by_data, by_size


def _effective(excess: FloatArray, log_life: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return ``log(1 + R (1 - exp(-excess / R)))`` and its derivative by ``log R``."""
    life = np.exp(log_life)
    gone = np.exp(-excess / life)
    grown = 1 + life * -np.expm1(-excess / life)
    return np.log(grown), (life * (1 - gone) - excess * gone) / grown
