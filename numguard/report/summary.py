"""The whole run in one record: the verdict first, then what it rests on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from numguard.finding import Finding
from numguard.records.coverage import Coverage
from numguard.records.damage import Damage
from numguard.records.loss_series import MOST_POINTS, LossCurve, thinned
from numguard.records.run_records import Event, RunRecords
from numguard.records.trend_band import TrendBand
from numguard.report.causes import Cause, causes_of
from numguard.report.quantities import counted, listed, number

Verdict = Literal["stop", "care", "go", "unknown"]

#: The word that stands before the headline.
VERDICT_WORDS: dict[Verdict, str] = {
    "stop": "STOP",
    "care": "GO ON, WITH CARE",
    "go": "GO ON",
    "unknown": "CANNOT TELL",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RankCost:
    """What numguard took of one rank's time: ``own_seconds`` of ``elapsed_seconds``; None where no budget was set."""

    rank: int
    own_seconds: float
    elapsed_seconds: float
    num_armed_steps: int
    num_checks: int
    budget: float | None

    @property
    def share(self) -> float:
        """Share of the elapsed time."""
        return self.own_seconds / self.elapsed_seconds if self.elapsed_seconds > 0 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Happening:
    """Something that happened at a step and is no finding."""

    step: int
    rank: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """What a report shows.

    Parameters
    ----------
    path
        Name of the directory or file that the records came from, without the directories above it, which are nobody's
        business; empty for a run in memory.
    verdict, headline
        Stop, go on with care, go on, or cannot tell; and why, in one line.
    next_steps
        What to do now, in order.
    causes
        Root causes that are errors or warnings, the gravest first.
    notices
        Findings that call for nothing.
    degraded
        What numguard itself did not do as promised, in words.
    facts
        Name and value of what the run is: versions, hosts, devices, attempts, steps.
    curves
        Losses by rank and attempt, at most :data:`MOST_POINTS` points together.
    trends
        The band that the loss was predicted to stay in.
    coverage, costs, lost_updates
        What was checked, what it took, and updates lost to rounding by module.
    happenings
        Bursts, pauses, origins of non-finite numbers, stops.
    num_ranks, world_size, missing_ranks, num_missing_ranks
        Ranks that left events, should have, and did not.
    damage, notes
        What of the input could not be used, and contradictions in it.
    """

    path: str
    verdict: Verdict
    headline: str
    next_steps: tuple[str, ...]
    causes: tuple[Cause, ...]
    notices: tuple[Finding, ...]
    degraded: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    curves: tuple[LossCurve, ...]
    trends: tuple[TrendBand, ...]
    coverage: Coverage
    costs: tuple[RankCost, ...]
    lost_updates: tuple[tuple[str, float], ...]
    happenings: tuple[Happening, ...]
    num_ranks: int
    world_size: int | None
    missing_ranks: tuple[int, ...]
    num_missing_ranks: int
    damage: Damage
    notes: tuple[str, ...]

    @property
    def num_findings(self) -> int:
        """Errors and warnings, symptoms included; notices are not counted."""
        return sum(1 + len(cause.repeats) + len(cause.symptoms) for cause in self.causes)


def summarise(records: RunRecords) -> RunSummary:
    """Return what a report of these records shows."""
    own = [finding for finding in records.findings if finding.kind == "degraded"]
    others = [finding for finding in records.findings if finding.kind != "degraded"]
    num_ranks = max(len(records.ranks), 1)
    causes = causes_of([finding for finding in others if finding.severity != "notice"], num_ranks)
    degraded = _degraded(records, own)
    verdict, headline = _verdict(records, causes, degraded)
    return RunSummary(
        path=_name_of(records.path),
        verdict=verdict,
        headline=headline,
        next_steps=_next_steps(verdict, causes, records),
        causes=causes + causes_of(own, num_ranks),
        notices=tuple(finding for finding in others if finding.severity == "notice"),
        degraded=degraded,
        facts=_facts(records),
        curves=drawn_curves(records.curves),
        trends=records.trends,
        coverage=records.coverage,
        costs=tuple(_cost(event) for event in records.costs),
        lost_updates=_lost_updates(records.lost_updates),
        happenings=_happenings(records.happenings),
        num_ranks=len(records.ranks),
        world_size=records.world_size,
        missing_ranks=records.missing_ranks,
        num_missing_ranks=records.num_missing_ranks,
        damage=records.damage,
        notes=records.notes,
    )


