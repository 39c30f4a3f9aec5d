"""The band of a registered prediction, asked for step by step while the run goes on."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from numguard.errors import UsageError

if TYPE_CHECKING:
    from numguard.scaling import Fit, Registered

_NUM_SHOWN: Final = 128  # places at which a report draws the band
_AXES: Final = {"step": ("step",), "tokens": ("tokens", "D")}


class RegisteredTrend:
    """Value and band at a step of the run, or at the tokens that the loop says it has seen.

    Parameters
    ----------
    registered
        The prediction, of two rows or more along ``step`` or ``tokens``.

    Raises
    ------
    UsageError
        Where the prediction says nothing about places along a run.
    """

    def __init__(self, registered: Registered) -> None:
        self.name, self.level = registered.name, registered.level
        columns = registered.columns
        found = {axis: columns[name] for axis, names in _AXES.items() for name in names if name in columns}
        able = [axis for axis, marks in found.items() if len(set(marks)) > 1]
        if not able:
            raise UsageError(
                f"trend= got {registered.name!r}, which was registered with {', '.join(registered.columns)} and does "
                "not say what the loss should be along a run; register it with a value for each of several steps: "
                'scaling.register(..., also={"step": [...]})'
            )
        self.axis, marks = able[0], found[able[0]]
        rows = sorted(range(len(marks)), key=marks.__getitem__)
        self._marks = [marks[row] for row in rows]
        # Pairs of neighbours: the band of a whole registered curve would be searched through at every step.
        self._pairs = [
            replace(
                registered,
                columns={self.axis: (marks[first], marks[last])},
                value=(registered.value[first], registered.value[last]),
                low=(registered.low[first], registered.low[last]),
                high=(registered.high[first], registered.high[last]),
            )
            for first, last in pairwise(rows)
        ]
        self.tokens: float | None = None

    def __call__(self, step: int) -> tuple[float, float, float] | None:
        """Return value, low and high end at a step, or None where nothing was predicted."""
        return self._at(float(step) if self.axis == "step" else self.tokens)

    def _at(self, place: float | None) -> tuple[float, float, float] | None:
        if place is None or not self._marks[0] <= place <= self._marks[-1]:
            return None
        pair = self._pairs[min(bisect_right(self._marks, place), len(self._pairs)) - 1]
        band = pair.band(**{self.axis: place})
        return None if band is None else (band.value, band.low, band.high)

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of a ``trend`` event: its ``rows`` are places of the band for a report to join by lines."""
        return {"name": self.name, "level": self.level, "axis": self.axis, "rows": self._drawn()}

    def _drawn(self) -> list[list[float]]:
        first, last = self._marks[0], self._marks[-1]
        if first > 0.0:
            inner = [first * (last / first) ** (part / _NUM_SHOWN) for part in range(1, _NUM_SHOWN)]
        else:
            inner = [first + (last - first) * part / _NUM_SHOWN for part in range(1, _NUM_SHOWN)]
        marks = self._marks[:: -(-len(self._marks) // _NUM_SHOWN)]
        places = sorted({*marks, *inner, last})
        return [[place, *found] for place in places if (found := self._at(place)) is not None]


def _of_fit(fit: Fit) -> Registered:
    """Return a fit's prediction in the form of a registered one, without time and receipt: it stands in no registry."""
    from numguard.scaling import Registered

    try:
        steps, expected = fit.along_run()
    except UsageError as reason:
        raise UsageError(
            f"trend= got a Fit of which nothing can be followed along a run: {reason}. Or write the prediction down: "
            'trend=scaling.register("predictions.json", fit, name=..., also={"step": [...]}, ...)'
        ) from None
    return Registered(
        name=f"fit of {fit.law.name}",
        time="",
        hash="",
        level=expected.level,
        columns={"step": tuple(steps.tolist())},
        value=tuple(expected.value.tolist()),
        low=tuple(expected.low.tolist()),
        high=tuple(expected.high.tolist()),
        distance=float(expected.distance.max()),
        forms=(),
        code={},
        note="",
    )


def trend_of(value: Any) -> RegisteredTrend | None:
    """Return the trend that a user handed in.

    Parameters
    ----------
    value
        A registered prediction, the path of a registry with one prediction, or a fit of a law along steps that knows
        where the run is going (:meth:`numguard.scaling.Fit.along_run`); None for none.

    Raises
    ------
    UsageError
        For anything else: says what to type instead.
    InputError
        If the registry is none, or was changed after it was written.
    """
    if value is None:
        return None
    from numguard import scaling

    if isinstance(value, scaling.Registered):
        return RegisteredTrend(value)
    if isinstance(value, scaling.Fit):
        return RegisteredTrend(_of_fit(value))
    try:
        return RegisteredTrend(scaling.registered(value))
    except TypeError:
        raise UsageError(
            f"trend= got a {type(value).__name__}; give what scaling.register(...) or scaling.registered(...) "
            "returned, or the path of a registry, or leave it out"
        ) from None
