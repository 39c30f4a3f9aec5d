"""Rows of a Trackio project, which is an SQLite file with a table ``metrics`` of run, step and JSON text."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from numguard.errors import InputError
from numguard.records.damage import DamageCounter
from numguard.records.loss_logs.row_table import PlacedRow

_HEADER_BYTES = 100  # https://www.sqlite.org/fileformat.html, section 1.3
_QUERY = "SELECT id, run_name, step, metrics FROM metrics ORDER BY id"


def rows_of_trackio(path: Path, damage: DamageCounter) -> Iterator[PlacedRow]:
    """Yield the rows of all runs in the order of writing.

    The file is opened for reading only, and nothing that its schema might bring along (views, triggers, functions) is
    allowed to run.

    Raises
    ------
    InputError
        Where it is no such file.
    """
    _require_whole(path)
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)) as base:
            base.execute("PRAGMA trusted_schema = OFF")
            found = base.execute("SELECT type FROM sqlite_master WHERE name = 'metrics'").fetchall()
            if found != [("table",)]:
                raise InputError(path, "", "is an SQLite file without the table 'metrics' of a Trackio project")
            for number, run, step, text in base.execute(_QUERY):
                row = _metrics(text)
                if isinstance(row, str):
                    damage.add("rejected", f"{path.name}:row {number}", row)
                else:
                    yield number, {**row, "step": step, "run": run}
    except sqlite3.Error as failure:
        raise InputError(path, "", f"is no Trackio project that can be read: {failure}") from None


def _require_whole(path: Path) -> None:
    """Refuse a file that ends early: SQLite would go on without the pages that are not there."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    size, num_pages = int.from_bytes(head[16:18], "big"), int.from_bytes(head[28:32], "big")
    expected = num_pages * (65_536 if size == 1 else size)
    if len(head) < _HEADER_BYTES or path.stat().st_size < expected:
        raise InputError(path, "", f"is an SQLite file that ends before its {expected:,} bytes")


def _metrics(text: object) -> dict[str, object] | str:
    if not isinstance(text, (str, bytes)):
        return "metrics are no text"
    try:
        row = json.loads(text)
    except RecursionError:
        return "nested too deeply"
    except ValueError as failure:
        return f"no JSON: {str(failure)[:60]}"
    return row if isinstance(row, dict) else "metrics are no JSON object"
