"""The loss of a run, row by row: what is wrong with it, against what, and how often that would be said in error."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from numguard.detectors.alarm_budget import AlarmBudget
from numguard.detectors.off_trend import Trend
from numguard.detectors.plain_state import plain, restore
from numguard.detectors.reference_run import ReferenceRun
from numguard.detectors.track import Ladder, Track, new_track
from numguard.errors import UsageError
from numguard.finding import Finding

#: Channels that a row can carry beside step and loss.
CHANNELS: Final = ("grad_norm", "lr", "tokens", "loss_scale", "skipped", "batch_id", "run")
SCHEMA: Final = 1
#: Rows that :meth:`LossMonitor.scan` takes from columns at a time.
BLOCK: Final = 8192
_NUMBERS: Final = ("grad_norm", "lr", "tokens", "loss_scale")

Columns = Mapping[str, Sequence[Any]]


class LossMonitor:
    """Watches the loss of one run, or of several in one log.

    Exact rules (a loss or gradient norm that is not finite, a loss scale that collapses, steps that are skipped) act
    from the first row on. Statistics act once they know what is normal: spikes after 16 rows, noise after some 500,
    the level after 512 against a reference and after 1,536 without.

    Parameters
    ----------
    reference
        An earlier run with the same recipe on the same batches: 93 to 97 % of the step-to-step noise is the batches',
        and is subtracted. Only with it is a departure called drift or plateau.
    proxy
        A smaller or different run on the same batches; only its batch noise is subtracted.
    trend
        A registered prediction: called with a step, returns value, low and high end of the band, or None.
    budget
        Allowed false alarms, one in 20,000 rows by default, and how they are shared out.
    hard_batches
        Names of batches that are known to be hard.

    Notes
    -----
    An alarm is a statistic, never a proof: every finding names its statistic, its threshold, the rung of the ladder
    that was used and the rate of false alarms that was measured at that threshold on runs that had no part in fixing
    it, with its interval.

    Rows that go back in their steps are a resumed run; a row at or before the first step is another run in the same
    log. Rows with the step of the row before (the same step logged twice) pass the exact rules only.

    Examples
    --------
    >>> monitor = LossMonitor()
    >>> [finding.kind for finding in monitor.update(0, float("nan"))]
    ['nonfinite']
    """

    def __init__(
        self,
        *,
        reference: ReferenceRun | None = None,
        proxy: ReferenceRun | None = None,
        trend: Trend | None = None,
        budget: AlarmBudget | None = None,
        hard_batches: Iterable[str] = (),
    ) -> None:
        self._ladder = Ladder(reference=reference, proxy=proxy, trend=trend)
        self._budget = AlarmBudget() if budget is None else budget
        self._hard_batches = tuple(hard_batches)
        self._tracks: dict[str, Track] = {}

    def update(self, step: int, loss: float | None, **channels: Any) -> list[Finding]:
        """Take one row and return what is wrong with it.

        Parameters
        ----------
        step
            Optimizer step.
        loss
            Its loss, best averaged over all ranks; None where the row has none.
        **channels
            ``grad_norm``, ``lr``, ``tokens``, ``loss_scale``, ``skipped`` (whether the optimizer step was),
            ``batch_id`` (:func:`numguard.detectors.batch_order_hash`), ``run`` (name, where a log holds several).
            None stands for a channel that this row does not have.

        Raises
        ------
        UsageError
            For an unknown channel or a value that is no number.
        """
        row = _row(channels) if channels else {}
        try:
            number = int(step)
            value = None if loss is None else float(loss)
        except (TypeError, ValueError, OverflowError):
            raise UsageError(f"step={step!r}, loss={loss!r} are not a whole number and a number") from None
        return self._update(number, value, row)

    def scan(self, rows: Columns | Iterable[Mapping[str, Any] | Sequence[Any]]) -> list[Finding]:
        """Take many rows and return all findings, the same as :meth:`update` row by row.

        Parameters
        ----------
        rows
            A mapping from ``"step"``, ``"loss"`` and channels to columns of equal length (arrays or lists), or an
            iterable of rows, each a mapping or a pair of step and loss. Other columns are passed over, and NaN in a
            channel other than ``loss`` and ``grad_norm`` stands for a value that was not logged.

        Raises
        ------
        UsageError
            Where ``step`` or ``loss`` is missing, columns differ in length, or something is no row.
        """
        found: list[Finding] = []
        for given in _rows_of_columns(rows) if isinstance(rows, Mapping) else _each(rows):
            row = given if isinstance(given, Mapping) else _pair(given)
            channels = {name: row[name] for name in CHANNELS if row.get(name) is not None}
            for name in ("lr", "tokens", "loss_scale", "skipped"):
                if name in channels and channels[name] != channels[name]:
                    del channels[name]
            if "step" not in row:
                raise UsageError(f"a row without 'step': it has {sorted(row)}")
            found += self.update(row["step"], row.get("loss"), **channels)
        return found

    def _update(self, step: int, loss: float | None, row: dict[str, Any]) -> list[Finding]:
        run = row.get("run", "")
        known = self._tracks.get(run)
        if known is None or (
            known.first_step is not None
            and known.last_step is not None
            and step <= known.first_step
            and step < known.last_step
        ):
            known = self._tracks[run] = new_track(self._ladder, self._budget, self._hard_batches)
        return known.update(step, loss, self._ladder, row)

    def state_dict(self) -> dict[str, Any]:
        """Return what is known so far, as plain JSON values.

        Reference, proxy, trend and budget are not in it: they are settings, to be handed in again.
        """
        return {"schema": SCHEMA, "tracks": {run: plain(known) for run, known in self._tracks.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Parameters
        ----------
        state
            What :meth:`state_dict` returned.

        Raises
        ------
        UsageError
            For the state of another version, or of a monitor with other references.
        """
        if not isinstance(state, Mapping) or state.get("schema") != SCHEMA:
            raise UsageError(f"no state of a LossMonitor of schema {SCHEMA}; hand in what state_dict() returned")
        tracks = {}
        for run, known in state["tracks"].items():
            fresh = new_track(self._ladder, self._budget, self._hard_batches)
            restore(fresh, known)
            tracks[run] = fresh
        self._tracks = tracks


