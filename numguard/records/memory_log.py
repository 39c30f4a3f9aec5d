"""The log of a run that has no directory: the same events, folded into bounded memory."""

import dataclasses
import os
from collections.abc import Mapping

from numguard.records.damage import Damage
from numguard.records.lines import Rejection, as_plain, decoded, encoded
from numguard.records.log import Log
from numguard.records.run_records import Event, RunFold, RunRecords
from numguard.records.schema import problem_of


class MemoryLog:
    """Keep every finding, the last coverage and cost, and a thinned loss curve.

    Parameters
    ----------
    rank, attempt
        Of this process.

    Attributes
    ----------
    num_dropped, last_failure
        As of :class:`numguard.records.event_log.EventLog`.
    """

    def __init__(self, *, rank: int = 0, attempt: int = 0) -> None:
        self.num_dropped = 0
        self.last_failure: str | None = None
        self._rank, self._attempt, self._pid = rank, attempt, os.getpid()
        self._seq = 0
        self._fold = RunFold()

    def write(self, event: str, /, **fields: object) -> bool:
        """Take one event; False where it was dropped and counted."""
        try:
            self._take(event, fields)
        except Exception as failure:
            self.num_dropped += 1
            self.last_failure = f"{type(failure).__name__}: {failure}"
            return False
        return True

    def sync(self) -> None:
        """Do nothing: memory does not outlive the process."""

    def close(self) -> None:
        """Do nothing: what was taken stays readable."""

    def records(self) -> RunRecords:
        """Return what the events say so far."""
        return self._fold.records(path="", world_size=None, damage=Damage(), notes=())

    def records_with(self, path: str, num_dropped: int, reason: str | None) -> RunRecords:
        """Return the records of a log that keeps its events elsewhere too and lost some on the way there."""
        records = self._fold.records(path=path, world_size=None, damage=Damage(), notes=())
        if not num_dropped:
            return records
        fields = {"count": num_dropped, "reason": reason or ""}
        event = Event(self._rank, self._attempt, self._pid, self._seq, "dropped", fields)
        return dataclasses.replace(records, happenings=(*records.happenings, event))

    def _take(self, event: str, fields: Mapping[str, object]) -> None:
        problem = problem_of(event, fields)
        if problem is None and event in ("step", "steps", "late_loss"):  # nothing of these is kept but numbers
            self._add(event, fields)
            return
        # The way over bytes leaves plain values only, so that no tensor of the caller is kept alive.
        fields = as_plain(fields)
        problem = problem_of(event, fields)
        if problem is not None:
            raise ValueError(problem)
        for line in encoded(0, event, fields):
            part = decoded(line[:-1])
            if isinstance(part, Rejection):
                raise ValueError(part.reason)
            self._add(event, part[2])

    def _add(self, event: str, fields: Mapping[str, object]) -> None:
        reason = self._fold.add(Event(self._rank, self._attempt, self._pid, self._seq, event, fields))
        if reason is not None:
            raise ValueError(reason)
        self._seq += 1


def events_of(log: Log) -> RunRecords:
    """Return what a log says, in the form in which :func:`numguard.records.read_run` returns a directory."""
    return log.records()
