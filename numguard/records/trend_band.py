"""The band of a registered prediction as the log holds it, and a log's usual range in the same form."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_MOST_ROWS: Final = 1_000
_STRETCHES: Final = 200
_LEAST_ROWS: Final = 16  # of a stretch whose spread is told
_NORMAL: Final = 1.4826  # standard deviations per median absolute deviation, of a normal distribution


@dataclass(frozen=True, kw_only=True, slots=True)
class TrendBand:
    """Where the loss is expected.

    Parameters
    ----------
    name
        Of the prediction, or of what the band is otherwise.
    level
        Nominal coverage of the band; None where it is no prediction.
    axis
        ``"step"`` or ``"tokens"``.
    rows
        ``(place, value, low, high)`` in the order of places.
    """

    name: str
    level: float | None
    axis: str
    rows: tuple[tuple[float, float, float, float], ...]


def band_from(fields: Mapping[str, Any]) -> TrendBand | str:
    """Return the band of a ``trend`` event, or why there is none."""
    rows = []
    for row in fields["rows"][:_MOST_ROWS]:
        if not isinstance(row, (list, tuple)) or len(row) != 4 or not all(map(_is_finite, row)):
            return "a row of trend is not four finite numbers"
        rows.append((float(row[0]), float(row[1]), float(row[2]), float(row[3])))
    return TrendBand(name=fields["name"], level=float(fields["level"]), axis=fields["axis"], rows=tuple(sorted(rows)))


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def usual_range(steps: Sequence[int], losses: Sequence[float | None]) -> TrendBand | None:
    """Return the median of each stretch of a log and three robust standard deviations on either side of it.

    Parameters
    ----------
    steps, losses
        One entry per row.

    Returns
    -------
    TrendBand or None
        None for a log of fewer than two stretches of 16 rows. It is there to look at: no alarm comes from it.
    """
    known = sorted(
        (step, loss) for step, loss in zip(steps, losses, strict=True) if loss is not None and math.isfinite(loss)
    )
    size = max(_LEAST_ROWS, math.ceil(len(known) / _STRETCHES))
    rows = []
    for start in range(0, len(known) - size + 1, size):
        part = known[start : start + size]
        values = sorted(loss for _, loss in part)
        middle = values[size // 2]
        spread = 3.0 * _NORMAL * sorted(abs(value - middle) for value in values)[size // 2]
        rows.append((float(part[size // 2][0]), middle, middle - spread, middle + spread))
    if len(rows) < 2:
        return None
    return TrendBand(name="usual range", level=None, axis="step", rows=tuple(rows))
