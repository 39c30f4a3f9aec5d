"""What a registry's entries are to their readers: a prediction with its band, and its score."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

from numguard.errors import UsageError
from numguard.scaling.registry_chain import Entry

#: The same quantity under the name that a law uses and the one that a training loop uses.
_SAME: Final = {"compute": "C", "C": "compute", "tokens": "D", "D": "tokens"}
_RELATIVE_ROUNDING: Final = 1e-9  # of a column that went through decimal text


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """What is expected at one place of a run.

    Parameters
    ----------
    value, low, high
        Predicted loss and the ends of its interval.
    level
        Nominal coverage of the interval.
    """

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """A prediction that was written down: what ``guard(trend=…)`` and ``verify`` need of it.

    Parameters
    ----------
    name
        In its registry.
    time
        UTC, ISO 8601, when it was written.
    hash
        Of its entry, over all that stands here and the entries before it: the receipt.
    level
        Nominal coverage of the intervals.
    columns
        Where the prediction holds: the law's columns and what was named beside them, each with a value for each row.
    value, low, high
        ``[rows]``, predicted loss and interval.
    distance
        How many times larger the farthest row is than the largest fitted run.
    forms
        Of each fit behind it: law, formula, parameters, objective, hash of the data, warnings.
    code
        Version of numguard, and hash of the code that fitted.
    note
        What the user wrote.
    """

    name: str
    time: str
    hash: str
    level: float
    columns: Mapping[str, tuple[float, ...]]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    distance: float
    forms: tuple[Mapping[str, Any], ...]
    code: Mapping[str, str]
    note: str

    def column(self, name: str) -> tuple[float, ...]:
        """Return a column by its own name, or by the other name of the same quantity (``compute`` and ``C``)."""
        for known in (name, _SAME.get(name, name)):
            if known in self.columns:
                return self.columns[known]
        raise UsageError(f"{self.name!r} has no column {name!r}; it was registered with {', '.join(self.columns)}")

    def band(self, **columns: float) -> Band | None:
        """Return what is expected at a place of the run, or None where nothing was predicted.

        Parameters
        ----------
        **columns
            One or more of ``step=``, ``tokens=``, ``compute=`` and the registered columns, each one number. The first
            that the prediction knows, and that differs between its rows, says where; the others are not looked at, so
            that a loop may pass all that it has.

        Raises
        ------
        UsageError
            The prediction knows none of the columns.

        Notes
        -----
        Between two registered rows value and ends of the interval are interpolated linearly, along the logarithm of
        the column where it is positive. Nothing is extrapolated: before the first row and after the last one there
        is no band. A prediction of one row has a band there alone, at the end of the run.
        """
        for name, place in columns.items():
            known = name if name in self.columns else _SAME.get(name, name)
            if known in self.columns and (len(self.value) == 1 or len(set(self.columns[known])) > 1):
                return self._at(self.columns[known], float(place))
        raise UsageError(
            f"{self.name!r} has none of the columns {', '.join(columns) or '(none given)'}; "
            f"it was registered with {', '.join(self.columns)}: pass also={{'step': …}} when registering"
        )

    def _at(self, marks: Sequence[float], place: float) -> Band | None:
        order = sorted(range(len(marks)), key=marks.__getitem__)
        for row in order:
            if math.isclose(marks[row], place, rel_tol=_RELATIVE_ROUNDING):
                return Band(value=self.value[row], low=self.low[row], high=self.high[row], level=self.level)
        if not marks[order[0]] < place < marks[order[-1]]:
            return None
        right = next(number for number, row in enumerate(order) if marks[row] > place)
        first, last = order[right - 1], order[right]
        share = _share(marks[first], place, marks[last])
        value, low, high = (
            part[first] + share * (part[last] - part[first]) for part in (self.value, self.low, self.high)
        )
        return Band(value=value, low=low, high=high, level=self.level)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """How a registered prediction did.

    Parameters
    ----------
    registered
        The prediction.
    time
        UTC, ISO 8601, when the outcome was written down.
    rows
        Rows of the prediction that have an outcome, in their order.
    outcome
        The loss of each of them.
    """

    registered: Registered
    time: str
    rows: tuple[int, ...]
    outcome: tuple[float, ...]

    @property
    def inside(self) -> tuple[bool, ...]:
        """Whether each outcome lies in its interval."""
        known = self.registered
        return tuple(
            known.low[row] <= loss <= known.high[row] for row, loss in zip(self.rows, self.outcome, strict=True)
        )

    @property
    def ok(self) -> bool:
        """Whether the last outcome, the one farthest along, lies in its interval."""
        return self.inside[-1]

    @property
    def coverage(self) -> float:
        """Share of the outcomes inside; to be compared with the level only over many predictions."""
        return sum(self.inside) / len(self.inside)

    @property
    def relative_error(self) -> tuple[float, ...]:
        """Outcome over prediction, minus 1: negative where the run came out better than predicted."""
        return tuple(loss / self.registered.value[row] - 1.0 for row, loss in zip(self.rows, self.outcome, strict=True))

    @property
    def log_score(self) -> tuple[float, ...]:
        """Logarithm of the predictive density at each outcome, in nats; higher is better.

        Notes
        -----
        The interval stands for a normal density of the logarithm of the loss (Gneiting and Raftery, Journal of the
        American Statistical Association 102, 2007, on why it cannot be gamed by intervals that are too wide).
        """
        known = self.registered
        quantile = NormalDist().inv_cdf(0.5 + known.level / 2)
        scores = []
        for row, loss in zip(self.rows, self.outcome, strict=True):
            spread = (math.log(known.high[row]) - math.log(known.low[row])) / (2 * quantile)
            distance = (math.log(loss) - math.log(known.value[row])) / spread
            scores.append(-0.5 * distance**2 - math.log(spread * math.sqrt(2 * math.pi)))
        return tuple(scores)

    def __str__(self) -> str:
        known, row = self.registered, self.rows[-1]
        place = "inside" if self.ok else ("above" if self.outcome[-1] > known.high[row] else "below")
        of_rows = f"; {sum(self.inside)} of {len(self.rows)} marks inside" if len(self.rows) > 1 else ""
        return (
            f"{known.name}: {self.outcome[-1]:.6g} is {place} the {known.level:.0%} interval "
            f"[{known.low[row]:.6g}, {known.high[row]:.6g}] of {known.value[row]:.6g} "
            f"({self.relative_error[-1]:+.2%}), registered {known.time}{of_rows}"
        )


def registered_of(entry: Entry) -> Registered:
    """Return the prediction that an entry of a checked chain holds."""
    content = entry.content
    return Registered(
        name=content["name"],
        time=entry.time,
        hash=entry.hash,
        level=content["level"],
        columns={name: tuple(values) for name, values in content["columns"].items()},
        value=tuple(content["value"]),
        low=tuple(content["low"]),
        high=tuple(content["high"]),
        distance=content["distance"],
        forms=tuple(content["forms"]),
        code=dict(content["code"]),
        note=content["note"],
    )


def verification_of(registered: Registered, outcome: Sequence[Mapping[str, float]], time: str) -> Verification:
    """Return the score of a prediction by the rows of an outcome entry."""
    rows = sorted(outcome, key=lambda one: one["row"])
    return Verification(
        registered=registered,
        time=time,
        rows=tuple(int(one["row"]) for one in rows),
        outcome=tuple(float(one["loss"]) for one in rows),
    )


def check_content(content: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> str:
    """Return why an entry is none that a registry writes, or an empty text.

    Its hash proves only that it was not changed since; whoever made the file can have made anything.
    """
    name = content.get("name")
    if not isinstance(name, str) or not name:
        return "has no name"
    known = {one["name"]: one for one in before if one["kind"] == "prediction"}
    if content.get("kind") == "prediction":
        return f"registers {name[:40]!r} a second time" if name in known else _prediction_fault(content)
    if content.get("kind") == "outcome":
        if name not in known:
            return f"is an outcome of {name[:40]!r}, which was not registered before it"
        return _outcome_fault(content, len(known[name]["value"]))
    return f"is of the unknown kind {str(content.get('kind'))[:20]!r}"


def _prediction_fault(content: Mapping[str, Any]) -> str:
    columns = content.get("columns")
    if not isinstance(columns, dict) or not columns:
        return "has no columns"
    lists = {**columns, **{part: content.get(part) for part in ("value", "low", "high")}}
    broken = [name for name, values in lists.items() if not _is_numbers(values)]
    if broken:
        return f"{broken[0][:40]!r} is not a list of finite numbers"
    if len({len(values) for values in lists.values()}) != 1:
        return "has columns that differ in length"
    if not all(0 < low < high for low, high in zip(content["low"], content["high"], strict=True)):
        return "has an interval whose ends are not above 0 and in order"
    if not all(value > 0 for value in content["value"]):
        return "predicts a loss that is not above 0"
    level: Any = content.get("level")
    if not (_is_number(level) and 0 < level < 1 and _is_number(content.get("distance"))):
        return "has no level between 0 and 1, or no distance"
    forms, code = content.get("forms"), content.get("code")
    if not isinstance(forms, list) or not all(isinstance(form, dict) for form in forms):
        return "does not say which forms were fitted"
    if not isinstance(code, dict) or not isinstance(content.get("note"), str):
        return "does not say which code predicted"
    return ""


def _outcome_fault(content: Mapping[str, Any], num_rows: int) -> str:
    rows = content.get("outcome")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return "has no outcome"
    for row in rows:
        number, loss = row.get("row"), row.get("loss")
        if type(number) is not int or not 0 <= number < num_rows or not _is_number(loss) or loss <= 0:
            return "has an outcome of a row that was not predicted, or a loss that is none"
    return ""


def _is_numbers(values: object) -> bool:
    return isinstance(values, list) and bool(values) and all(_is_number(value) for value in values)


def _is_number(value: Any) -> bool:
    # `abs(...) < 1e300` turns whole numbers away that no float holds
    return type(value) in (int, float) and abs(value) < 1e300


def _share(first: float, place: float, last: float) -> float:
    if first > 0:
        return (math.log(place) - math.log(first)) / (math.log(last) - math.log(first))
    return (place - first) / (last - first)