def _name_of(path: str) -> str:
    return path and (Path(path).name or Path(path).resolve().name)


def _verdict(records: RunRecords, causes: Sequence[Cause], degraded: Sequence[str]) -> tuple[Verdict, str]:
    grave = [cause for cause in causes if cause.stop]
    if grave:
        clean = grave[0].last_clean_step
        last = "no clean step known" if clean is None else f"last clean step {clean:,}"
        more = f" (and {counted(len(grave) - 1, 'more root cause')})" if len(grave) > 1 else ""
        return "stop", f"{grave[0].headline}; {last}{more}"
    broken = _ends_nonfinite(records.curves)
    if broken is not None:
        return "stop", f"the loss has been {broken[1]} since step {broken[0]:,}"
    asleep = [event for event in records.selftests if not event.fields["passed"]]
    if asleep:
        stage = asleep[0].fields["stage"] or "its pipeline"
        return "unknown", f"numguard was not awake on rank {asleep[0].rank}: its self-test failed at {stage}"
    num_checks = _num_checks(records)
    if num_checks == 0 and not causes:
        return "unknown", f"nothing was checked, so nothing can be said{_why_unchecked(records.coverage)}"
    if causes:
        return "care", f"no error, {counted(len(causes), 'warning')}; the first: {causes[0].headline}"
    if records.num_missing_ranks or degraded:
        rest = f"{counted(records.num_missing_ranks, 'rank')} missing" if records.num_missing_ranks else degraded[0]
        return "care", f"no error in {counted(num_checks, 'check')}, but the picture is not complete: {rest}"
    return (
        "go",
        f"no error and no warning in {counted(num_checks, 'check')} of {counted(len(records.coverage.sites), 'place')}",
    )


def _num_checks(records: RunRecords) -> int:
    """Return the checks of the run's own calls; what they cost counts those of planted faults, too."""
    if records.coverage.num_ranks:
        return records.coverage.num_checks
    return sum(event.fields["num_checks"] for event in records.costs)


def _why_unchecked(coverage: Coverage) -> str:
    reason = max(coverage.uncovered, key=lambda reason: coverage.uncovered[reason], default="")
    return reason and f" ({reason})"


def _ends_nonfinite(curves: Sequence[LossCurve]) -> tuple[int, str] | None:
    """Return the first bad step and its loss where the last loss of the last attempt is not finite."""
    last = max((curve for curve in curves), key=lambda curve: (curve.attempt, curve.num_nonfinite), default=None)
    if last is None or last.last_loss is None or math.isfinite(last.last_loss):
        return None
    after = [step for step, _ in last.nonfinite if not last.points or step > last.points[-1][0]]
    return (after or [last.nonfinite[-1][0]])[0], number(last.last_loss)


def _next_steps(verdict: Verdict, causes: Sequence[Cause], records: RunRecords) -> tuple[str, ...]:
    grave = [cause for cause in causes if cause.stop]
    if verdict == "stop" and not grave:
        origin = next((event for event in records.happenings if event.event == "origin"), None)
        place = "" if origin is None else f" It was born in {origin.fields['block']} ({origin.fields['phase']})."
        return ("Stop the run." + place, "Restart from a checkpoint written before that step.")
    steps = dict.fromkeys(step for cause in grave for step in cause.next_steps if not step.startswith("Restart"))
    restarts = [cause.last_clean_step for cause in grave]
    known = [step for step in restarts if step is not None]
    if known and len(known) == len(restarts):
        steps[f"Restart from a checkpoint written at step {min(known):,} or before."] = None
    if verdict == "unknown":
        steps["Do not take this run for healthy: see what numguard says about itself below."] = None
    return tuple(steps)


