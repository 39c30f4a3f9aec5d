"""The event files of a run: which there are, and their lines, whatever bytes they hold."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from numguard.errors import InputError
from numguard.records.append_file import parsed_name
from numguard.records.schema import MAX_EVENT_BYTES

_CHUNK_BYTES: Final = 2**20
_COMPRESSED: Final = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"\x04\x22\x4d\x18": "lz4",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class EventFile:
    """One part of the events of one process."""

    path: Path
    rank: int
    attempt: int
    pid: int
    part: int


def event_files(path: Path) -> tuple[list[EventFile], list[str]]:
    """Return the event files of a run directory, rank by rank in the order of writing, and the names left aside.

    A path that is a file is taken as the only part of rank 0 unless its name says otherwise.

    Raises
    ------
    InputError
        If there is nothing of a run at ``path``.
    """
    try:
        if not path.exists():
            raise InputError(path, "", "no such file or directory")
        if not path.is_dir():
            rank, attempt, pid, part = parsed_name(path.name) or (0, 0, 0, 0)
            return [EventFile(path=path, rank=rank, attempt=attempt, pid=pid, part=part)], []
        directory = path / "events" if (path / "events").is_dir() else path
        names = sorted(os.listdir(directory))
    except (OSError, ValueError) as failure:
        if isinstance(failure, InputError):
            raise
        raise InputError(str(path)[:200], "", getattr(failure, "strerror", None) or str(failure)) from None
    files: list[EventFile] = []
    others: list[str] = []
    for name in names:
        key = parsed_name(name)
        if key is not None:
            files.append(EventFile(path=directory / name, rank=key[0], attempt=key[1], pid=key[2], part=key[3]))
        elif ".jsonl" in name and not name.startswith("."):
            others.append(name)
    if not files:
        hint = f"; {others[0]!r} is no name of an event file" if others else ""
        raise InputError(
            path, "", f"holds no events/rank*.jsonl{hint}. Give the run_dir that numguard.guard(run_dir=...) was given"
        )
    return sorted(files, key=lambda file: (file.rank, file.attempt, file.pid, file.part)), others


def lines_of(path: Path, *, longest: int = MAX_EVENT_BYTES) -> Iterator[tuple[int, bytes]]:
    r"""Yield ``(line number, line)`` of every line that is not empty, ended by ``\n``, ``\r\n``, ``\r`` or the file.

    A line longer than ``longest`` bytes may come out cut to one more than that: it is no event, and its length must
    not matter.

    Raises
    ------
    InputError
        If it is not a plain file, cannot be read, or is compressed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as failure:
        raise InputError(path, "", failure.strerror or str(failure)) from None
    with open(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError(path, "", "not a plain file")
        number, carried, first = 1, b"", True
        try:
            while chunk := file.read(_CHUNK_BYTES):
                if first:
                    _refuse_compressed(path, chunk)
                    first = False
                if chunk.endswith(b"\r"):
                    chunk += file.read(1) or b""
                if b"\r" in chunk:
                    chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
                *lines, rest = chunk.split(b"\n")
                if lines:
                    lines[0] = carried + lines[0]
                    carried = rest
                else:
                    carried += rest
                for line in lines:
                    if line:
                        yield number, line
                    number += 1
                carried = carried[: longest + 1]
        except OSError as failure:
            raise InputError(path, f"line {number}", failure.strerror or str(failure)) from None
        if carried:
            yield number, carried


def _refuse_compressed(path: Path, head: bytes) -> None:
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise InputError(path, "", f"looks compressed ({name}); decompress it first")
