"""When each part of an audit ends: the time that a level promises, dealt out to what it is made of."""

from collections.abc import Iterable
from time import monotonic
from typing import Final

#: Shares of the time, in the order in which the parts run; what one does not use goes to those behind it.
SHARES: Final = {
    "eager": 50.0,
    "large": 18.0,
    "compiled": 22.0,
    "examples": 7.0,
    "collectives": 4.0,
    "elementwise": 9.0,
    "accumulations": 3.0,
    "reproducers": 14.0,
}


class Timetable:
    """Deadlines on the monotonic clock.

    Parameters
    ----------
    parts
        What runs, of :data:`SHARES`.
    seconds
        What everything may take together, from now on.
    """

    def __init__(self, parts: Iterable[str], seconds: float) -> None:
        chosen = set(parts)
        shares = {name: share for name, share in SHARES.items() if name in chosen}
        total, spent, self._began = sum(shares.values()), 0.0, monotonic()
        self._ends: dict[str, float] = {}
        for name, share in shares.items():
            spent += share
            self._ends[name] = self._began + seconds * spent / total

    def __contains__(self, part: str) -> bool:
        """Return whether a part runs."""
        return part in self._ends

    def end_of(self, part: str) -> float:
        """Return when a part begins nothing any more."""
        return self._ends[part]

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return monotonic() - self._began
