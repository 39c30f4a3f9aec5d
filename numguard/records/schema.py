"""What an event of the log may say: its kinds, their required fields and types, and the size of one event.

An event is one line of JSON::

    {"schema":1,"seq":17,"event":"step","step":4,"loss":2.5,...,"crc":"89abcdef"}

``event`` names the kind (a finding has a ``kind`` of its own), ``seq`` counts the events of one process without a
gap, and ``crc`` is the CRC-32 of every byte before ``,"crc"``. Fields beyond the required ones are kept. Numbers that
are not finite are the strings ``"nan"``, ``"inf"`` and ``"-inf"``, so that every JSON reader accepts the file.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

SCHEMA: Final = 1
MAX_EVENT_BYTES: Final = 65_536
RESERVED: Final = frozenset({"schema", "seq", "event", "crc"})
NONFINITE: Final[Mapping[str, float]] = MappingProxyType(
    {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}
)
_LARGEST_STEP: Final = 2**63 - 1


class FieldType(NamedTuple):
    """A type of field: how it is named in a message, and the test that a value passes."""

    name: str
    accepts: Callable[[object], bool]


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_STEP


def _is_number(value: object) -> bool:
    if type(value) is float or type(value) is int:
        return True
    if isinstance(value, str):
        return value in NONFINITE
    return isinstance(value, (int, float)) and not isinstance(value, bool)


COUNT = FieldType("a whole number from 0 to 2^63-1", _is_count)
COUNT_OR_NONE = FieldType("a whole number from 0 to 2^63-1 or null", lambda value: value is None or _is_count(value))
NUMBER = FieldType("a number", _is_number)
NUMBER_OR_NONE = FieldType("a number or null", lambda value: value is None or _is_number(value))
TEXT = FieldType("a string", lambda value: isinstance(value, str))
TEXT_OR_NONE = FieldType("a string or null", lambda value: value is None or isinstance(value, str))
FLAG = FieldType("true or false", lambda value: isinstance(value, bool))
ITEMS = FieldType("a list", lambda value: isinstance(value, (list, tuple)))
TABLE = FieldType("an object", lambda value: isinstance(value, Mapping))
ANYTHING = FieldType("anything", lambda value: True)

EVENTS: Final[Mapping[str, Mapping[str, FieldType]]] = MappingProxyType(
    {
        "start": {
            "step": COUNT,
            "version": TEXT,
            "torch": TEXT,
            "rank": COUNT,
            "world_size": COUNT,
            "host": TEXT,
            "device": TEXT,
            "device_uuid": TEXT,
            "pid": COUNT,
            "attempt": COUNT,
            "seed": ANYTHING,
            "budget": NUMBER_OR_NONE,
            "checks": ITEMS,
            "time": NUMBER,
        },
        "step": {
            "step": COUNT,
            "loss": NUMBER_OR_NONE,
            "step_seconds": NUMBER_OR_NONE,
            "own_seconds": NUMBER_OR_NONE,
            "armed": FLAG,
        },
        "steps": {"step": COUNT, "rows": ITEMS, "extras": TABLE},
        "late_loss": {"step": COUNT, "loss": NUMBER},
        "finding": {
            "id": TEXT,
            "fingerprint": TEXT,
            "kind": TEXT,
            "severity": TEXT,
            "proof": TEXT,
            "model": TEXT,
            "first_caught_step": COUNT_OR_NONE,
            "last_clean_step": COUNT_OR_NONE,
            "count": COUNT,
            "checked": COUNT,
            "rank": COUNT,
            "host": TEXT,
            "device": TEXT,
            "phase": TEXT,
            "op": TEXT,
            "module": TEXT,
            "location": TEXT_OR_NONE,
            "forward_error": NUMBER_OR_NONE,
            "error_bound": NUMBER_OR_NONE,
            "ratio": NUMBER_OR_NONE,
            "message": TEXT,
            "advice": TEXT,
            "evidence": TABLE,
            "cause": TEXT_OR_NONE,
            "confirmed": TEXT,
            "capsule": TEXT_OR_NONE,
        },
        "coverage": {
            "step": COUNT,
            "sites": ITEMS,
            "uncovered": TABLE,
            "first_coverage_step": COUNT_OR_NONE,
            "num_calls_seen": COUNT,
            "num_checks": COUNT,
        },
        "cost": {
            "step": COUNT,
            "own_seconds": NUMBER,
            "elapsed_seconds": NUMBER,
            "num_armed_steps": COUNT,
            "num_checks": COUNT,
            "budget": NUMBER_OR_NONE,
        },
        "lost_updates": {"step": COUNT, "shares": TABLE, "window": COUNT},
        "selftest": {"step": COUNT, "passed": FLAG, "stage": TEXT, "detail": TEXT},
        "burst": {"step": COUNT, "reason": TEXT, "steps": COUNT},
        "pause": {"step": COUNT},
        "resume": {"step": COUNT},
        "origin": {"step": COUNT, "block": TEXT, "phase": TEXT, "detail": TEXT},
        "trend": {"step": COUNT, "name": TEXT, "level": NUMBER, "axis": TEXT, "rows": ITEMS},
        "stop": {"step": COUNT, "time": NUMBER, "reason": TEXT},
        "dropped": {"count": COUNT, "reason": TEXT},
    }
)

#: Optional fields whose type is checked when they are there.
OPTIONAL: Final[Mapping[str, Mapping[str, FieldType]]] = MappingProxyType(
    {"step": {"lr": NUMBER_OR_NONE, "tokens": NUMBER_OR_NONE, "grad_norm": NUMBER_OR_NONE}}
)

#: Columns of a row in ``steps``, which is many ``step`` events in one; ``extras`` maps a step to its optional fields.
STEP_COLUMNS: Final[Mapping[str, FieldType]] = MappingProxyType(
    {
        "step": COUNT,
        "loss": NUMBER_OR_NONE,
        "step_seconds": NUMBER_OR_NONE,
        "own_seconds": NUMBER_OR_NONE,
        "armed": FieldType("true, false, 1 or 0", lambda value: value in (0, 1)),
    }
)

#: Fields of a site in ``coverage``.
SITE: Final[Mapping[str, FieldType]] = MappingProxyType(
    {
        "op": TEXT,
        "module": TEXT_OR_NONE,
        "location": TEXT_OR_NONE,
        "phase": TEXT,
        "dtype": TEXT,
        "shape": ANYTHING,
        "seen": COUNT,
        "checked": COUNT,
        "worst_ratio": NUMBER_OR_NONE,
        "detectable_rate": NUMBER_OR_NONE,
    }
)

#: The one field by which an event that is too long for a line is split over several.
SPLIT_BY: Final[Mapping[str, str]] = MappingProxyType({"coverage": "sites", "lost_updates": "shares"})


def _numbers_of(types: Mapping[str, FieldType]) -> tuple[str, ...]:
    return tuple(name for name, wanted in types.items() if wanted in (NUMBER, NUMBER_OR_NONE))


NUMBERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {event: _numbers_of({**EVENTS[event], **OPTIONAL.get(event, {})}) for event in EVENTS}
)
SITE_NUMBERS: Final = _numbers_of(SITE)
_REQUIRED: Final = {
    event: tuple((name, wanted.accepts) for name, wanted in types.items()) for event, types in EVENTS.items()
}


def problem_of(event: str, fields: Mapping[str, object]) -> str | None:
    """Return why the fields do not make an event of that kind, or None where they do."""
    required = _REQUIRED.get(event)
    if required is None:
        return f"unknown event {event[:40]!r}"
    for name, accepts in required:
        if name not in fields:
            return f"{event} without {name!r}"
        if not accepts(fields[name]):
            return f"{event}.{name} is {_shown(fields[name])}, not {EVENTS[event][name].name}"
    for name, wanted in OPTIONAL.get(event, {}).items():
        if name in fields and not wanted.accepts(fields[name]):
            return f"{event}.{name} is {_shown(fields[name])}, not {wanted.name}"
    return None


def site_problem(site: object) -> str | None:
    """Return why a value is not a site of ``coverage``, or None where it is one."""
    if not isinstance(site, Mapping):
        return f"a site is {_shown(site)}, not an object"
    for name, wanted in SITE.items():
        if name not in site:
            return f"site without {name!r}"
        if not wanted.accepts(site[name]):
            return f"site.{name} is {_shown(site[name])}, not {wanted.name}"
    return None


def row_problem(row: object) -> str | None:
    """Return why a value is not a row of ``steps``, or None where it is one."""
    if not isinstance(row, (list, tuple)) or len(row) != len(STEP_COLUMNS):
        return f"a row of steps is not a list of {len(STEP_COLUMNS)}"
    for value, (name, wanted) in zip(row, STEP_COLUMNS.items(), strict=True):
        if not wanted.accepts(value):
            return f"{name} in a row of steps is {_shown(value)}, not {wanted.name}"
    return None


def as_float(value: object) -> float | None:
    """Return the number that an accepted field holds, None for null.

    Raises
    ------
    OverflowError
        If it is a whole number too large for a float.
    """
    if isinstance(value, str):
        return NONFINITE[value]
    return None if value is None else float(value)  # type: ignore[arg-type]


def _shown(value: object) -> str:
    if isinstance(value, (str, int, float, bool)) or value is None:
        text = (
            hex(value)
            if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**15
            else repr(value)
        )
        return text if len(text) <= 40 else text[:37] + "..."
    return f"a {type(value).__name__}"
