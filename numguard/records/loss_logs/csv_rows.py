"""Rows of a CSV file: commas, semicolons, tabs; and the tables that Weights & Biases exports from a chart."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from numguard.errors import InputError
from numguard.records.damage import DamageCounter
from numguard.records.loss_logs.row_table import PlacedRow
from numguard.records.run_files import lines_of

LONGEST_LINE: Final = 2**20
_MOST_COLUMNS: Final = 10_000
_OF_RUN: Final = " - "  # "run name - metric" heads a column of a chart that was exported
_BOUNDS: Final = ("__MIN", "__MAX")


def rows_of_csv(path: Path, damage: DamageCounter) -> Iterator[PlacedRow]:
    """Yield the rows of a CSV file with a header.

    Raises
    ------
    InputError
        Where there is no header, or one that repeats a name.
    """
    lines = lines_of(path, longest=LONGEST_LINE)
    first = next(lines, None)
    if first is None:
        raise InputError(path, "", "is empty")
    head = _text(first[1].removeprefix(b"\xef\xbb\xbf"))
    if head is None or len(first[1]) > LONGEST_LINE:
        raise InputError(path, f"line {first[0]}", "is no text that could name columns")
    delimiter = max(",;\t", key=head.count)
    names = _header(path, first[0], _cells(head, delimiter))
    runs = _runs(names)
    for number, line in lines:
        cells = _row(line, delimiter)
        if isinstance(cells, str) or len(cells) != len(names):
            problem = cells if isinstance(cells, str) else f"has {len(cells)} cells where the header has {len(names)}"
            damage.add("rejected", f"{path.name}:line {number}", problem)
        elif runs is None:
            yield number, dict(zip(names, cells, strict=True))
        else:
            yield from _rows_of_runs(number, names, cells, runs)


def _text(line: bytes) -> str | None:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _cells(text: str, delimiter: str) -> list[str]:
    if '"' not in text:
        return text.split(delimiter)
    return next(csv.reader([text], delimiter=delimiter, strict=True), [])


def _row(line: bytes, delimiter: str) -> list[str] | str:
    """Return the cells of a line, or why it has none. Every line stands for itself: an open quote spoils no other."""
    if len(line) > LONGEST_LINE:
        return f"longer than {LONGEST_LINE:,} bytes"
    if b"\0" in line:
        return "NUL bytes"
    text = _text(line)
    if text is None:
        return "no UTF-8 text"
    try:
        return _cells(text, delimiter)
    except csv.Error as failure:
        return f"no CSV: {str(failure)[:60]}"


def _header(path: Path, number: int, cells: Sequence[str]) -> list[str]:
    names = [name.strip() for name in cells]
    place = f"line {number}"
    if len(names) > _MOST_COLUMNS:
        raise InputError(path, place, f"names {len(names):,} columns; that is no log")
    if all(_is_number(name) for name in names):
        raise InputError(path, place, "names no columns; the first line must, for example step,loss")
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice:
        raise InputError(path, place, f"names the column {twice[:40]!r} twice")
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not text
    return True


def _runs(names: Sequence[str]) -> dict[str, list[tuple[int, str]]] | None:
    """Return the columns of each run in an exported chart, or None where the table is none."""
    if not any(name.endswith(_BOUNDS) and _OF_RUN in name for name in names):
        return None
    found: dict[str, list[tuple[int, str]]] = {}
    for place, name in enumerate(names):
        run, _, metric = name.rpartition(_OF_RUN)
        if run and not name.endswith(_BOUNDS):
            found.setdefault(run, []).append((place, metric))
    return found


def _rows_of_runs(
    number: int, names: Sequence[str], cells: Sequence[str], runs: dict[str, list[tuple[int, str]]]
) -> Iterator[PlacedRow]:
    shared = {name: cell for name, cell in zip(names, cells, strict=True) if _OF_RUN not in name}
    for run, columns in runs.items():
        values = {metric: cells[place] for place, metric in columns if cells[place]}
        if values:
            yield number, {**shared, **values, "run": run}
