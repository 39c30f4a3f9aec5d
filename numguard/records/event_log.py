"""The event log of one process: every acknowledged event survives the process, and no failure reaches training."""

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from numguard.records.append_file import AppendFile, parsed_name
from numguard.records.finding_record import finding_fields, write_finding
from numguard.records.lines import as_plain, encoded
from numguard.records.manifest import write_manifest
from numguard.records.memory_log import MemoryLog
from numguard.records.mirror import Mirror
from numguard.records.run_records import RunRecords
from numguard.records.schema import RESERVED, problem_of

_SYNC_EVERY_SECONDS: Final = 1.0
_SYNC_SHARE: Final = 1e-3  # flushing takes no more than this share of the time, however slow the disk
_RETRY_AFTER_SECONDS: Final = 30.0
_logger = logging.getLogger(__name__)


def next_attempt(run_dir: str | os.PathLike[str], rank: int) -> int:
    """Return how many times this rank has started in ``run_dir`` before: the number of the attempt that begins now."""
    attempts = [-1]
    with contextlib.suppress(OSError, ValueError), os.scandir(Path(run_dir) / "events") as entries:
        for entry in entries:
            key = parsed_name(entry.name)
            if key is not None and key[0] == rank:
                attempts.append(key[1])
    return max(attempts) + 1


