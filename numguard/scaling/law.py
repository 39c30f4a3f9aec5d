"""What a scaling law is to the fitter: columns in, the logarithm of the modelled value and its gradient out.

A law is a frozen dataclass that satisfies :class:`Law`; it holds its options (a fixed decay, a fixed epoch rule) and no
data. Everything is written for many parameter vectors at once, because all starts of a grid and all bootstrap resamples
are descended together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Columns = Mapping[str, FloatArray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """The rows of a fit or of a prediction, as a law wants to see them.

    Parameters
    ----------
    terms
        Arrays whose first dimension is the row, by a name of the law's own choice: logarithms, cumulative sums.
        Anything else has a method ``select(rows)``.
    size
        ``[rows]``, natural logarithm of what a larger run has more of (compute, or the step within a run). Roll-outs
        hold out the largest, and the distance of a prediction is measured in it.
    block
        ``[rows]``, rows of equal number are resampled together, because their errors are not independent (neighbours
        on one loss curve). All different where rows are separate runs.
    curve
        ``[rows]``, rows of equal number are of one run; None where every row is a run of its own. A law whose rows form
        curves is judged on each curve by a fit of the others.
    """

    terms: Mapping[str, Any]
    size: FloatArray
    block: IntArray
    curve: IntArray | None = None

    @property
    def num_rows(self) -> int:
        """Rows, observed or not."""
        return len(self.size)

    def select(self, rows: IntArray) -> "Design":
        """Return the design of some rows alone; a term that is not an array selects by a method of this name."""
        terms = {
            name: term[rows] if isinstance(term, np.ndarray) else term.select(rows) for name, term in self.terms.items()
        }
        curve = None if self.curve is None else self.curve[rows]
        return Design(terms=terms, size=self.size[rows], block=self.block[rows], curve=curve)


class Law(Protocol):
    """One form of a scaling law. Parameter vectors are called ``theta`` and are free of constraints.

    Component ``j`` of ``theta`` is parameter ``parameters[j]`` on a scale of its own (a logarithm where the parameter
    is positive), so that an interval of the one is an interval of the other.
    """

    @property
    def name(self) -> str:
        """The class's name."""
        ...

    @property
    def formula(self) -> str:
        """The formula as a user would type it, in the columns' and parameters' names."""
        ...

    @property
    def source(self) -> str:
        """Where the formula is from."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that must be given, named as in the formula."""
        ...

    @property
    def optional_columns(self) -> tuple[str, ...]:
        """Columns that may be given."""
        ...

    @property
    def response(self) -> str:
        """What is modelled, for axes and messages: ``"loss"`` where :func:`~numguard.scaling.fit` must be given it."""
        ...

    @property
    def rows_may_miss(self) -> bool:
        """Whether rows without an observation (loss NaN) belong to the data, as those of a learning-rate schedule."""
        ...

    @property
    def parameters(self) -> tuple[str, ...]:
        """One name for each component of ``theta``."""
        ...

    @property
    def derived(self) -> tuple[str, ...]:
        """Quantities computed from several parameters, for example an exponent of the optimal allocation."""
        ...

    def design(self, columns: Columns) -> Design:
        """Return the rows; raises :class:`~numguard.errors.UsageError` where the columns make no sense together."""
        ...

    def target(self, loss: FloatArray | None, columns: Columns) -> FloatArray:
        """Return ``[rows]``, the logarithm of the observed value; NaN marks a row without an observation."""
        ...

    def starts(self, design: Design, target: FloatArray) -> FloatArray:
        """Return ``[starts, parameters]``, the full grid from which descent begins."""
        ...

    def log_value(self, theta: FloatArray, design: Design) -> FloatArray:
        """Return ``[vectors, rows]``, the logarithm of the modelled value for ``theta [vectors, parameters]``."""
        ...

    def log_value_and_gradient(self, theta: FloatArray, design: Design) -> tuple[FloatArray, FloatArray]:
        """Return the same and its analytic derivatives, ``[vectors, parameters, rows]``."""
        ...

    def values(self, theta: FloatArray) -> FloatArray:
        """Return ``[vectors, parameters + derived]``, in the users' units, from ``theta``."""
        ...

    def theta(self, params: Mapping[str, float]) -> FloatArray:
        """Return ``[parameters]``, the vector of given parameters (published constants, for example)."""
        ...


def quantities(law: Law) -> Sequence[str]:
    """Return the names in the order of ``law.values``: parameters, then derived ones."""
    return (*law.parameters, *law.derived)