def _degraded(records: RunRecords, own: Sequence[Finding]) -> tuple[str, ...]:
    lines = [f"{finding.message or 'degraded'} (rank {finding.rank})" for finding in own]
    for event in records.selftests:
        if not event.fields["passed"]:
            lines.append(f"Self-test failed at {event.fields['stage']} on rank {event.rank}: {event.fields['detail']}")
    dropped: dict[tuple[int, str], int] = {}
    for event in records.happenings:
        if event.event == "dropped":
            key = event.rank, event.fields["reason"]
            dropped[key] = dropped.get(key, 0) + event.fields["count"]
    lines += [
        f"{counted(count, 'event')} of rank {rank} could not be written: {reason}"
        for (rank, reason), count in dropped.items()
    ]
    if records.num_left_out:
        lines.append(f"{counted(records.num_left_out, 'event')} beyond what a report keeps were left out")
    return tuple(dict.fromkeys(lines))


def _facts(records: RunRecords) -> tuple[tuple[str, str], ...]:
    starts = records.starts
    hosts = sorted({event.fields["host"] for event in starts} - {""})
    devices = sorted(
        {" ".join(filter(None, (event.fields["device"], event.fields["device_uuid"]))) for event in starts} - {""}
    )
    steps = [(curve.first_step, curve.last_step) for curve in records.curves]
    missing = [f"rank {rank}" for rank in records.missing_ranks]
    world = records.world_size or len(records.ranks)
    facts = {
        "Run": _name_of(records.path) or "in memory",
        "Steps": f"{min(first for first, _ in steps):,} to {max(last for _, last in steps):,}" if steps else "",
        "Ranks": f"{len(records.ranks):,} of {world:,}" + (f", missing: {listed(missing)}" if missing else ""),
        "Attempts": str(len({event.attempt for event in starts}) or ""),
        "Hosts": listed(hosts),
        "Devices": listed(devices),
        "PyTorch": listed(sorted({event.fields["torch"] for event in starts})),
        "numguard": listed(sorted({event.fields["version"] for event in starts})),
        "Trend": listed([f"{trend.name}, {trend.level or 0:.0%} band along {trend.axis}" for trend in records.trends]),
        "Ended": _ended(records.happenings, starts),
    }
    return tuple((name, value) for name, value in facts.items() if value)


def _ended(happenings: Sequence[Event], starts: Sequence[Event]) -> str:
    if not starts:
        return ""
    last = starts[-1].attempt
    stops = [event for event in happenings if event.event == "stop" and event.attempt == last]
    if not stops:
        return "not yet, or killed: no rank wrote that it stopped"
    reasons = sorted({event.fields["reason"] for event in stops} - {""})
    return f"step {max(event.fields['step'] for event in stops):,}" + (f" ({listed(reasons)})" if reasons else "")


def drawn_curves(curves: Sequence[LossCurve]) -> tuple[LossCurve, ...]:
    """Return the curves with at most :data:`MOST_POINTS` points together."""
    drawn = [curve for curve in curves if curve.points or curve.num_nonfinite]
    share = max(2, MOST_POINTS // max(1, len(drawn)))
    return tuple(_with_points(curve, thinned(curve.points, share)) for curve in drawn)


def _with_points(curve: LossCurve, points: tuple[tuple[int, float], ...]) -> LossCurve:
    values = {name: getattr(curve, name) for name in LossCurve.__dataclass_fields__}
    return LossCurve(**{**values, "points": points})


def _cost(event: Event) -> RankCost:
    names = ("own_seconds", "elapsed_seconds", "num_armed_steps", "num_checks", "budget")
    return RankCost(rank=event.rank, **{name: event.fields[name] for name in names})


def _lost_updates(events: Sequence[Event]) -> tuple[tuple[str, float], ...]:
    shares: dict[str, float] = {}
    for event in events:
        for module, share in event.fields["shares"].items():
            if isinstance(share, (int, float)) and 0.0 <= share <= 1.0:
                shares[module] = max(shares.get(module, 0.0), float(share))
    return tuple(sorted(shares.items(), key=lambda item: -item[1]))


def _happenings(events: Sequence[Event]) -> tuple[Happening, ...]:
    texts = {
        "burst": "Exhaustive burst of {steps} steps: {reason}",
        "pause": "Paused",
        "resume": "Resumed",
        "origin": "First non-finite number in {block} ({phase}): {detail}",
        "stop": "Stopped: {reason}",
    }
    return tuple(
        Happening(step=event.fields["step"], rank=event.rank, text=texts[event.event].format_map(event.fields))
        for event in events
        if event.event in texts
    )
