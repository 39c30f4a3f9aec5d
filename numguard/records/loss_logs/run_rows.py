"""Rows of a run that numguard guarded: the losses in its own event log."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from numguard.records.damage import DamageCounter
from numguard.records.loss_logs.row_table import PlacedRow
from numguard.records.reader import iterate_events
from numguard.records.schema import row_problem

_WAIT: Final = 4_096  # rows that are held back for losses that arrived from the device after their step


def rows_of_run(path: Path, damage: DamageCounter) -> Iterator[PlacedRow]:
    """Yield step, loss and what was given beside it, attempt after attempt, of the first rank that wrote steps.

    Raises
    ------
    InputError
        If there is nothing of a run at ``path``.
    """
    waiting: dict[int, dict[str, Any]] = {}
    rank = attempt = number = None
    for event in iterate_events(path, damage):
        if event.event not in ("step", "steps", "late_loss") or (rank is not None and event.rank != rank):
            continue
        if event.attempt != attempt:
            yield from enumerate(waiting.values())
            waiting.clear()
        rank, attempt, number = event.rank, event.attempt, event.seq
        fields = event.fields
        if event.event == "late_loss":
            if fields["step"] in waiting:
                waiting[fields["step"]]["loss"] = fields["loss"]
            continue
        rows = fields["rows"] if event.event == "steps" else [[fields["step"], fields["loss"], None, None, True]]
        extras = fields.get("extras", fields)
        for row in rows:
            problem = row_problem(row)
            if problem is not None:
                damage.add("rejected", f"{path.name}:event {number}", problem)
                continue
            beside = extras.get(str(row[0]), {}) if event.event == "steps" else extras
            waiting[row[0]] = {**_named(beside), "step": row[0], "loss": row[1]}
        while len(waiting) > _WAIT:
            yield number, waiting.pop(next(iter(waiting)))
    yield from enumerate(waiting.values())


def _named(extras: Any) -> dict[str, Any]:
    names = ("lr", "tokens", "grad_norm", "loss_scale", "batch_id")
    return {name: extras[name] for name in names if name in extras} if isinstance(extras, dict) else {}
