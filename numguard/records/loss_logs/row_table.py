"""From rows, each a mapping of names to cells, to the columns of a loss log."""

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from numguard.records.damage import DamageCounter
from numguard.records.loss_logs.cells import CellError, flag_of, number_of, step_of
from numguard.records.loss_logs.channels import LABELS, NUMBERS, chosen
from numguard.records.loss_logs.loss_log import LossLog, NumberColumn

#: A row, with what the format calls its place: a line, a record.
PlacedRow = tuple[int, Mapping[str, Any]]
_MOST_NAMES: Final = 10_000
_LONGEST_LABEL: Final = 200


@dataclass(slots=True)
class RowTable:
    """A log while it is being read.

    Parameters
    ----------
    file
        Name of the file, for messages.
    unit
        What a place is: ``"line"``, ``"record"``.
    text
        Whether every cell is text.
    asked
        Columns that the user named, by channel.
    damage
        What cannot be used is counted here.
    """

    file: str
    unit: str
    text: bool
    asked: Mapping[str, str]
    damage: DamageCounter
    seen: dict[str, None] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    numbered: bool = False
    num_rows: int = 0
    _shapes: set[tuple[str, ...]] = field(default_factory=set)
    _steps: "array[int]" = field(default_factory=lambda: array("q"))
    _numbers: dict[str, NumberColumn] = field(default_factory=dict)
    _labels: dict[str, list[Any]] = field(default_factory=dict)

    def take(self, rows: Iterable[PlacedRow]) -> None:
        """Read rows to their end."""
        for place, row in rows:
            shape = tuple(row)
            if shape not in self._shapes:
                self._look_at(shape)
            self._take(place, row)

    def _look_at(self, shape: tuple[str, ...]) -> None:
        """Find out which columns of rows like this one are which."""
        if len(self._shapes) < _MOST_NAMES:
            self._shapes.add(shape)
        for name in shape:
            if len(self.seen) < _MOST_NAMES:
                self.seen[name] = None
        for channel, name in chosen(shape, self.asked).items():
            self.names.setdefault(channel, name)

    def _take(self, place: int, row: Mapping[str, Any]) -> None:
        names = self.names
        if "loss" not in names:
            return
        cells = {channel: row.get(name) for channel, name in names.items() if channel != "step"}
        values = dict(self._values(place, cells))
        loss, norm = values.get("loss"), values.get("grad_norm")
        if "loss" not in values or (loss is None and norm is None):
            return  # a row of an evaluation, of the machine's load, of the configuration
        step = self._step(place, row)
        if step is not None:
            self._add(step, values)

    def _step(self, place: int, row: Mapping[str, Any]) -> int | None:
        if "step" not in self.names or self.numbered:
            self.numbered = True
            return self.num_rows
        try:
            step = step_of(row.get(self.names["step"]), text=self.text)
            if step is None:
                raise CellError("is empty")
        except CellError as reason:
            self._reject(place, f"{self.names['step']} {reason}")
            return None
        return step

    def _values(self, place: int, cells: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield what can be used of a row; without a usable loss the row is none."""
        for channel, cell in cells.items():
            try:
                if channel in NUMBERS:
                    value: Any = number_of(cell)
                    if value is not None and channel not in ("loss", "grad_norm") and not math.isfinite(value):
                        value = None
                elif channel in LABELS:
                    value = None if cell in (None, "") else str(cell)[:_LONGEST_LABEL]
                else:
                    value = flag_of(cell)
            except CellError as reason:
                self._reject(place, f"{self.names[channel]} {reason}")
                if channel == "loss":
                    return
                value = None
            yield channel, value

    def _reject(self, place: int, reason: str) -> None:
        self.damage.add("rejected", f"{self.file}:{self.unit} {place}", reason)

    def _add(self, step: int, values: Mapping[str, Any]) -> None:
        self._steps.append(step)
        for channel, value in values.items():
            if channel in NUMBERS:
                self._column(channel).append(value)
            else:
                self._label(channel).append(value)
        columns: list[tuple[str, Any]] = [*self._numbers.items(), *self._labels.items()]
        for channel, column in columns:
            if channel not in values:
                column.append(None)
        self.num_rows += 1

    def _column(self, channel: str) -> NumberColumn:
        column = self._numbers.get(channel)
        if column is None:
            column = self._numbers[channel] = NumberColumn()
            for _ in range(self.num_rows):
                column.append(None)
        return column

    def _label(self, channel: str) -> list[Any]:
        column = self._labels.get(channel)
        if column is None:
            column = self._labels[channel] = [None] * self.num_rows
        return column

    def log(self, path: str, kind: str) -> LossLog:
        """Return what was read."""
        used = {channel: name for channel, name in self.names.items() if channel in (*self._numbers, *self._labels)}
        if not self.numbered:
            used["step"] = self.names.get("step", "step")
        notes = ("no column of steps: the rows are numbered from 0",) if self.numbered else ()
        return LossLog(
            path=path,
            format=kind,
            columns={"step": self._steps, **self._numbers, **self._labels},
            names=used,
            damage=self.damage.result(),
            notes=notes,
        )
