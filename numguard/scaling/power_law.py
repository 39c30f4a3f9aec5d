"""Loss, or anything else, as a power of compute above a floor."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from numguard.scaling.columns import compute_design, log_loss
from numguard.scaling.law import Columns, Design, FloatArray
from numguard.scaling.power_sums import Term, grid, log_sum, log_sum_and_gradient, vector

_SLOPES = (-1.0, -0.5, -0.25, -0.15, -0.05, 0.05, 0.25, 0.5, 1.0)
_FLOORS = (0.02, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97)  # as shares of the smallest observed value


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerLaw:
    """Value at compute ``C``: ``a C^b + c``, with ``a > 0`` and ``c > 0``.

    Parameters
    ----------
    floor
        Whether there is a ``c``. Without it the law is the straight line in logarithms that quantities have which grow
        without limit, such as the compute-optimal number of parameters.

    Notes
    -----
    OpenAI, *GPT-4 Technical Report*, arXiv 2303.08774, section 3.1 (with the irreducible loss after Henighan et al.,
    arXiv 2010.14701). ``theta`` is ``log a, b, log c``.
    """

    floor: bool = True

    @property
    def name(self) -> str:
        """The class's name."""
        return "PowerLaw"

    @property
    def formula(self) -> str:
        """With or without the floor."""
        return "a*C^b + c" if self.floor else "a*C^b"

    @property
    def source(self) -> str:
        """Where it is from."""
        return "GPT-4 Technical Report, arXiv 2303.08774, section 3.1"

    @property
    def columns(self) -> tuple[str, ...]:
        """Compute alone."""
        return ("C",)

    @property
    def optional_columns(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def response(self) -> str:
        """The loss, or what was given for it."""
        return "loss"

    @property
    def rows_may_miss(self) -> bool:
        """Every row is a run."""
        return False

    @property
    def parameters(self) -> tuple[str, ...]:
        """``a, b`` and the floor."""
        return ("a", "b", "c") if self.floor else ("a", "b")

    @property
    def derived(self) -> tuple[str, ...]:
        """None."""
        return ()

    def design(self, columns: Columns) -> Design:
        """Return the rows; their size is their compute."""
        return compute_design(self, columns)

    def target(self, loss: FloatArray | None, columns: Columns) -> FloatArray:
        """Return the logarithms of the values."""
        return log_loss(loss)

    def starts(self, design: Design, target: FloatArray) -> FloatArray:
        """Return a grid over slopes and floors, each with the scale that meets the first, middle or last rows."""
        observed = target[np.isfinite(target)]
        log_c = design.terms["log_c"][np.isfinite(target)]
        smallest = float(observed.min())
        order = np.argsort(log_c, kind="stable")
        anchors = order[[0, len(order) // 2, len(order) - 1]]
        starts = []
        for slope, share, anchor in grid(_SLOPES, _FLOORS if self.floor else (0.0,), anchors.astype(np.float64)):
            log_floor = smallest + np.log(share) if self.floor else -np.inf
            above = np.log(np.maximum(np.exp(observed[int(anchor)]) - np.exp(log_floor), 1e-3 * np.exp(smallest)))
            starts.append((above - slope * log_c[int(anchor)], slope, log_floor)[: len(self.parameters)])
        return np.asarray(starts, dtype=np.float64)

    def log_value(self, theta: FloatArray, design: Design) -> FloatArray:
        """Return the logarithm of the value."""
        return log_sum(theta, self._terms(design))[0]

    def log_value_and_gradient(self, theta: FloatArray, design: Design) -> tuple[FloatArray, FloatArray]:
        """Return the same with its derivatives."""
        return log_sum_and_gradient(theta, self._terms(design), len(self.parameters))

    def values(self, theta: FloatArray) -> FloatArray:
        """Return ``a, b, c``."""
        columns = [np.exp(theta[:, 0]), theta[:, 1]]
        return np.column_stack([*columns, np.exp(theta[:, 2])] if self.floor else columns)

    def theta(self, params: Mapping[str, float]) -> FloatArray:
        """Return the vector of given constants."""
        return vector(params, self.parameters, ("a", "c"))

    def _terms(self, design: Design) -> tuple[Term, ...]:
        log_c = design.terms["log_c"]
        power = Term(scale=0, exponent=1, log_base=-log_c)
        return (power, Term(scale=2, exponent=None, log_base=log_c)) if self.floor else (power,)
