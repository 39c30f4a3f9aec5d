"""What a loss log says, whatever wrote it: columns of steps, losses and what was logged beside them."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numguard.records.damage import Damage
from numguard.records.loss_series import LossCurve, LossSeries

_BLOCK = 8192


class NumberColumn:
    """Numbers of which some are missing, in 9 bytes each; a slice of it is a list with None for those.

    Examples
    --------
    >>> column = NumberColumn()
    >>> column.append(2.5), column.append(None)
    (None, None)
    >>> column[0:2]
    [2.5, None]
    """

    __slots__ = ("_missing", "_num_missing", "_values")

    def __init__(self) -> None:
        self._values, self._missing, self._num_missing = array("d"), bytearray(), 0

    def append(self, value: float | None) -> None:
        """Add the number of the next row."""
        self._values.append(0.0 if value is None else value)
        self._missing.append(value is None)
        self._num_missing += value is None

    @property
    def num_present(self) -> int:
        """Rows that have a number."""
        return len(self._values) - self._num_missing

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: slice) -> list[float | None]:
        values: list[float | None] = [*self._values[rows]]
        for row, missing in enumerate(self._missing[rows]):
            if missing:
                values[row] = None
        return values


@dataclass(frozen=True, kw_only=True, slots=True)
class LossLog:
    """A log that was read.

    Parameters
    ----------
    path
        As the user named it.
    format
        What it was taken for: ``"CSV"``, ``"JSON lines"``, ``"TensorBoard"`` and so on.
    columns
        ``step``, ``loss`` and the channels of :data:`numguard.detectors.CHANNELS` that the log has, each with one
        entry per row: what :meth:`numguard.detectors.LossMonitor.scan` takes.
    names
        What the file calls each of them.
    damage
        What of the file could not be used.
    notes
        What was assumed, in words.
    """

    path: str
    format: str
    columns: Mapping[str, Any]
    names: Mapping[str, str]
    damage: Damage = field(default_factory=Damage)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns["step"])

    @property
    def num_losses(self) -> int:
        """Rows that have a loss, finite or not."""
        column = self.columns["loss"]
        count: int = column.num_present
        return count

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the runs in the log; one empty name where it does not tell runs apart."""
        named = self.columns.get("run")
        return ("",) if named is None else tuple(dict.fromkeys(name or "" for name in named))

    def rows(self, run: str | None = None) -> tuple[list[int], list[float | None], list[str | None] | None]:
        """Return steps, losses and names of the batches of one run.

        Parameters
        ----------
        run
            Which one; None for all rows.
        """
        names = self.columns.get("run")
        kept = [row for row in range(len(self)) if run is None or names is None or (names[row] or "") == run]
        steps, losses, batches = self.columns["step"], self.columns["loss"][:], self.columns.get("batch_id")
        return (
            [steps[row] for row in kept],
            [losses[row] for row in kept],
            None if batches is None else [batches[row] for row in kept],
        )

    def curves(self) -> tuple[LossCurve, ...]:
        """Return the curve of each run, in bounded memory; the ``rank`` of a curve is the place of its run."""
        places = {name: place for place, name in enumerate(self.runs)}
        series = [LossSeries(rank=place, attempt=0) for place in places.values()]
        named: Sequence[str | None] | None = self.columns.get("run")
        for start in range(0, len(self), _BLOCK):
            stop = start + _BLOCK
            losses = self.columns["loss"][start:stop]
            for row, (step, loss) in enumerate(zip(self.columns["step"][start:stop], losses, strict=True), start):
                of_run = series[0 if named is None else places[named[row] or ""]]
                of_run.add(step, loss, None, False)
        return tuple(one.curve() for one in series)
