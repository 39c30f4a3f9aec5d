"""The copy of a local event file in the run's directory, written in batches because that directory is slow."""

import time
from pathlib import Path
from typing import Final

from numguard.records.append_file import AppendFile

_FLUSH_EVERY_SECONDS: Final = 60.0
_FLUSH_AT_BYTES: Final = 2**20
_MOST_BYTES: Final = 16 * 2**20


class Mirror:
    """Collect lines and append them to the shared file once a minute. Methods raise OSError where the system does.

    Parameters
    ----------
    directory, rank, attempt, pid
        As for :class:`numguard.records.append_file.AppendFile`.
    """

    def __init__(self, directory: Path, *, rank: int, attempt: int, pid: int) -> None:
        self._directory, self._rank, self._attempt, self._pid = directory, rank, attempt, pid
        self._file: AppendFile | None = None
        self._lines = bytearray()
        self._flush_after = time.monotonic()

    def add(self, line: bytes) -> None:
        """Collect one line. While the shared directory cannot be written, the oldest batch is given up past 16 MiB."""
        if len(self._lines) > _MOST_BYTES:
            self._lines.clear()
        self._lines += line

    def flush_if_due(self, *, at_once: bool = False) -> None:
        """Append the collected lines if a minute has passed, a megabyte has come together, or the caller says so."""
        if at_once or len(self._lines) >= _FLUSH_AT_BYTES or time.monotonic() >= self._flush_after:
            self.flush()

    def flush(self) -> None:
        """Append the collected lines now."""
        self._flush_after = time.monotonic() + _FLUSH_EVERY_SECONDS
        if not self._lines:
            return
        if self._file is None:
            self._file = AppendFile(self._directory, rank=self._rank, attempt=self._attempt, pid=self._pid)
        try:
            self._file.append(bytes(self._lines))
        except FileNotFoundError:  # somebody removed it; these lines go into another
            self._file.close(sync=False)
            self._file = None
            raise
        self._lines.clear()

    def close(self) -> None:
        """Append what is left, flush it to the disk and close."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def abandon(self) -> None:
        """Forget the lines and the file: they belong to the process that forked this one."""
        self._lines.clear()
        if self._file is not None:
            self._file.close(sync=False)
            self._file = None
