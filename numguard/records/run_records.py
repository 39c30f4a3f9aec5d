"""Everything that the events of a run say, folded into bounded memory while they are read."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from numguard.finding import Finding
from numguard.records.coverage import Coverage, CoverageTable
from numguard.records.damage import Damage
from numguard.records.finding_record import finding_from
from numguard.records.loss_series import LossCurve, LossSeries
from numguard.records.schema import as_float, row_problem
from numguard.records.trend_band import TrendBand, band_from

_MOST_FINDINGS: Final = 10_000
_MOST_HAPPENINGS: Final = 2_000
_MOST_STARTS: Final = 200_000
_MOST_CURVES: Final = 64
_LAST_OF_RANK: Final = frozenset({"cost", "lost_updates", "selftest"})
_HAPPENINGS: Final = frozenset({"burst", "pause", "resume", "origin", "stop", "dropped"})


class Event(NamedTuple):
    """One event and where it comes from."""

    rank: int
    attempt: int
    pid: int
    seq: int
    event: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecords:
    """What is known of a run.

    Parameters
    ----------
    path
        Where it was read from; empty for a run in memory.
    world_size
        Number of ranks that the run should have, None where nobody said.
    ranks
        Ranks of which there is at least one event.
    starts
        The ``start`` events of every rank and attempt.
    findings
        Each as its last event describes it, by attempt, step and order of writing.
    curves
        Losses by rank and attempt.
    coverage
        Of the last attempt of every rank.
    costs, lost_updates, selftests
        The last event of each rank.
    trends
        The band that the loss was predicted to stay in, as the last attempt had it.
    happenings
        Bursts, pauses, origins of non-finite numbers, stops and drops, by attempt, step and order of writing.
    num_left_out
        Findings and happenings beyond the number that is kept.
    damage
        What of the input could not be used.
    notes
        Contradictions that are no damage, in words.
    """

    path: str = ""
    world_size: int | None = None
    ranks: tuple[int, ...] = ()
    starts: tuple[Event, ...] = ()
    findings: tuple[Finding, ...] = ()
    curves: tuple[LossCurve, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)
    costs: tuple[Event, ...] = ()
    lost_updates: tuple[Event, ...] = ()
    selftests: tuple[Event, ...] = ()
    trends: tuple[TrendBand, ...] = ()
    happenings: tuple[Event, ...] = ()
    num_left_out: int = 0
    damage: Damage = field(default_factory=Damage)
    notes: tuple[str, ...] = ()

    @property
    def num_missing_ranks(self) -> int:
        """Ranks that should be there and left no event."""
        return 0 if self.world_size is None else self.world_size - sum(rank < self.world_size for rank in self.ranks)

    @property
    def missing_ranks(self) -> tuple[int, ...]:
        """The first 1,024 of those ranks."""
        missing: list[int] = []
        present = set(self.ranks)
        for rank in range(self.world_size or 0):
            if rank not in present:
                missing.append(rank)
                if len(missing) >= 1_024:
                    break
        return tuple(missing)


def _order(event: Event) -> tuple[int, int, int, int]:
    return event.attempt, event.fields.get("step", 0), event.rank, event.seq


def _add_rows(series: LossSeries, rows: Sequence[Any]) -> str | None:
    """Record the rows of a ``steps`` event; return what was wrong with the first bad one."""
    problem = None
    for row in rows:
        reason = row_problem(row)
        if reason is None:
            try:
                series.add(row[0], as_float(row[1]), as_float(row[2]), bool(row[4]))
            except OverflowError:
                reason = "a number in a row of steps is too large for a float"
        problem = problem or reason
    return problem


@dataclass(slots=True)
class RunFold:
    """The records of a run while its events come in: rank by rank, each rank's in the order of writing."""

    starts: dict[tuple[int, int, int], Event] = field(default_factory=dict)
    happenings: list[Event] = field(default_factory=list)
    num_left_out: int = 0
    ranks: dict[int, None] = field(default_factory=dict)
    _findings: dict[tuple[int, int, str], tuple[tuple[int, int, int], Finding]] = field(default_factory=dict)
    _series: dict[tuple[int, int, int], LossSeries] = field(default_factory=dict)
    _last: dict[tuple[int, str], Event] = field(default_factory=dict)
    _parts: dict[int, list[Event]] = field(default_factory=dict)
    _trends: dict[str, TrendBand] = field(default_factory=dict)
    _coverage: CoverageTable = field(default_factory=CoverageTable)

    def add(self, event: Event) -> str | None:
        """Take one event; return why it was rejected, or None."""
        kind = event.event
        self.ranks[event.rank] = None
        if kind in ("step", "steps", "late_loss"):
            return self._add_steps(event)
        if kind == "finding":
            return self._add_finding(event)
        if kind == "trend":
            return self._add_trend(event)
        if kind == "coverage":
            self._add_coverage(event)
        elif kind == "lost_updates":
            self._last[event.rank, kind] = self._joined(event)
        elif kind in _LAST_OF_RANK:
            self._last[event.rank, kind] = event
        elif kind == "start" and len(self.starts) < _MOST_STARTS:
            self.starts.setdefault((event.rank, event.attempt, event.pid), event)
        elif kind in _HAPPENINGS and len(self.happenings) < _MOST_HAPPENINGS:
            self.happenings.append(event)
        else:
            self.num_left_out += 1
        return None

    def _add_steps(self, event: Event) -> str | None:
        key = event.rank, event.attempt, event.pid
        series = self._series.get(key)
        if series is None:
            if len(self._series) >= _MOST_CURVES:
                self.num_left_out += 1
                return None
            series = self._series[key] = LossSeries(rank=event.rank, attempt=event.attempt)
        fields = event.fields
        if event.event == "step":
            series.add(fields["step"], fields["loss"], fields["step_seconds"], fields["armed"])
        elif event.event == "late_loss":
            series.add_loss(fields["step"], fields["loss"])
        else:
            return _add_rows(series, fields["rows"])
        return None

    def _add_trend(self, event: Event) -> str | None:
        band = band_from(event.fields)
        if isinstance(band, str):
            return band
        self._trends = {band.name: band}
        return None

    def _add_finding(self, event: Event) -> str | None:
        finding = finding_from(event.fields)
        if isinstance(finding, str):
            return finding
        key = event.rank, event.attempt, finding.id
        if key not in self._findings and len(self._findings) >= _MOST_FINDINGS:
            self.num_left_out += 1
        else:
            first = self._findings.get(key)
            order = first[0] if first else (event.attempt, finding.first_caught_step or 0, event.seq)
            self._findings[key] = order, finding
        return None

    def _add_coverage(self, event: Event) -> None:
        """Keep the parts of the last coverage event of this rank."""
        parts = self._parts.setdefault(event.rank, [])
        if parts and not (event.fields.get("part", 0) and parts[-1].attempt == event.attempt):
            parts.clear()
        parts.append(event)

    def _joined(self, event: Event) -> Event:
        before = self._last.get((event.rank, event.event))
        if not event.fields.get("part", 0) or before is None:
            return event
        shares = {**before.fields["shares"], **event.fields["shares"]}
        return event._replace(fields={**event.fields, "shares": dict(list(shares.items())[:20_000])})

    def end_rank(self, rank: int) -> list[str]:
        """Join the coverage of a rank that is read to its end to that of the others; return what was wrong in it."""
        parts = self._parts.pop(rank, None)
        return [] if parts is None else self._coverage.add_rank([part.fields for part in parts])

    def _all_coverage(self) -> Coverage:
        table = copy.deepcopy(self._coverage)
        for parts in self._parts.values():
            table.add_rank([part.fields for part in parts])
        return table.result()

    def records(self, *, path: str, world_size: int | None, damage: Damage, notes: tuple[str, ...]) -> RunRecords:
        """Return what the events say."""
        starts = sorted(self.starts.values(), key=_order)
        sizes = [event.fields["world_size"] for event in starts if event.attempt == starts[-1].attempt]
        last = [event for _, event in sorted(self._last.items())]
        return RunRecords(
            path=path,
            world_size=max(sizes) if sizes else world_size,
            ranks=tuple(sorted(self.ranks)),
            starts=tuple(starts),
            findings=tuple(finding for _, finding in sorted(self._findings.values(), key=lambda kept: kept[0])),
            curves=tuple(series.curve() for _, series in sorted(self._series.items(), key=lambda item: item[0])),
            coverage=self._all_coverage(),
            costs=tuple(event for event in last if event.event == "cost"),
            lost_updates=tuple(event for event in last if event.event == "lost_updates"),
            selftests=tuple(event for event in last if event.event == "selftest"),
            trends=tuple(self._trends.values()),
            happenings=tuple(sorted(self.happenings, key=_order)),
            num_left_out=self.num_left_out,
            damage=damage,
            notes=notes,
        )
