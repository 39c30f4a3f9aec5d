"""Read the events of a run, however damaged or hostile: what can be used is used, the rest is counted and named."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from numguard.errors import InputError
from numguard.records.damage import DamageCounter
from numguard.records.lines import Rejection, decoded
from numguard.records.manifest import read_manifest
from numguard.records.run_files import EventFile, event_files, lines_of
from numguard.records.run_records import Event, RunFold, RunRecords
from numguard.records.sequence import Sequence

_CLOCK_TOLERANCE_SECONDS: Final = 86_400.0


def read_run(path: str | os.PathLike[str]) -> RunRecords:
    """Return what the events of a run say, all ranks and attempts together.

    Memory is bounded however long the run was, and a run that is still being written is read as it stands.

    Parameters
    ----------
    path
        The run's directory, its ``events`` directory, or one event file.

    Raises
    ------
    InputError
        If there is nothing of a run at ``path``, or a file in it is compressed, or not one line in it is an event.
    """
    root = Path(path)
    files, others = event_files(root)
    damage, fold = DamageCounter(), RunFold()
    for name in others:
        damage.add("other", name, "no name of an event file, left aside")
    notes = _read_into(fold, files, damage)
    if not fold.ranks:
        first = f" ({damage.examples[0]})" if damage.examples else ""
        raise InputError(root, "", f"not one event in {len(files)} {'file' if len(files) == 1 else 'files'}{first}")
    return fold.records(
        path=str(root),
        world_size=_world_size(root, damage),
        damage=damage.result(),
        notes=(*notes, *_clock_notes(fold)),
    )


def iterate_events(path: str | os.PathLike[str], damage: DamageCounter | None = None) -> Iterator[Event]:
    """Yield every event that can be used, rank by rank, attempt by attempt, in the order of writing.

    Parameters
    ----------
    path
        As for :func:`read_run`.
    damage
        Counts what cannot be used, where given.

    Raises
    ------
    InputError
        As :func:`read_run`.
    """
    files, _ = event_files(Path(path))
    damage = DamageCounter() if damage is None else damage
    for process in _by_process(files):
        for _, event in _events_of_process(process, damage):
            yield event


def _by_process(files: list[EventFile]) -> list[list[EventFile]]:
    processes: dict[tuple[int, int, int], list[EventFile]] = {}
    for file in files:
        processes.setdefault((file.rank, file.attempt, file.pid), []).append(file)
    return list(processes.values())


def _events_of_process(parts: list[EventFile], damage: DamageCounter) -> Iterator[tuple[str, Event]]:
    """Yield ``(file:line, event)`` of the parts of one process, and count its damage."""
    sequence = Sequence()
    for part in parts:
        rank, attempt, pid = part.rank, part.attempt, part.pid
        for number, line in lines_of(part.path):
            event = decoded(line)
            if isinstance(event, Rejection):
                damage.add(event.category, f"{part.path.name}:{number}", event.reason)
                event = _salvaged(line)
                if isinstance(event, Rejection):
                    continue
            seq, kind, fields = event
            if sequence.is_new(seq):
                yield f"{part.path.name}:{number}", Event(rank, attempt, pid, seq, kind, fields)
            else:
                damage.add("duplicate", f"{part.path.name}:{number}", f"event {seq} again")
    if sequence.num_missing:
        name, count = parts[0].path.name, sequence.num_missing
        damage.add("missing", name, f"{count} {'event is' if count == 1 else 'events are'} missing", count=count)


def _salvaged(line: bytes) -> tuple[int, str, dict[str, Any]] | Rejection:
    """Return the event at the end of a damaged line: one that was glued to a torn one, or stands between NULs."""
    start = line.rfind(b'{"schema":')
    return decoded(line[start:].rstrip(b"\0") if start >= 0 else b"")


def _read_into(fold: RunFold, files: list[EventFile], damage: DamageCounter) -> list[str]:
    notes: list[str] = []
    started: dict[tuple[int, int], str] = {}
    previous: int | None = None
    for process in _by_process(files):
        rank, name = process[0].rank, process[0].path.name
        if previous is not None and rank != previous:
            _end_rank(fold, previous, damage)
        previous = rank
        for place, event in _events_of_process(process, damage):
            reason = fold.add(event)
            if reason is not None:
                damage.add("rejected", place, reason)
            elif event.event == "start":
                first = started.setdefault((rank, event.attempt), name)
                if first != name:
                    text = f"{first} and {name} both say that they are rank {rank} of attempt {event.attempt}"
                    damage.add("other", place, text)
                    notes.append(text)
    if previous is not None:
        _end_rank(fold, previous, damage)
    return notes


def _end_rank(fold: RunFold, rank: int, damage: DamageCounter) -> None:
    for problem in fold.end_rank(rank):
        damage.add("rejected", f"rank {rank}, coverage", problem)


def _world_size(root: Path, damage: DamageCounter) -> int | None:
    if not root.is_dir():
        return None
    try:
        manifest = read_manifest(root if (root / "events").is_dir() else root.parent)
    except InputError as failure:
        damage.add("other", "manifest.json", failure.reason)
        return None
    return manifest.get("world_size")


def _clock_notes(fold: RunFold) -> list[str]:
    """Return a note for every attempt whose ranks disagree on the time by more than a day, or have none."""
    times: dict[int, list[float]] = {}
    for event in fold.starts.values():
        times.setdefault(event.attempt, []).append(event.fields["time"])
    notes = []
    for attempt, of_ranks in sorted(times.items()):
        if not all(0.0 <= value < 1e11 for value in of_ranks):
            notes.append(f"attempt {attempt}: a start has no valid time; events are ordered by step")
        elif max(of_ranks) - min(of_ranks) > _CLOCK_TOLERANCE_SECONDS:
            notes.append(
                f"attempt {attempt}: the clocks of its ranks differ by more than a day; events are ordered by step"
            )
    return notes
