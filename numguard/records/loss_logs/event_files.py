"""Scalars in TensorBoard's event files, without TensorFlow: TFRecord frames around protocol buffers.

A record is its length (uint64, little-endian), the masked CRC-32C of those eight bytes, the data, and the masked
CRC-32C of the data. The data is an ``Event`` (tensorflow/core/util/event.proto): field 2 the step, field 5 a
``Summary`` whose field 1 repeats a value: field 1 its tag, field 2 a float, field 8 a ``TensorProto``.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from numguard.errors import InputError
from numguard.records.damage import DamageCounter
from numguard.records.loss_logs.crc32c import masked
from numguard.records.loss_logs.row_table import PlacedRow

_LARGEST_RECORD: Final = 2**20  # graphs and images are larger, scalars never
_SEARCHED: Final = 4 * 2**20  # bytes in which the next record is looked for behind a broken one
_HEAD: Final = struct.Struct("<QI")
_LARGEST_STEP: Final = 2**63 - 1
_MOST_VALUES: Final = 10_000


def is_event_file(head: bytes) -> bool:
    """Return whether a file begins with the frame of a record."""
    return len(head) >= _HEAD.size and masked(head[:8]) == _HEAD.unpack(head[: _HEAD.size])[1]


def event_rows(path: Path, damage: DamageCounter) -> Iterator[PlacedRow]:
    """Yield a row for each step of an event file: its step and every scalar that was written for it in a row.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    place, current = 0, -1
    row: dict[str, float] = {}
    for number, data in _records(path, damage):
        try:
            step, values = _event(data)
        except (ValueError, IndexError, struct.error):
            damage.add("rejected", f"{path.name}:record {number}", "no event")
            continue
        if not values:
            continue
        if step != current or not values.keys().isdisjoint(row):
            if row:
                yield place, row
            place, current, row = number, step, {"step": step}
        row.update(values)
    if row:
        yield place, row


def _records(path: Path, damage: DamageCounter) -> Iterator[tuple[int, bytes]]:
    """Yield the data of each record; a broken one is counted and the next one looked for."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            number, at = 0, 0
            while at < size:
                data = _record(file, at, size)
                if isinstance(data, str):
                    category = {"bad CRC of a length": "bad_crc"}.get(data, "torn")
                    damage.add(category, f"{path.name}:byte {at}", data)
                    if category == "torn":
                        return
                    at = _next_record(file, at + 1)
                    if at < 0:
                        damage.add("rejected", path.name, "no further record behind the broken one")
                        return
                    continue
                length, content = data
                if content is not None and content[1]:
                    yield number, content[0]
                elif content is not None:
                    damage.add("bad_crc", f"{path.name}:record {number}", "bad CRC")
                number, at = number + 1, at + _HEAD.size + length + 4
    except OSError as failure:
        raise InputError(path, "", failure.strerror or str(failure)) from None


def _record(file: IO[bytes], at: int, size: int) -> tuple[int, tuple[bytes, bool] | None] | str:
    """Return the length of a record and its data with whether the CRC is right; None for one too long for scalars."""
    file.seek(at)
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return "torn record"
    length, crc = _HEAD.unpack(head)
    if masked(head[:8]) != crc:
        return "bad CRC of a length" if any(head) else "torn record: NUL bytes"
    if at + _HEAD.size + length + 4 > size:
        return "torn record"
    if length > _LARGEST_RECORD:
        return length, None
    data = file.read(length + 4)
    if len(data) < length + 4:
        return "torn record"
    return length, (data[:length], masked(data[:length]) == int.from_bytes(data[length:], "little"))


def _next_record(file: IO[bytes], start: int) -> int:
    """Return where the next record begins, or -1. A false one has a chance of 2^-32 at each byte."""
    file.seek(start)
    window = file.read(_SEARCHED)
    for at in range(len(window) - _HEAD.size + 1):
        # A record of a scalar is short: the high bytes of its length are zero, which is cheap to look at first.
        if window[at + 4 : at + 8] == b"\0\0\0\0" and is_event_file(window[at : at + _HEAD.size]):
            return start + at
    return -1


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and content of each field of a message (protocol buffers, encoding of the wire).

    Raises
    ------
    ValueError, IndexError
        Where the bytes are no message.
    """
    at, size = 0, len(data)
    while at < size:
        key, at = _varint(data, at)
        kind, value = key & 7, b""
        if kind == 0:
            number, at = _varint(data, at)
            yield key >> 3, number
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field of kind {kind}")
        value = data[at : at + length]
        if len(value) != length:
            raise ValueError("a field ends beyond its message")
        at += length
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        if shift > 63:
            raise ValueError("a number of more than ten bytes")


def _event(data: bytes) -> tuple[int, dict[str, float]]:
    step, values = 0, {}
    for field, content in _fields(data):
        if field == 2 and isinstance(content, int):
            step = content
        elif field == 5 and isinstance(content, bytes):
            values = dict(_scalars(content))
    if step > _LARGEST_STEP:
        raise ValueError("a negative step")
    return step, values


def _scalars(summary: bytes) -> Iterator[tuple[str, float]]:
    count = 0
    for field, content in _fields(summary):
        if field != 1 or not isinstance(content, bytes) or count >= _MOST_VALUES:
            continue
        tag, value = "", None
        for part, inner in _fields(content):
            if part == 1 and isinstance(inner, bytes):
                tag = inner.decode("utf-8", "replace")
            elif part == 2 and isinstance(inner, bytes) and len(inner) == 4:
                value = struct.unpack("<f", inner)[0]
            elif part == 8 and isinstance(inner, bytes):
                value = _tensor(inner)
        if value is not None and tag:
            count += 1
            yield tag, value


def _tensor(data: bytes) -> float | None:
    """Return the one float32 or float64 of a ``TensorProto``: field 1 the type, 4 raw bytes, 5 and 6 the numbers."""
    kind, raw = 0, b""
    for field, content in _fields(data):
        if field == 1 and isinstance(content, int):
            kind = content
        elif field in (4, 5, 6) and isinstance(content, bytes):
            raw = raw or content
    form = {1: "<f", 2: "<d"}.get(kind)
    if form is None or len(raw) != struct.calcsize(form):
        return None
    value: float = struct.unpack(form, raw)[0]
    return value
