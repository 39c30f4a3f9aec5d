"""Loss along a run as a function of its learning-rate schedule: the annealing law."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from numguard.errors import UsageError
from numguard.scaling.columns import log_loss
from numguard.scaling.law import Columns, Design, FloatArray
from numguard.scaling.power_sums import grid, vector
from numguard.scaling.schedules import LEAST_RATE, read_schedule

_FLOORS = (0.6, 0.75, 0.85, 0.92, 0.97)  # as shares of the smallest observed loss
_EXPONENTS = (0.1, 0.3, 0.5, 0.8, 1.2)
_FALLS = (0.003, 0.03, 0.1)  # what annealing takes off at its largest, as shares of the smallest observed loss


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnealingLaw:
    """Loss at a step of a run: ``L0 + A S1^-alpha - K S2``.

    ``S1`` is the sum of learning rates so far and ``S2 = sum_i m_i`` the annealing area, with
    ``m_i = decay m_(i-1) + (lr_(i-1) - lr_i)``.

    Parameters
    ----------
    decay
        ``lambda`` in the source, fixed.

    Notes
    -----
    Tissue, Wang and Wang, *Scaling Law with Learning Rate Annealing*, arXiv 2408.11029, equation 1 (``C`` there is
    ``K`` here: ``C`` is compute in the other laws). Four parameters, linear in three of them: try it before
    :class:`MultiPowerLaw`. ``theta`` is ``log L0, log A, alpha, log K``. Columns: ``step``, ``lr`` and, for several
    runs, ``curve``; a row without a loss (NaN) fills out the schedule.
    """

    decay: float = 0.999

    name: ClassVar[str] = "AnnealingLaw"
    formula: ClassVar[str] = "L0 + A*S1^-alpha - K*S2"
    source: ClassVar[str] = "Tissue et al., arXiv 2408.11029, equation 1"
    columns: ClassVar[tuple[str, ...]] = ("step", "lr")
    optional_columns: ClassVar[tuple[str, ...]] = ("curve",)
    response: ClassVar[str] = "loss"
    rows_may_miss: ClassVar[bool] = True
    parameters: ClassVar[tuple[str, ...]] = ("L0", "A", "alpha", "K")
    derived: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not 0.0 < self.decay < 1.0:
            raise UsageError(f"decay={self.decay!r} is no decay; pass a share below 1, for example 0.999")

    def design(self, columns: Columns) -> Design:
        """Return the rows; the size of a row is its step."""
        schedule = read_schedule(columns, decay=self.decay)
        terms = {"log_sum": np.log(np.maximum(schedule.rate_sum, LEAST_RATE)), "area": schedule.annealing_area}
        return Design(
            terms=terms, size=np.log(np.maximum(schedule.step, 1.0)), block=schedule.block, curve=schedule.curve
        )

    def target(self, loss: FloatArray | None, columns: Columns) -> FloatArray:
        """Return the logarithms of the losses."""
        return log_loss(loss)

    def starts(self, design: Design, target: FloatArray) -> FloatArray:
        """Return a grid over floor, exponent and the largest fall by annealing; the scale meets the middle row."""
        seen = np.nonzero(np.isfinite(target) & np.isfinite(design.terms["log_sum"]))[0]
        smallest = float(np.exp(target[seen].min()))
        middle = seen[np.argsort(design.size[seen], kind="stable")[len(seen) // 2]]
        log_sum, most = design.terms["log_sum"][middle], max(float(design.terms["area"].max()), 1e-30)
        starts = []
        for floor, alpha, fall in grid(_FLOORS, _EXPONENTS, _FALLS):
            above = max(float(np.exp(target[middle])) - floor * smallest, 1e-3 * smallest)
            starts.append(
                (np.log(floor * smallest), np.log(above) + alpha * log_sum, alpha, np.log(fall * smallest / most))
            )
        return np.asarray(starts, dtype=np.float64)

    def log_value(self, theta: FloatArray, design: Design) -> FloatArray:
        """Return ``log L``; NaN where the law's loss is not above 0."""
        floor, power, fall = self._parts(theta, design)
        return np.log(floor + power - fall)

    def log_value_and_gradient(self, theta: FloatArray, design: Design) -> tuple[FloatArray, FloatArray]:
        """Return ``log L`` and its derivatives."""
        floor, power, fall = self._parts(theta, design)
        loss = floor + power - fall
        parts = (np.broadcast_to(floor, loss.shape), power, -power * design.terms["log_sum"], -fall)
        return np.log(loss), np.stack(parts, axis=1) / loss[:, None]

    def values(self, theta: FloatArray) -> FloatArray:
        """Return ``L0, A, alpha, K``."""
        return np.column_stack([np.exp(theta[:, 0]), np.exp(theta[:, 1]), theta[:, 2], np.exp(theta[:, 3])])

    def theta(self, params: Mapping[str, float]) -> FloatArray:
        """Return the vector of given constants."""
        return vector(params, self.parameters, ("L0", "A", "K"))

    def _parts(self, theta: FloatArray, design: Design) -> tuple[FloatArray, FloatArray, FloatArray]:
        power = np.exp(theta[:, 1, None] - theta[:, 2, None] * design.terms["log_sum"])
        return np.exp(theta[:, 0, None]), power, np.exp(theta[:, 3, None]) * design.terms["area"]
