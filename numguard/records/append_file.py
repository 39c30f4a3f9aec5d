"""A file of lines that is only ever appended to, one system call per line, and rotated by size.

A line handed to ``os.write`` in one call survives ``kill -9`` of the process at any moment. What remains to be handled
are a tail that somebody else left torn (a newline first, or the next line is glued to it and lost too), short writes
near a limit (taken back, so that no half line stays), and size.
"""

import os
import re
from pathlib import Path
from typing import Final

from numguard.records.atomic_file import sync_directory
from numguard.records.lines import Rejection, decoded
from numguard.records.schema import MAX_EVENT_BYTES

ROTATE_AT_BYTES: Final = 64 * 2**20
_NAME = re.compile(r"rank(\d{5,9})-(\d{1,9})-(\d{1,10})(?:\.(\d{1,6}))?\.jsonl")
_fdatasync = getattr(os, "fdatasync", os.fsync)


def file_name(rank: int, attempt: int, pid: int, part: int = 0) -> str:
    """Return the name of one part of the events of a process."""
    return f"rank{rank:05d}-{attempt}-{pid}{f'.{part}' if part else ''}.jsonl"


def parsed_name(name: str) -> tuple[int, int, int, int] | None:
    """Return ``(rank, attempt, pid, part)`` of a name that :func:`file_name` made, else None."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2]), int(match[3]), int(match[4] or 0)) if match else None


class AppendFile:
    """The event file of one process in one directory. Every method raises OSError where the system does.

    Parameters
    ----------
    directory
        Made where it is missing.
    rank, attempt, pid
        What the file is named by.

    Attributes
    ----------
    num_lines
        Lines that this process has appended to the part that is open.
    """

    def __init__(self, directory: Path, *, rank: int, attempt: int, pid: int) -> None:
        self._directory, self._key = directory, (rank, attempt, pid)
        self._part = 0
        self.num_lines = 0
        self._torn = False
        directory.mkdir(parents=True, exist_ok=True)
        while (directory / file_name(*self._key, self._part + 1)).exists():
            self._part += 1
        self._descriptor, self._num_bytes = self._open()
        self.next_seq = self._seq_after_tail()

    def _open(self) -> tuple[int, int]:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(self._directory / file_name(*self._key, self._part), flags, 0o666)
        return descriptor, os.fstat(descriptor).st_size

    def _seq_after_tail(self) -> int:
        """Return the number that follows the last whole event in the file, after mending a torn tail."""
        if self._num_bytes == 0:
            return 0
        os.lseek(self._descriptor, max(0, self._num_bytes - 2 * MAX_EVENT_BYTES), os.SEEK_SET)
        tail = os.read(self._descriptor, 2 * MAX_EVENT_BYTES)
        if not tail.endswith(b"\n"):
            self._num_bytes += os.write(self._descriptor, b"\n")
        for line in reversed(tail.split(b"\n")):
            event = decoded(line)
            if not isinstance(event, Rejection):
                return event[0] + 1
        return 0

    def append(self, data: bytes) -> None:
        """Append whole lines with one ``os.write``; where the system takes only a part of them, none stays.

        Raises
        ------
        FileNotFoundError
            If somebody removed the file: these lines are lost with all others, and a new file is needed.
        """
        if self._num_bytes and self._num_bytes + len(data) > ROTATE_AT_BYTES:
            self._rotate()
        if self._torn:
            data = b"\n" + data
        written = os.write(self._descriptor, data)
        if written < len(data):
            self._complete(data, written)
        self._num_bytes += len(data)
        self._torn = False
        self._require_name()
        self.num_lines += data.count(b"\n")

    def _require_name(self) -> None:
        if os.fstat(self._descriptor).st_nlink == 0:
            raise FileNotFoundError(f"{file_name(*self._key, self._part)} was removed while it was written")

    def _complete(self, data: bytes, written: int) -> None:
        """Write what a short write left, or take all of it back."""
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError:
            self._torn = True
            os.ftruncate(self._descriptor, self._num_bytes)
            self._torn = False
            raise

    def _rotate(self) -> None:
        self.sync()
        old = self._descriptor
        self._part += 1
        try:
            self._descriptor, self._num_bytes = self._open()
        except OSError:
            self._part -= 1
            raise
        self.num_lines = 0
        os.close(old)
        sync_directory(self._directory)

    def sync(self) -> None:
        """Flush what was appended to the disk.

        Raises
        ------
        FileNotFoundError
            If somebody removed the file: what was appended since is lost, and a new file is needed.
        """
        _fdatasync(self._descriptor)
        self._require_name()

    def close(self, *, sync: bool = True) -> None:
        """Close the file, flushed unless a fork made this a copy that belongs to the parent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            try:
                if sync:
                    _fdatasync(descriptor)
            finally:
                os.close(descriptor)