def _row(channels: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in channels.items():
        if name not in CHANNELS:
            raise UsageError(f"unknown channel {name!r}; known are {', '.join(CHANNELS)}")
        if value is None:
            continue
        if name in _NUMBERS:
            try:
                value = float(value)
            except (TypeError, ValueError):
                raise UsageError(f"{name}={value!r} is no number; leave it out where it was not logged") from None
        elif name in ("batch_id", "run"):
            value = str(value)
        row[name] = value
    return row


def _each(rows: Any) -> Iterator[Any]:
    try:
        return iter(rows)
    except TypeError:
        raise UsageError(f"rows={rows!r} holds no rows; give columns, or rows of step and loss") from None


def _pair(row: Any) -> dict[str, Any]:
    if isinstance(row, str) or not hasattr(row, "__len__") or len(row) != 2:
        raise UsageError(f"the row {row!r} is neither a mapping nor a pair of step and loss")
    return {"step": row[0], "loss": row[1]}


def _rows_of_columns(columns: Columns) -> Iterator[dict[str, Any]]:
    wanted = [name for name in ("step", "loss", *CHANNELS) if name in columns]
    missing = {"step", "loss"} - set(wanted)
    if missing:
        raise UsageError(f"no column {sorted(missing)}; there are {sorted(columns)}")
    lengths = {name: len(columns[name]) for name in wanted}
    if len(set(lengths.values())) > 1:
        raise UsageError(f"columns differ in length: {lengths}")
    for start in range(0, lengths["step"], BLOCK):
        parts = [columns[name][start : start + BLOCK] for name in wanted]
        lists = [part.tolist() if hasattr(part, "tolist") else part for part in parts]
        for values in zip(*lists, strict=True):
            yield dict(zip(wanted, values, strict=True))
