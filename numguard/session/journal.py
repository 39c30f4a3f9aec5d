"""What a session writes down, and how rarely: steps in batches, coverage now and then, findings at once."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from numguard.finding import Finding
from numguard.records import Log

_STEPS_AT_ONCE: Final = 64
_SECONDS_BETWEEN_STEPS: Final = 5.0
_SECONDS_BETWEEN_COVERAGE: Final = 60.0


class Journal:
    """Writes the events of one session.

    Parameters
    ----------
    log
        Where they go.
    writes_steps
        Whether this rank records steps: rank 0 does, the others write findings and coverage only.
    """

    def __init__(self, log: Log, *, writes_steps: bool) -> None:
        self.log = log
        self._writes_steps = writes_steps
        self._rows: list[list[Any]] = []
        self._extras: dict[str, dict[str, Any]] = {}
        self._steps_due = time.monotonic() + _SECONDS_BETWEEN_STEPS
        self._coverage_due = time.monotonic() + _SECONDS_BETWEEN_COVERAGE / 4

    def step(
        self,
        step: int,
        loss: float | None,
        step_seconds: float,
        own_seconds: float,
        armed: bool,
        extra: Mapping[str, Any],
    ) -> None:
        """Remember one step, and write the batch when it is full or old."""
        if not self._writes_steps:
            return
        if extra:
            self._extras[str(step)] = {name: value for name, value in extra.items() if value is not None}
        self._remember([_row(step, loss, step_seconds, own_seconds, armed=armed)])

    def resting(self, steps: Iterable[tuple[int, float, float, float]], own_seconds: float) -> None:
        """Remember steps of which none was armed: number, loss, length and own seconds each; and these so far."""
        if not self._writes_steps:
            return
        rows = []
        for step, loss, seconds, own in steps:
            own_seconds += own
            rows.append(_row(step, loss, seconds, own_seconds, armed=False))
        self._remember(rows)

    def _remember(self, rows: list[list[Any]]) -> None:
        self._rows += rows
        if len(self._rows) >= _STEPS_AT_ONCE or time.monotonic() >= self._steps_due:
            self.flush_steps()

    def set_loss(self, step: int, loss: float) -> None:
        """Fill in the loss of a recent step that arrived from the device later."""
        for row in reversed(self._rows):
            if row[0] == step:
                row[1] = loss
                return
        if self._writes_steps:
            self.write("late_loss", step=step, loss=loss)

    def flush_steps(self) -> None:
        """Write the steps that are remembered."""
        if self._rows:
            self.write("steps", step=self._rows[-1][0], rows=self._rows, extras=self._extras)
        self._rows, self._extras = [], {}
        self._steps_due = time.monotonic() + _SECONDS_BETWEEN_STEPS

    def finding(self, finding: Finding) -> bool:
        """Write a finding, new or with a new count."""
        return self.write("finding", **asdict(finding))

    def is_coverage_due(self) -> bool:
        """Return whether the last coverage record is old."""
        return time.monotonic() >= self._coverage_due

    def coverage(self, step: int, fields: Mapping[str, Any], cost: Mapping[str, Any]) -> None:
        """Write what was checked and what it cost."""
        self.write("coverage", step=step, **fields)
        self.write("cost", step=step, **cost)
        self._coverage_due = time.monotonic() + _SECONDS_BETWEEN_COVERAGE

    def write(self, event: str, **fields: Any) -> bool:
        """Write one event; never raises."""
        return self.log.write(event, **fields)


def _row(step: int, loss: float | None, seconds: float, own_seconds: float, *, armed: bool) -> list[Any]:
    """Return one step as the event of a batch of them holds it."""
    return [step, loss, round(seconds, 7), round(own_seconds, 7), int(armed)]