class EventLog:
    """Append the events of one process to ``RUN/events/rank<rank>-<attempt>-<pid>.jsonl``.

    An event that :meth:`write` acknowledged is in the kernel's hands: it survives the death of the process at any
    moment; a finding of severity ``error`` is on the disk. A directory that cannot be written, a full disk and a value
    that cannot be written cost events, which are counted, one logged warning, and nothing else. Where somebody removes
    the directory meanwhile, it is made again, with the start and every finding so far. A forked child goes on in a file
    of its own.

    Parameters
    ----------
    run_dir
        The run's directory; made where it is missing.
    rank
        This process's rank.
    attempt
        See :func:`next_attempt`.
    local_dir
        Directory on a local disk, for when ``run_dir`` is on a slow shared file system: events go there one by one,
        and into ``run_dir`` in batches, once a minute, with every error, and on close.

    Attributes
    ----------
    num_dropped
        Number of events that were lost.
    last_failure
        Why the last one was lost, or None.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        *,
        rank: int,
        attempt: int,
        local_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.num_dropped = 0
        self.last_failure: str | None = None
        self._run_dir, self._rank, self._attempt = Path(run_dir), rank, attempt
        self._local_dir = None if local_dir is None else Path(local_dir)
        self._lock = threading.RLock()
        self._file: AppendFile | None = None
        self._mirror: Mirror | None = None
        self._memory = MemoryLog(rank=rank, attempt=attempt)
        self._seq = 0
        self._start: Mapping[str, object] | None = None
        self._num_unreported = 0
        self._warned = self._closed = self._dirty = self._is_hollow = False
        self._sync_after = self._retry_after = 0.0
        try:
            self._open()
        except Exception as failure:
            self._fail(failure)
        _LIVE.add(self)

    def write(self, event: str, /, **fields: object) -> bool:
        """Append one event.

        Parameters
        ----------
        event
            One of :data:`numguard.records.schema.EVENTS`.
        **fields
            At least the fields that this kind requires; further ones are kept.

        Returns
        -------
        bool
            True if the event is acknowledged, False if it was dropped and counted.
        """
        with self._lock:
            self._memory.write(event, **fields)
            try:
                self._append(event, fields)
            except Exception as failure:
                self.num_dropped += 1
                self._num_unreported += 1
                self._fail(failure)
                return False
            try:
                self._follow_up(event, fields)
            except Exception as failure:  # the event itself is acknowledged already
                self._fail(failure)
            return True

    def records(self) -> RunRecords:
        """Return what this process wrote, from memory: an unwritable directory loses none of it."""
        return self._memory.records_with(str(self._run_dir), self.num_dropped, self.last_failure)

    def sync(self) -> None:
        """Flush every acknowledged event to the disk."""
        with self._lock:
            try:
                self._sync()
                if self._mirror is not None:
                    self._mirror.flush()
            except Exception as failure:
                self._fail(failure)

    def close(self) -> None:
        """Flush and close; later events are dropped. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            try:
                self._sync()
                if self._num_unreported:
                    self._ready()
                if self._mirror is not None:
                    self._mirror.close()
            except Exception as failure:
                self._fail(failure)
            self._closed = True
            self._close_file(sync=True)

    def _append(self, event: str, fields: Mapping[str, object]) -> None:
        if self._closed:
            raise ValueError("the log is closed")
        problem = problem_of(event, fields)
        if problem is not None:
            fields = as_plain(fields)
            problem = problem_of(event, fields)
        if problem is not None or not RESERVED.isdisjoint(fields):
            raise ValueError(problem or f"a field may not be named {', '.join(sorted(RESERVED))}")
        if event == "start":
            self._start = fields
        file = self._ready()
        try:
            self._take(file, event, fields)
        except FileNotFoundError as removed:
            self._lose(file, removed)
            self._take(self._ready(), event, fields)

    def _ready(self) -> AppendFile:
        """Return the open file, in which everything stands that has to stand before the next event."""
        file = self._file or self._open()
        if self._is_hollow:
            self._is_hollow = False
            self._refill(file)
        if self._num_unreported:
            self._report_drops(file)
        return file

    def _take(self, file: AppendFile, event: str, fields: Mapping[str, object]) -> None:
        for line in encoded(self._seq, event, fields):
            file.append(line)
            self._seq += 1
            self._dirty = True
            if self._mirror is not None:
                self._mirror.add(line)

    def _report_drops(self, file: AppendFile) -> None:
        self._take(file, "dropped", {"count": self._num_unreported, "reason": self.last_failure or ""})
        self._num_unreported = 0

    def _lose(self, removed: AppendFile, failure: FileNotFoundError) -> None:
        """Count what went with a file that somebody removed; the next one begins with what memory still has of it."""
        self._close_file(sync=False)
        self._retry_after = 0.0
        if self._mirror is None:  # else the shared directory has it, or gets it with the next batch
            self.num_dropped += removed.num_lines
            self._num_unreported += removed.num_lines
            self._is_hollow = True
        self._fail(failure)

    def _refill(self, file: AppendFile) -> None:
        events = [("finding", finding_fields(finding)) for finding in self._memory.records().findings]
        if self._start is not None:
            events.insert(0, ("start", dict(self._start)))
        for event, fields in events:
            self._take(file, event, fields)
            self._follow_up(event, fields)

    def _follow_up(self, event: str, fields: Mapping[str, object]) -> None:
        """Flush what is due, and keep a finding or the start of an attempt in a file of its own."""
        is_error = event == "finding" and fields["severity"] == "error"
        if is_error or (self._dirty and time.monotonic() >= self._sync_after):
            self._sync()
        if self._mirror is not None:
            self._mirror.flush_if_due(at_once=is_error)
        if event == "finding":
            write_finding(self._run_dir, fields, durable=is_error)
        elif event == "start" and self._rank == 0:
            write_manifest(self._run_dir, fields)

    def _sync(self) -> None:
        if self._file is None:
            return
        began = time.monotonic()
        try:
            self._file.sync()
        except FileNotFoundError as removed:
            self._lose(self._file, removed)
            return
        ended = time.monotonic()
        self._dirty = False
        self._sync_after = ended + max(_SYNC_EVERY_SECONDS, (ended - began) / _SYNC_SHARE)

    def _open(self) -> AppendFile:
        now = time.monotonic()
        if now < self._retry_after:
            raise OSError(self.last_failure or "the log could not be opened")
        self._retry_after = now + _RETRY_AFTER_SECONDS
        shared = self._run_dir / "events"
        pid = os.getpid()
        self._file = AppendFile(self._local_dir or shared, rank=self._rank, attempt=self._attempt, pid=pid)
        self._seq = max(self._seq, self._file.next_seq)
        self._sync_after = now + _SYNC_EVERY_SECONDS
        if self._local_dir is not None and self._mirror is None:
            self._mirror = Mirror(shared, rank=self._rank, attempt=self._attempt, pid=pid)
        return self._file

    def _close_file(self, *, sync: bool) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close(sync=sync)

    def _fail(self, failure: Exception) -> None:
        self.last_failure = f"{type(failure).__name__}: {failure}" if not isinstance(failure, OSError) else str(failure)
        if not self._warned:
            self._warned = True
            _logger.warning(
                "numguard cannot write its event log (%s); training goes on, lost events are counted", self.last_failure
            )

    def _leave_to_parent(self) -> None:
        """In a forked child: let go of the parent's file and lock, which another thread may have held."""
        self._lock = threading.RLock()
        self._close_file(sync=False)
        if self._mirror is not None:
            self._mirror.abandon()
        self._mirror, self._seq, self._num_unreported = None, 0, 0
        self._start, self._retry_after, self._dirty, self._is_hollow = None, 0.0, False, False


_LIVE: "weakref.WeakSet[EventLog]" = weakref.WeakSet()


def _after_fork() -> None:
    for log in list(_LIVE):
        log._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
