"""Rows in JSON: one object a line, or one document that holds a list of them (Hugging Face, exports of trackers)."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from numguard.errors import InputError
from numguard.records.damage import DamageCounter
from numguard.records.lines import without_duplicates
from numguard.records.loss_logs.csv_rows import LONGEST_LINE
from numguard.records.loss_logs.row_table import PlacedRow
from numguard.records.run_files import lines_of

_MOST_BYTES: Final = 256 * 2**20
#: Where documents keep their rows: trainer_state.json of Hugging Face, exports of W&B and Trackio.
_LISTS: Final = ("log_history", "history", "values", "rows", "logs", "data", "metrics")
_NEAR: Final = 4_096  # characters from the start in which a document names its metric
_METRIC: Final = re.compile(r'"metric"\s*:\s*"([^"\\]{1,200})"')
_SPACE: Final = " \t\r\n"


_scan = json.JSONDecoder(object_pairs_hook=without_duplicates).raw_decode


def _parsed(text: str, start: int = 0) -> tuple[Any, int] | str:
    """Return the JSON value at a place and where it ends, or why there is none."""
    try:
        return _scan(text, start)
    except RecursionError:
        return "nested too deeply"
    except ValueError as failure:
        return f"no JSON: {str(failure)[:60]}"


def json_lines(path: Path, damage: DamageCounter) -> Iterator[PlacedRow]:
    """Yield the object of every line; a line that is none is counted, and the rest used."""
    for number, line in lines_of(path, longest=LONGEST_LINE):
        row = _line(line)
        if not isinstance(row, str):
            yield number, flat(row)
        elif row.startswith("no JSON") and not line.rstrip().endswith(b"}"):
            damage.add("torn", f"{path.name}:line {number}", "torn line")
        else:
            damage.add("rejected", f"{path.name}:line {number}", row)


def _line(line: bytes) -> Mapping[str, Any] | str:
    if len(line) > LONGEST_LINE:
        return f"longer than {LONGEST_LINE:,} bytes"
    if b"\0" in line:
        return "NUL bytes"
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "no UTF-8 text"
    if text.isspace():
        return {}
    start = len(text) - len(text.lstrip(_SPACE))
    parsed = _parsed(text, start)
    if isinstance(parsed, str):
        return parsed
    value, end = parsed
    if not isinstance(value, dict) or text[end:].strip(_SPACE):
        return "not one JSON object"
    return value


def flat(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row with the numbers of a nested ``metrics`` beside the rest, as Trackio keeps them."""
    nested = row.get("metrics")
    if isinstance(nested, str) and nested[:1] == "{":
        parsed = _parsed(nested)
        nested = None if isinstance(parsed, str) else parsed[0]
    if not isinstance(nested, Mapping):
        return row
    return {**nested, **{name: value for name, value in row.items() if name != "metrics"}}


def json_document(path: Path, damage: DamageCounter) -> Iterator[PlacedRow]:
    """Yield the objects of the list in a JSON document; of one that breaks off, those before that.

    Raises
    ------
    InputError
        Where the document is too large, no text, or holds no list of objects.
    """
    text = _document(path)
    start = len(text) - len(text.lstrip(_SPACE))
    parsed = _parsed(text, start)
    if isinstance(parsed, str):
        damage.add("torn" if parsed.startswith("no JSON") else "rejected", path.name, parsed)
        objects: Any = _salvaged(text, start)
        named = _METRIC.search(text[:_NEAR])
        metric = named[1] if named else None
    else:
        document, end = parsed
        if text[end:].strip(_SPACE):
            damage.add("rejected", path.name, f"more than one JSON value: the rest from character {end} is left aside")
        objects, metric = _listed(path, document)
    for number, row in enumerate(objects):
        if not isinstance(row, dict):
            damage.add("rejected", f"{path.name}:entry {number}", f"is a {type(row).__name__}, not an object")
        elif metric is not None and "value" in row:
            yield number, {**flat(row), metric: row["value"]}
        else:
            yield number, flat(row)


def _document(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise InputError(path, "", f"is a JSON document of more than {_MOST_BYTES >> 20} MiB; write one row a line")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise InputError(path, f"byte {failure.start}", "is no UTF-8 text") from None
    except OSError as failure:
        raise InputError(path, "", failure.strerror or str(failure)) from None


def _listed(path: Path, document: Any) -> tuple[list[Any], str | None]:
    """Return the list of rows in a document, and the metric that it is about where its rows do not name it."""
    if isinstance(document, list):
        return document, None
    if isinstance(document, dict):
        found = next((document[name] for name in _LISTS if isinstance(document.get(name), list)), None)
        metric = document.get("metric")
        if found is not None:
            return found, metric if isinstance(metric, str) else None
    raise InputError(
        path, "", f"holds no list of rows; it should be a list of objects, or have one of {', '.join(_LISTS)}"
    )


def _salvaged(text: str, start: int) -> Iterator[Any]:
    """Yield the objects before the place at which a document breaks off."""
    named = next((at for name in _LISTS if (at := text.find(f'"{name}"')) >= 0), start)
    at = text.find("[", named) + 1
    while at > 0:
        while at < len(text) and text[at] in f"{_SPACE},":
            at += 1
        if at >= len(text) or text[at] != "{":
            return
        parsed = _parsed(text, at)
        if isinstance(parsed, str):
            return
        row, at = parsed
        yield row
