"""Learning-rate schedules, as far as laws of a loss curve ask for them: sums and decays of the rate up to each row."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from numguard.errors import UsageError
from numguard.scaling.law import Columns, FloatArray, IntArray

_PIECES_PER_CURVE = 256
_BLOCKS_PER_CURVE = 8
LEAST_RATE = 1e-30  # stands for 0, where a schedule ends, so that its logarithm exists


@dataclass(frozen=True, kw_only=True, slots=True)
class RatePieces:
    """For every row, the earlier pieces of its schedule in which the rate changes, row after row.

    Parameters
    ----------
    counts
        ``[rows]``, pieces of each row.
    fall
        ``[pairs]``, the fall of the rate over the piece.
    log_rate
        ``[pairs]``, the logarithm of the rate at the piece's middle step.
    rest
        ``[pairs]``, the sum of rates from that step to the row.
    """

    counts: IntArray
    fall: FloatArray
    log_rate: FloatArray
    rest: FloatArray

    def select(self, rows: IntArray) -> "RatePieces":
        """Return the pieces of some rows."""
        heads = np.cumsum(self.counts) - self.counts
        pairs = np.concatenate([np.arange(heads[row], heads[row] + self.counts[row]) for row in rows])
        return RatePieces(
            counts=self.counts[rows], fall=self.fall[pairs], log_rate=self.log_rate[pairs], rest=self.rest[pairs]
        )

    def row_sums(self, pairs: FloatArray) -> FloatArray:
        """Return ``[vectors, rows]``, the sums of ``pairs [vectors, pairs]`` over each row's; 0 where it has none."""
        total = np.zeros((len(pairs), len(self.counts)))
        filled = np.nonzero(self.counts)[0]
        if len(filled):
            total[:, filled] = np.add.reduceat(pairs, (np.cumsum(self.counts) - self.counts)[filled], axis=1)
        return total


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The schedules of all rows.

    Parameters
    ----------
    step
        ``[rows]``.
    rate_sum
        ``[rows]``, the sum of learning rates over steps 0 to the row's own.
    annealing_area
        ``[rows]``, ``S2`` for one decay; zeros where none was asked for.
    pieces
        The changes of the rate before each row; none where they were not asked for.
    block
        ``[rows]``, eight blocks of neighbours for each curve.
    curve
        ``[rows]``, the number of the row's curve.
    """

    step: FloatArray
    rate_sum: FloatArray
    annealing_area: FloatArray
    pieces: RatePieces
    block: IntArray
    curve: IntArray


def read_schedule(columns: Columns, *, decay: float | None = None, pairs: bool = False) -> Schedule:
    """Return the schedules of the columns ``step``, ``lr`` and, where there are several curves, ``curve``.

    Parameters
    ----------
    columns
        Rows of one curve in the order of their steps. Between rows the rate is taken as a straight line, and before
        the first as one that rises from 0 at step 0. Rows without a loss may fill out a schedule.
    decay
        ``lambda`` of the annealing area, or None.
    pairs
        Whether pieces are wanted.

    Raises
    ------
    UsageError
        Steps are negative or do not rise along a curve, or a rate is negative.
    """
    step, rate = columns["step"], columns["lr"]
    curve = columns.get("curve", np.zeros(len(step)))
    if (rate < 0).any() or (step < 0).any():
        row = int(np.argmax((rate < 0) | (step < 0)))
        raise UsageError(f"row {row} has step {step[row]:g} and lr {rate[row]:g}; both must be at least 0")
    rate_sum, area, block = np.zeros(len(step)), np.zeros(len(step)), np.zeros(len(step), dtype=np.int64)
    pieces: list[tuple[FloatArray, ...]] = []
    for number, name in enumerate(np.unique(curve)):
        rows = np.nonzero(curve == name)[0]
        if (np.diff(step[rows]) <= 0).any():
            row = int(rows[1:][np.diff(step[rows]) <= 0][0])
            raise UsageError(
                f"step {step[row]:g} in row {row} does not come after the row before it; "
                "sort each curve by step, and name curves apart by the column curve=…"
            )
        knots = np.concatenate([[0.0], step[rows]])
        rates = np.concatenate([[0.0 if step[rows[0]] > 0 else rate[rows[0]]], rate[rows]])
        rate_sum[rows] = _rate_sums(knots, rates)
        if decay is not None:
            area[rows] = _annealing_areas(knots, rates, decay)
        if pairs:
            pieces.extend(_pairs(rows, knots, rates, rate_sum[rows]))
        block[rows] = number * _BLOCKS_PER_CURVE + np.arange(len(rows)) * _BLOCKS_PER_CURVE // len(rows)
    return Schedule(
        step=step,
        rate_sum=rate_sum,
        annealing_area=area,
        pieces=_joined(pieces, len(step)),
        block=block,
        curve=curve.astype(np.int64),
    )


def _joined(pieces: list[tuple[FloatArray, ...]], num_rows: int) -> RatePieces:
    parts = [np.concatenate(part) for part in zip(*pieces, strict=True)] if pieces else [np.zeros(0)] * 4
    order = np.argsort(parts[0], kind="stable")
    counts = np.bincount(parts[0].astype(np.int64), minlength=num_rows)
    return RatePieces(counts=counts, fall=parts[1][order], log_rate=parts[2][order], rest=parts[3][order])


def _rate_sums(knots: FloatArray, rates: FloatArray) -> FloatArray:
    """Return the sums of a piecewise linear rate over all integer steps up to each knot but the first, exactly."""
    inner = np.diff(knots) * (rates[1:] + rates[:-1]) / 2 + np.diff(rates) / 2
    return np.asarray(rates[0] + np.cumsum(inner))


def _annealing_areas(knots: FloatArray, rates: FloatArray, decay: float) -> FloatArray:
    """Return ``sum_i m_i`` with ``m_i = decay m_(i-1) + eta_(i-1) - eta_i``, by the closed form of each straight piece.

    Rises of the rate (warm-up) add nothing: the law speaks of annealing from the peak.
    """
    areas = np.zeros(len(knots) - 1)
    momentum = area = 0.0
    for piece, (length, fall) in enumerate(zip(np.diff(knots), -np.diff(rates), strict=True)):
        each = max(fall, 0.0) / length if length else 0.0
        kept = decay**length
        faded = (1 - kept) / (1 - decay)
        area += momentum * decay * faded + each * (length - decay * faded) / (1 - decay)
        momentum = momentum * kept + each * faded
        areas[piece] = area
    return areas


def _pairs(
    rows: IntArray, knots: FloatArray, rates: FloatArray, rate_sum: FloatArray
) -> Iterator[tuple[FloatArray, ...]]:
    """Yield, piece after piece, the rows after it with fall, logarithm of the rate, and the sum of rates since.

    A part of ``h`` steps stands for its middle step, number ``(h + 1) / 2``: a jump within one step takes effect with
    the rate that it leads to, as in the law's sum.
    """
    longest = max(1.0, knots[-1] / _PIECES_PER_CURVE)
    sum_before = np.concatenate([[rates[0]], rate_sum[:-1]])
    for piece in np.nonzero(np.diff(rates) != 0)[0]:
        later = np.arange(piece, len(rows))
        length, fall = knots[piece + 1] - knots[piece], rates[piece] - rates[piece + 1]
        num_parts = int(np.ceil(length / longest))
        num_steps = length / num_parts
        ones = np.ones(len(later))
        for part in range(num_parts):
            middle = part * num_steps + (num_steps + 1) / 2
            rate = max(rates[piece] - fall * middle / length, LEAST_RATE)
            passed = sum_before[piece] + (middle - 1) * (rates[piece] - fall * middle / (2 * length))
            rest = np.maximum(rate_sum[later] - passed, 0.0)
            yield rows[later].astype(np.float64), ones * fall / num_parts, ones * np.log(rate), rest
