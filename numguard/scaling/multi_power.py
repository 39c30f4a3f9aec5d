"""Loss along a run as a function of its learning-rate schedule: the multi-power law."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from numguard.scaling.columns import log_loss
from numguard.scaling.law import Columns, Design, FloatArray
from numguard.scaling.power_sums import grid, vector
from numguard.scaling.schedules import LEAST_RATE, RatePieces, read_schedule

_FLOORS = (0.75, 0.88, 0.95)  # as shares of the smallest observed loss
_EXPONENTS = (0.3, 0.6)
_FALLS = (0.03, 0.1)  # what annealing takes off at its largest, as shares of the smallest observed loss
_SATURATIONS = (0.3, 3.0, 30.0)  # of C lr^-gamma S at the median piece
_DECAY_EXPONENTS = (0.3, 0.8)
_RATE_EXPONENTS = (0.3, 0.8)


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiPowerLaw:
    """Loss at a step ``t`` of a run: ``L0 + A S1^-alpha - LD``.

    ``S1`` is the sum of learning rates up to ``t``, warm-up included, and
    ``LD = B sum_k (lr_(k-1) - lr_k) [1 - (1 + C lr_k^-gamma S_k)^-beta]``, with ``S_k`` the sum from ``k`` to ``t``.

    Notes
    -----
    Luo et al., *A Multi-Power Law for Loss Curve Prediction Across Learning Rate Schedules*, arXiv 2503.12811, equation
    3. The sum over steps is taken over pieces of at most 1/256 of a run, each by its middle. ``theta`` is
    ``log L0, log A, alpha, log B, log C, beta, gamma``. Columns: ``step``, ``lr`` and, for several runs, ``curve``; a
    row without a loss (NaN) fills out the schedule. Seven parameters need schedules that differ: the source fits three
    curves (cosine, constant, two stages).
    """

    name: ClassVar[str] = "MultiPowerLaw"
    formula: ClassVar[str] = "L0 + A*S1^-alpha - B*sum_k dlr_k*(1 - (1 + C*lr_k^-gamma*S_k)^-beta)"
    source: ClassVar[str] = "Luo et al., arXiv 2503.12811, equation 3"
    columns: ClassVar[tuple[str, ...]] = ("step", "lr")
    optional_columns: ClassVar[tuple[str, ...]] = ("curve",)
    response: ClassVar[str] = "loss"
    rows_may_miss: ClassVar[bool] = True
    parameters: ClassVar[tuple[str, ...]] = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
    derived: ClassVar[tuple[str, ...]] = ()

    def design(self, columns: Columns) -> Design:
        """Return the rows; the size of a row is its step."""
        schedule = read_schedule(columns, pairs=True)
        terms = {"log_sum": np.log(np.maximum(schedule.rate_sum, LEAST_RATE)), "pieces": schedule.pieces}
        return Design(
            terms=terms, size=np.log(np.maximum(schedule.step, 1.0)), block=schedule.block, curve=schedule.curve
        )

    def target(self, loss: FloatArray | None, columns: Columns) -> FloatArray:
        """Return the logarithms of the losses."""
        return log_loss(loss)

    def starts(self, design: Design, target: FloatArray) -> FloatArray:
        """Return a grid over all seven, scales relative to the loss and the schedule at hand."""
        seen = np.nonzero(np.isfinite(target))[0]
        smallest = float(np.exp(target[seen].min()))
        middle = seen[np.argsort(design.size[seen], kind="stable")[len(seen) // 2]]
        pieces: RatePieces = design.terms["pieces"]
        falling = pieces.fall > 0
        fall, log_rate, rest = 1.0, 0.0, 1.0  # without any fall the last four parameters have nothing to stand on
        if falling.any():
            fall = float(pieces.row_sums(np.where(falling, pieces.fall, 0.0)[None]).max())
            log_rate, rest = float(np.median(pieces.log_rate[falling])), float(np.median(pieces.rest[falling]))
        starts = []
        for floor, alpha, share, saturation, beta, gamma in grid(
            _FLOORS, _EXPONENTS, _FALLS, _SATURATIONS, _DECAY_EXPONENTS, _RATE_EXPONENTS
        ):
            above = max(float(np.exp(target[middle])) - floor * smallest, 1e-3 * smallest)
            reached = 1 - (1 + saturation) ** -beta
            starts.append(
                (
                    np.log(floor * smallest),
                    np.log(above) + alpha * design.terms["log_sum"][middle],
                    alpha,
                    np.log(share * smallest / (fall * reached)),
                    np.log(saturation / rest) + gamma * log_rate,
                    beta,
                    gamma,
                )
            )
        return np.asarray(starts, dtype=np.float64)

    def log_value(self, theta: FloatArray, design: Design) -> FloatArray:
        """Return ``log L``; NaN where the law's loss is not above 0."""
        pieces: RatePieces = design.terms["pieces"]
        fall = np.exp(theta[:, 3, None]) * pieces.row_sums(self._bracket(theta, design)[0] * pieces.fall)
        return np.log(np.exp(theta[:, 0, None]) + self._power(theta, design) - fall)

    def log_value_and_gradient(self, theta: FloatArray, design: Design) -> tuple[FloatArray, FloatArray]:
        """Return ``log L`` and its derivatives."""
        pieces: RatePieces = design.terms["pieces"]
        bracket, log_inner, inner = self._bracket(theta, design)
        scale = np.exp(theta[:, 3, None])
        faded = (1 - bracket) * pieces.fall
        by_log_c = theta[:, 5, None] * faded * (inner / (1 + inner))
        floor, power = np.exp(theta[:, 0, None]), self._power(theta, design)
        fall = scale * pieces.row_sums(bracket * pieces.fall)
        loss = floor + power - fall
        parts = (
            np.broadcast_to(floor, loss.shape),
            power,
            -power * design.terms["log_sum"],
            -fall,
            -scale * pieces.row_sums(by_log_c),
            -scale * pieces.row_sums(faded * log_inner),
            scale * pieces.row_sums(by_log_c * pieces.log_rate),
        )
        return np.log(loss), np.stack(parts, axis=1) / loss[:, None]

    def values(self, theta: FloatArray) -> FloatArray:
        """Return ``L0, A, alpha, B, C, beta, gamma``."""
        scales = np.exp(theta[:, [0, 1, 3, 4]])
        return np.column_stack([scales[:, :2], theta[:, 2], scales[:, 2:], theta[:, 5:]])

    def theta(self, params: Mapping[str, float]) -> FloatArray:
        """Return the vector of given constants."""
        return vector(params, self.parameters, ("L0", "A", "B", "C"))

    def _power(self, theta: FloatArray, design: Design) -> FloatArray:
        return np.asarray(np.exp(theta[:, 1, None] - theta[:, 2, None] * design.terms["log_sum"]))

    def _bracket(self, theta: FloatArray, design: Design) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return ``1 - (1 + z)^-beta``, ``log(1 + z)`` and ``z = C lr^-gamma S`` for each pair."""
        pieces: RatePieces = design.terms["pieces"]
        inner = np.exp(theta[:, 4, None] - theta[:, 6, None] * pieces.log_rate) * pieces.rest
        log_inner = np.log1p(inner)
        return -np.expm1(-theta[:, 5, None] * log_inner), log_inner, inner
