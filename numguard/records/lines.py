"""One event as one line of bytes, and back: encoding that never fails on a value, decoding that trusts nothing."""

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from numguard.records.schema import MAX_EVENT_BYTES, NONFINITE, NUMBERS, SCHEMA, SPLIT_BY, problem_of

_MAX_DEPTH: Final = 16
_SHORT_TEXT: Final = 1_024
_SHORT_LIST: Final = 64
_FRAME_BYTES: Final = 64  # room for schema, seq, part numbers and crc around the fields
_CRC_BYTES: Final = len(',"crc":"01234567"}')

Category = Literal["torn", "bad_crc", "rejected"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """Why a line is not an event."""

    category: Category
    reason: str


def _stand_in(value: object) -> object:
    """Return what is written for a value that JSON does not know: a number for a scalar, else the type's name only."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return _plain(value.item(), 0, None)  # type: ignore[attr-defined]
    if isinstance(value, Mapping):
        return _plain(value, 0, None)
    if isinstance(value, (set, frozenset)):
        return _plain(sorted(map(str, value)), 0, None)
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_stand_in)


def _plain(value: object, depth: int, longest: int | None) -> object:
    """Return the value as JSON can hold it; with ``longest``, texts and lists are cut to that length as well."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if value.bit_length() <= 64 else hex(value)[:_SHORT_TEXT]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else ("nan" if value != value else "inf" if value > 0 else "-inf")
    if isinstance(value, str):
        return value if longest is None or len(value) <= longest else f"{value[:longest]}... ({len(value)} characters)"
    if depth >= _MAX_DEPTH:
        return "<nested too deeply>"
    if isinstance(value, Mapping):
        items = list(value.items())[: None if longest is None else _SHORT_LIST]
        return {str(key)[:_SHORT_TEXT]: _plain(item, depth + 1, longest) for key, item in items}
    if isinstance(value, (list, tuple)):
        kept = value if longest is None else value[:_SHORT_LIST]
        return [_plain(item, depth + 1, longest) for item in kept]
    return _stand_in(value)


def as_plain(value: object) -> Any:
    """Return the value as strict JSON can hold it: non-finite numbers as strings, unknown objects as their type."""
    return _plain(value, 0, None)


def _json_of(fields: Mapping[str, object]) -> bytes:
    try:
        return _ENCODER.encode(fields).encode("ascii")
    except (ValueError, TypeError, RecursionError):  # a NaN, a key that is no string, nesting: the slow way knows how
        return _ENCODER.encode(_plain(fields, 0, None)).encode("ascii")


def _framed(seq: int, payload: bytes) -> bytes:
    body = b'{"schema":%d,"seq":%d,%b' % (SCHEMA, seq, payload[1:-1])
    return b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def encoded(seq: int, event: str, fields: Mapping[str, object]) -> list[bytes]:
    """Return the lines of an event, numbered from ``seq``, each at most :data:`MAX_EVENT_BYTES` long.

    Nearly always one line. An event that is longer is split by its one long field (see ``SPLIT_BY``) into parts that
    carry ``part`` and ``num_parts``; where it has none, long texts and lists are cut and ``truncated`` is set.

    Raises
    ------
    ValueError
        If even the cut event is too long for a line.
    """
    payload = _json_of({"event": event, **fields})
    if len(payload) + _FRAME_BYTES <= MAX_EVENT_BYTES:
        return [_framed(seq, payload)]
    if event in SPLIT_BY:
        parts = list(_parts(fields, SPLIT_BY[event]))
        payloads = [
            _json_of({"event": event, "part": index, "num_parts": len(parts), **part})
            for index, part in enumerate(parts)
        ]
    else:
        payloads = [_json_of(_plain({"event": event, **fields, "truncated": True}, 0, _SHORT_TEXT))]  # type: ignore[arg-type]
    if any(len(payload) + _FRAME_BYTES > MAX_EVENT_BYTES for payload in payloads):
        raise ValueError(f"{event} does not fit in {MAX_EVENT_BYTES} bytes")
    return [_framed(seq + index, payload) for index, payload in enumerate(payloads)]


def _parts(fields: Mapping[str, object], long_field: str) -> Iterator[dict[str, object]]:
    """Yield the fields with one run of the long field's items after another, half a line of items at a time."""
    rest = {name: _plain(value, 0, _SHORT_TEXT) for name, value in fields.items() if name != long_field}
    whole = _plain(fields[long_field], 0, None)
    items: list[Any] = list(whole.items()) if isinstance(whole, dict) else list(whole)  # type: ignore[call-overload]
    collect: Any = dict if isinstance(whole, dict) else list
    run: list[Any] = []
    num_bytes = 0
    for item in items:
        size = len(_ENCODER.encode(item))
        if run and num_bytes + size > MAX_EVENT_BYTES // 2:
            yield {**rest, long_field: collect(run)}
            run, num_bytes = [], 0
        run.append(item)
        num_bytes += size + 1
    yield {**rest, long_field: collect(run)}


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of a JSON object, for ``object_pairs_hook``.

    Raises
    ------
    ValueError
        Where a key stands twice.
    """
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("the same key twice")
    return fields


_scan = json.JSONDecoder(object_pairs_hook=without_duplicates).raw_decode


def decoded(raw: bytes) -> tuple[int, str, dict[str, Any]] | Rejection:
    """Return ``(seq, event, fields)`` of a line without its line end, or why it is not an event.

    Numbers that were written as ``"nan"``, ``"inf"`` or ``"-inf"`` come back as floats where the schema says number.
    """
    if len(raw) > MAX_EVENT_BYTES:
        return Rejection(category="rejected", reason=f"longer than {MAX_EVENT_BYTES} bytes")
    if raw[-18:-10] != b',"crc":"' or raw[-2:] != b'"}':
        if b"\0" in raw:
            return Rejection(category="rejected", reason="NUL bytes")
        return Rejection(category="torn", reason="torn line")
    body = raw[:-_CRC_BYTES]
    if b"%08x" % zlib.crc32(body) != raw[-10:-2]:
        return Rejection(category="bad_crc", reason="bad CRC")
    try:
        text = raw.decode("utf-8")
        fields, end = _scan(text)
    except RecursionError:
        return Rejection(category="rejected", reason="nested too deeply")
    except ValueError as failure:
        return Rejection(category="rejected", reason=str(failure)[:80])
    if end != len(text) or not isinstance(fields, dict):
        return Rejection(category="rejected", reason="not one JSON object")
    return _checked(fields, raw)


def _checked(fields: dict[str, Any], raw: bytes) -> tuple[int, str, dict[str, Any]] | Rejection:
    schema, seq, event = fields.pop("schema", None), fields.pop("seq", None), fields.pop("event", None)
    fields.pop("crc", None)
    if type(schema) is not int or schema != SCHEMA:
        return Rejection(category="rejected", reason=f"schema {str(schema)[:20]!r}; this version reads {SCHEMA}")
    if type(seq) is not int or not 0 <= seq < 2**63:
        return Rejection(category="rejected", reason="seq is not a whole number from 0 to 2^63-1")
    if not isinstance(event, str):
        return Rejection(category="rejected", reason="no event name")
    if raw.count(b"[") + raw.count(b"{") > _MAX_DEPTH and _depth(fields) > _MAX_DEPTH + 1:
        return Rejection(category="rejected", reason="nested too deeply")
    problem = problem_of(event, fields)
    if problem is not None:
        return Rejection(category="rejected", reason=problem)
    if b"\\ud" in raw or b"\\uD" in raw:
        fields = _printable(fields)
    try:
        for name in NUMBERS[event]:
            value = fields.get(name)
            if value is not None and type(value) is not float:
                fields[name] = NONFINITE[value] if isinstance(value, str) else float(value)
    except OverflowError:
        return Rejection(category="rejected", reason=f"{event}.{name} is too large for a float")
    return seq, event, fields


def _depth(value: object) -> int:
    """Return how deep a value is nested, counting no further than one past what is allowed."""
    depth = 0
    layer: list[object] = [value]
    while layer and depth <= _MAX_DEPTH + 1:
        children: list[object] = []
        for item in layer:
            if isinstance(item, dict):
                children.extend(item.values())
            elif isinstance(item, list):
                children.extend(item)
        depth, layer = depth + 1, [item for item in children if isinstance(item, (dict, list))]
    return depth


def _printable(value: Any) -> Any:
    """Return the value with lone surrogates, which no stream can print, replaced."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return [_printable(item) for item in value] if isinstance(value, list) else value
