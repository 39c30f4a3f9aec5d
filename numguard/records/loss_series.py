"""A loss curve of any length in bounded memory: its lowest and highest point within each stretch of steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

MOST_POINTS: Final = 2_000
_MOST_NONFINITE: Final = 100

Point = tuple[int, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossCurve:
    """The losses of one process.

    Parameters
    ----------
    rank, attempt
        Whose they are.
    points
        ``(step, loss)``, at most :data:`MOST_POINTS`, all finite. Where steps were left out, the lowest and the
        highest loss of each stretch are here.
    num_steps, num_armed_steps
        Steps recorded, and those among them in which operators were checked.
    first_step, last_step
        Of all recorded steps.
    step_seconds
        Time of all recorded steps together, numguard's share included.
    num_nonfinite
        Steps whose loss was NaN or infinite.
    nonfinite
        The first of those, as ``(step, "nan")``.
    last_loss
        Of the last recorded step that has one.
    """

    rank: int
    attempt: int
    points: tuple[Point, ...]
    num_steps: int
    num_armed_steps: int
    first_step: int
    last_step: int
    step_seconds: float
    num_nonfinite: int
    nonfinite: tuple[tuple[int, str], ...]
    last_loss: float | None


def extremes(points: Sequence[Point]) -> list[Point]:
    """Return the lowest and the highest point in the order of steps, or the only one."""
    low, high = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])
    return [low] if low == high else sorted((low, high))


def thinned(points: Sequence[Point], limit: int = MOST_POINTS) -> tuple[Point, ...]:
    """Return at most ``limit`` points (at least 2) that keep the extremes of every stretch."""
    if len(points) <= limit:
        return tuple(points)
    size = math.ceil(2 * len(points) / limit)
    return tuple(point for start in range(0, len(points), size) for point in extremes(points[start : start + size]))


@dataclass(slots=True)
class LossSeries:
    """A loss curve while it is being recorded."""

    rank: int
    attempt: int
    _points: list[Point] = field(default_factory=list)
    _pending: list[Point] = field(default_factory=list)
    _stretch: int = 1
    _num_steps: int = 0
    _num_armed: int = 0
    _first: int = 0
    _last: int = 0
    _seconds: float = 0.0
    _num_nonfinite: int = 0
    _nonfinite: list[tuple[int, str]] = field(default_factory=list)
    _last_loss: float | None = None

    def add(self, step: int, loss: float | None, seconds: float | None, armed: bool) -> None:
        """Record one step."""
        self._first = min(self._first, step) if self._num_steps else step
        self._last = max(self._last, step)
        self._num_steps += 1
        self._num_armed += armed
        if seconds is not None and 0.0 <= seconds < math.inf:
            self._seconds += seconds
        if loss is not None:
            self.add_loss(step, loss)

    def add_loss(self, step: int, loss: float) -> None:
        """Record the loss of a step; it may come later than the step."""
        self._last_loss = loss
        if not math.isfinite(loss):
            self._num_nonfinite += 1
            if len(self._nonfinite) < _MOST_NONFINITE:
                self._nonfinite.append((step, str(loss)))
            return
        if self._stretch == 1:
            self._points.append((step, loss))
        else:
            self._pending.append((step, loss))
            if len(self._pending) >= self._stretch:
                self._points += extremes(self._pending)
                self._pending.clear()
        if len(self._points) >= 2 * MOST_POINTS:
            self._points = list(thinned(self._points, MOST_POINTS))
            self._stretch = max(4, 2 * self._stretch)

    def curve(self) -> LossCurve:
        """Return what was recorded so far."""
        points = self._points + (extremes(self._pending) if self._pending else [])
        return LossCurve(
            rank=self.rank,
            attempt=self.attempt,
            points=thinned(sorted(points)),
            num_steps=self._num_steps,
            num_armed_steps=self._num_armed,
            first_step=self._first,
            last_step=self._last,
            step_seconds=self._seconds,
            num_nonfinite=self._num_nonfinite,
            nonfinite=tuple(self._nonfinite),
            last_loss=self._last_loss,
        )
