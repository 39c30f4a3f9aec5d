"""From a path to a loss log: what kind of file it is, by its content, and the reader for it."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from numguard.errors import InputError, UsageError
from numguard.records.damage import DamageCounter
from numguard.records.loss_logs.channels import KNOWN, only_loss
from numguard.records.loss_logs.csv_rows import rows_of_csv
from numguard.records.loss_logs.event_files import event_rows, is_event_file
from numguard.records.loss_logs.json_rows import json_document, json_lines
from numguard.records.loss_logs.loss_log import LossLog
from numguard.records.loss_logs.row_table import PlacedRow, RowTable
from numguard.records.loss_logs.run_rows import rows_of_run
from numguard.records.loss_logs.trackio_rows import rows_of_trackio

_HEAD_BYTES: Final = 4_096
_REFUSED: Final = {
    b"\x1f\x8b": "looks compressed (gzip); decompress it first",
    b"\x28\xb5\x2f\xfd": "looks compressed (zstd); decompress it first",
    b"\xfd7zXZ\x00": "looks compressed (xz); decompress it first",
    b"BZh": "looks compressed (bzip2); decompress it first",
    b"\x04\x22\x4d\x18": "looks compressed (lz4); decompress it first",
    b"PK\x03\x04": "is a zip archive or a torch checkpoint, no log; give trainer_state.json, CSV or JSON lines",
    b"PAR1": "is Parquet; write it as CSV, for example with pandas.read_parquet(...).to_csv(...)",
    b"\x80": "is a pickle, which numguard never opens; write the losses as CSV or JSON lines",
    b":W&B": "is W&B's own transaction log; export the history: wandb.Api().run(...).history().to_csv(...)",
    b"%PDF": "is a PDF, no log",
}
_SQLITE: Final = b"SQLite format 3\x00"
_EVENTS: Final = "tfevents"


class _Kind(NamedTuple):
    name: str
    unit: str
    text: bool
    rows: Callable[[Path, DamageCounter], Iterator[PlacedRow]]


_CSV: Final = _Kind("CSV", "line", True, rows_of_csv)
_LINES: Final = _Kind("JSON lines", "line", False, json_lines)
_DOCUMENT: Final = _Kind("JSON", "entry", False, json_document)
_TENSORBOARD: Final = _Kind("TensorBoard", "record", False, event_rows)
_TRACKIO: Final = _Kind("Trackio", "row", False, rows_of_trackio)
_RUN: Final = _Kind("numguard run", "event", False, rows_of_run)


def read_loss_log(path: str | os.PathLike[str], columns: Mapping[str, str] | None = None) -> LossLog:
    """Return the losses in a log of any known format.

    Parameters
    ----------
    path
        A CSV or JSON lines file; ``trainer_state.json`` of Hugging Face or a checkpoint folder with one; a TensorBoard
        event file or a folder of them; a table or history that was exported from Weights & Biases; a Trackio project
        or export; the ``run_dir`` of a guard.
    columns
        Column of the file by channel, ``{"loss": "train/nll"}``, where the names say it otherwise than
        :data:`numguard.records.loss_logs.channels.KNOWN`.

    Raises
    ------
    InputError
        Nothing of it can be used: with the file, the place in it, and why.
    UsageError
        A channel or column that does not exist.
    """
    asked = dict(columns or {})
    unknown = sorted(set(asked) - set(KNOWN))
    if unknown:
        raise UsageError(f"no channel is named {unknown[0][:40]!r}; there are {', '.join(KNOWN)}")
    place = _checked(path)
    kind, files = _sources(place)
    table = _read(place, kind, files, asked)
    if "loss" not in table.names and "loss" not in asked:
        loss = only_loss(table.seen)
        if loss is not None:
            table = _read(place, kind, files, {**asked, "loss": loss})
    missing = [name for channel, name in asked.items() if table.seen and channel not in table.names]
    if missing or ("loss" not in table.names and table.seen):
        there = ", ".join(ascii(name)[1:-1][:40] for name in [*table.seen][:12])
        what = f"no column {missing[0][:40]!r}" if missing else "no column that is known to hold the loss"
        raise UsageError(f"{place}: {what}; it has {there}: say which it is, as in --column loss=NAME")
    log = table.log(str(path), kind.name)
    if not table.num_rows or not log.num_losses:
        first = f" ({log.damage.examples[0]})" if log.damage.examples else ""
        raise InputError(place, "", f"holds no row with a loss{first}")
    return log


def _checked(path: str | os.PathLike[str]) -> Path:
    text = os.fsdecode(path)
    if "\0" in text:
        raise InputError(ascii(text)[:80], "", "is no path: it holds a NUL character")
    place = Path(text)
    try:
        mode = place.stat().st_mode
    except OSError as failure:
        raise InputError(text[:200], "", failure.strerror or str(failure)) from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(place, "", "not a plain file")
    return place


def _read(place: Path, kind: _Kind, files: list[Path], asked: Mapping[str, str]) -> RowTable:
    damage = DamageCounter()
    table = RowTable(file=place.name, unit=kind.unit, text=kind.text, asked=asked, damage=damage)
    for file in files:
        table.file = file.name
        table.take(kind.rows(file, damage))
    return table


def _sources(place: Path) -> tuple[_Kind, list[Path]]:
    if place.is_dir():
        return _in_folder(place)
    if place.parent.name == "events" and place.name.startswith("rank") and ".jsonl" in place.name:
        return _RUN, [place]
    return _of_file(place), [place]


def _in_folder(place: Path) -> tuple[_Kind, list[Path]]:
    try:
        names = sorted(os.listdir(place))
    except OSError as failure:
        raise InputError(place, "", failure.strerror or str(failure)) from None
    if "events" in names and (place / "events").is_dir():
        return _RUN, [place]
    if "trainer_state.json" in names:
        return _DOCUMENT, [place / "trainer_state.json"]
    events = [place / name for name in names if _EVENTS in name and (place / name).is_file()]
    if events:
        return _TENSORBOARD, sorted(events)
    below = [name for name in names if (place / name).is_dir()]
    inside = [name for name in below if any(_EVENTS in inner for inner in _listed(place / name))]
    if len(inside) == 1:
        return _in_folder(place / inside[0])
    if inside:
        raise InputError(place, "", f"holds several runs ({', '.join(map(ascii, inside[:6]))}); name one of them")
    raise InputError(place, "", "holds no events/ of a guarded run, no trainer_state.json and no TensorBoard events")


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _of_file(place: Path) -> _Kind:
    try:
        with place.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as failure:
        raise InputError(place, "", failure.strerror or str(failure)) from None
    if not head:
        raise InputError(place, "", "is empty")
    if is_event_file(head) or _EVENTS in place.name:
        return _TENSORBOARD
    if head.startswith(_SQLITE):
        return _TRACKIO
    reason = next((reason for magic, reason in _REFUSED.items() if head.startswith(magic)), None)
    if reason is not None:
        raise InputError(place, "", reason)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"["):
        return _DOCUMENT
    if text.startswith(b"{"):
        return _of_json(place, text)
    if b"\0" in head[: head.find(b"\n") if b"\n" in head else len(head)]:
        raise InputError(place, f"byte {head.index(0)}", "is a NUL, so this is no log in text")
    return _CSV


def _of_json(place: Path, text: bytes) -> _Kind:
    """Tell a document from lines: a line of its own ends with its object."""
    first = text.replace(b"\r", b"\n").partition(b"\n")[0].rstrip()
    if first.endswith(b"}") and not any(f'"{name}"'.encode() in first for name in ("log_history", "values", "history")):
        return _LINES
    if place.suffix.lower() in (".jsonl", ".ndjson"):
        return _LINES
    return _DOCUMENT
