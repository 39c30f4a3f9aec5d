"""A curve in one line of text."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

_LEVELS: Final = "▁▂▃▄▅▆▇█"


def sparklines(curves: Sequence[Sequence[float]], width: int = 48) -> list[str]:
    """Return each curve as ``width`` characters, all on one scale from their lowest to their highest mean.

    Parameters
    ----------
    curves
        Finite values; each character shows the mean of its share of them.
    width
        In characters.
    """
    columns = [_columns(curve, width) for curve in curves]
    low = min(min(column) for column in columns)
    high = max(max(column) for column in columns)
    scale = (len(_LEVELS) - 1) / (high - low) if high > low else 0.0
    return ["".join(_LEVELS[round((value - low) * scale)] for value in column) for column in columns]


def _columns(curve: Sequence[float], width: int) -> list[float]:
    width = min(width, len(curve))
    edges = [len(curve) * place // width for place in range(width + 1)]
    return [sum(curve[first:last]) / (last - first) for first, last in pairwise(edges)]
