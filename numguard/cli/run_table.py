"""A CSV file of runs, one a row, that a user hands in: hostile until it is parsed."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from numguard.errors import InputError, UsageError
from numguard.report.inert_text import inert

_MOST_BYTES: Final = 256 * 2**20
_MOST_COLUMNS: Final = 10_000
_COMPRESSED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"BZh", b"\xfd7zXZ")
_PICKLE: Final = b"\x80"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTable:
    """The rows of a CSV file that can be used.

    Parameters
    ----------
    path
        As the user named it.
    cells
        Texts by column.
    lines
        Line of the file that each row ends on.
    damage
        ``line: reason`` of rows that cannot be used.
    """

    path: Path
    cells: Mapping[str, Sequence[str]]
    lines: Sequence[int]
    damage: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Columns of a table as numbers, or texts for labels; rows with a broken cell are gone.

    Parameters
    ----------
    values
        By the name that the law has for them.
    damage
        Reasons for the rows that are gone.
    """

    values: Mapping[str, Sequence[float] | Sequence[str]]
    damage: Sequence[str]


def read_table(path: Path) -> RunTable:
    """Return the rows of a CSV file with a header; commas, semicolons or tabs.

    Raises
    ------
    InputError
        There is no such file, it is no text, it has no header, or a header that repeats a name.
    """
    text = _text(path)
    header_line = text.partition("\n")[0]
    delimiter = max(",;\t", key=header_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    damage: list[str] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        _require_header(path, header)
        for row in reader:
            if len(row) == len(header):
                rows.append(row)
                lines.append(reader.line_num)
            elif row:
                damage.append(f"line {reader.line_num}: has {len(row)} cells where the header has {len(header)}")
    except csv.Error as error:
        if not rows:
            raise InputError(path, f"line {reader.line_num}", f"is not CSV: {error}") from None
        damage.append(f"line {reader.line_num}: the rest of the file is not CSV ({error})")
    columns = {name: [row[place].strip() for row in rows] for place, name in enumerate(header)}
    return RunTable(path=path, cells=columns, lines=lines, damage=damage)


def numbers(table: RunTable, wanted: Mapping[str, str], *, labels: frozenset[str], may_miss: frozenset[str]) -> Columns:
    """Return columns of a table as numbers.

    Parameters
    ----------
    table
        What was read.
    wanted
        Column of the file by the law's name for it.
    labels
        Law's names of columns that hold texts.
    may_miss
        Law's names of columns in which an empty cell means that nothing was observed: NaN.

    Raises
    ------
    UsageError
        The file has no such column.
    InputError
        No row is left.
    """
    for name, column in wanted.items():
        if column not in table.cells:
            there = ", ".join(inert(known, 40) for known in [*table.cells][:12])
            raise UsageError(
                f"{table.path} has no column {column!r} for {name}; it has {there}: say which with --column {name}=…"
            )
    damage = list(table.damage)
    kept: list[list[float | str]] = []
    for row, line in enumerate(table.lines):
        values: list[float | str] = []
        for name, column in wanted.items():
            cell = table.cells[column][row]
            value = cell if name in labels else _number(cell, may_miss=name in may_miss)
            if value is None:
                damage.append(f"line {line}: {inert(column, 40)} is '{inert(cell, 40)}', no finite number")
                break
            values.append(value)
        else:
            kept.append(values)
    if not kept:
        first = f" ({damage[0]})" if damage else ""
        raise InputError(table.path, "", f"holds no usable row{first}")
    return Columns(
        values={name: [row[place] for row in kept] for place, name in enumerate(wanted)},  # type: ignore[misc]
        damage=damage,
    )


def _number(cell: str, *, may_miss: bool) -> float | None:
    if may_miss and cell.lower() in ("", "nan"):
        return math.nan
    # float() also takes 1_000 and digits of other scripts, which no tool writes on purpose
    if not cell.isascii() or "_" in cell or len(cell) > 100:
        return None
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _text(path: Path) -> str:
    if "\0" in str(path):
        raise InputError(ascii(str(path))[:80], "", "is no path: it holds a NUL character")
    try:
        if not path.is_file():
            raise InputError(path, "", "is not a file" if path.exists() else "there is no such file")
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(str(path)[:200], "", f"cannot be read ({error.strerror})") from None
    if len(data) > _MOST_BYTES:
        raise InputError(path, "", f"is larger than {_MOST_BYTES >> 20} MiB; hand in one row for each run")
    if data.startswith(_COMPRESSED):
        raise InputError(path, "", "looks compressed; unpack it first")
    if data.startswith(_PICKLE):
        raise InputError(path, "", "is a pickle, which numguard never opens; write the runs as CSV")
    if b"\x00" in data:
        raise InputError(path, f"byte {data.index(0)}", "is a NUL, so this is no CSV text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(path, f"byte {error.start}", "is not UTF-8 text") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _require_header(path: Path, header: list[str]) -> None:
    if not any(header):
        raise InputError(path, "line 1", "is empty; the first line must name the columns")
    if len(header) > _MOST_COLUMNS:
        raise InputError(path, "line 1", f"names {len(header)} columns; that is no table of runs")
    twice = next((name for name in header if header.count(name) > 1), None) if len(set(header)) < len(header) else None
    if twice is not None:
        raise InputError(path, "line 1", f"names the column {twice[:40]!r} twice")
