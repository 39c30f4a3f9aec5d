"""What every sink of events promises: it takes an event or counts it as dropped, and never raises."""

from typing import Protocol

from numguard.records.run_records import RunRecords


class Log(Protocol):
    """Where a session writes its events."""

    @property
    def num_dropped(self) -> int:
        """Number of events that were lost so far."""

    @property
    def last_failure(self) -> str | None:
        """Why the last one was lost."""

    def write(self, event: str, /, **fields: object) -> bool:
        """Take one event; False where it was dropped and counted."""

    def records(self) -> RunRecords:
        """Return what this process wrote, dropped events included."""

    def sync(self) -> None:
        """Bring what was taken to where it survives a power cut."""

    def close(self) -> None:
        """Take no more events."""
