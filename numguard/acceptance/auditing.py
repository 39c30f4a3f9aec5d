"""The audit: is the torch that is installed on this machine numerically sound?"""

import os
import platform
import re
import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from numguard.acceptance.accumulations import TOTALS
from numguard.acceptance.audit_report import AuditReport
from numguard.acceptance.discoveries import discoveries_of, finding_of, sighting_from, sightings_in
from numguard.acceptance.examination import Sighting
from numguard.acceptance.plan import Level, balanced, compiled_trials, large_trials, num_bytes, trials_of
from numguard.acceptance.pool import Answer, Pool
from numguard.acceptance.programme import subjects
from numguard.acceptance.release_defects import known_defects
from numguard.acceptance.reproducers import reproducers_of
from numguard.acceptance.subjects import Subject
from numguard.acceptance.timetable import Timetable
from numguard.acceptance.trials import DTYPES, Trial
from numguard.checks import REGISTRY
from numguard.errors import UsageError
from numguard.finding import Finding
from numguard.records import read_accepted

_SECONDS: Final[Mapping[str, float]] = {"quick": 46.0, "full": 1080.0}
_SECONDS_OF_TRIAL: Final[Mapping[str, float]] = {"quick": 20.0, "full": 90.0}
_SECONDS_OF_SHRINKING: Final[Mapping[str, float]] = {"quick": 2.0, "full": 5.0}
#: What trials of subjects are made of, with how many of them share a fork.
_PARTS: Final[Mapping[str, int]] = {"eager": 16, "large": 1, "compiled": 8}
#: Families without subjects: two processes, what is found by looking, and the examples of the checks.
COLLECTIVES: Final = "collectives"
ELEMENTWISE: Final = "elementwise"
EXAMPLES: Final = "examples"
Advance = Callable[[int, int], object]


def audit(
    *,
    device: str = "cpu",
    level: Level = "quick",
    families: Sequence[str] | None = None,
    parts: Sequence[str] | None = None,
    only: str | None = None,
    baseline: str | os.PathLike[str] | None = None,
    known: bool = True,
    seconds: float | None = None,
    num_workers: int | None = None,
    advance: Advance | None = None,
) -> AuditReport:
    """Examine the operators of the installed torch, each in a child process, and say what is wrong with them.

    Parameters
    ----------
    device
        ``"cpu"``.
    level
        ``"quick"``: eager calls of fewer than 2**22 elements, at most a minute on two cores. ``"full"``: every dtype,
        kind of data and layout, compiled calls, and sizes past 2**24 and, where the memory allows, 2**31; at most
        twenty minutes.
    families
        Of :func:`numguard.acceptance.programme.subjects`; None for all.
    parts
        Of ``"eager"``, ``"large"`` and ``"compiled"``; None for all that the level has.
    only
        Regular expression that a call must contain, ``"group_norm"``; how the build adds is then left out. None for
        every call of the families.
    baseline
        A TOML file of accepted fingerprints, as ``accept=`` of a guard takes it and the report writes it.
    known
        Whether the known defects of this version of torch, which numguard ships, are accepted as well.
    seconds
        What everything may take together; by default what the level promises. Where it does not suffice, the same
        share of every family is left out, what tells least first, and ``not_covered`` says what.
    num_workers
        Child processes at the same time; as many as there are processors by default.
    advance
        Called with the number of trials done and planned.

    Returns
    -------
    AuditReport
        The findings with reproducers, what was accepted, and what was not looked at.

    Raises
    ------
    UsageError
        For a device, level or family that does not exist, or no time at all.
    InputError
        For a baseline that cannot be read.

    Notes
    -----
    An ``error`` is outside the bound of the operator's check, as in :func:`numguard.verify`, or breaks an exact
    invariant: the process ended, memory was overwritten, equivalent forms disagree about NaN. Everything that only
    float64 contradicts is a warning: its error exceeds eight times what one-ulp changes of the inputs come to.

    Examples
    --------
    >>> import numguard
    >>> report = numguard.audit(families=["pooling"])  # doctest: +SKIP
    """
    allowed = _allowed_seconds(seconds, level)
    chosen, running = _chosen(device, level, families, only), _running(level, families, parts, only)
    accepted = known_defects(torch.__version__, device) if known else {}
    accepted |= {} if baseline is None else read_accepted(baseline)
    table = Timetable(running, allowed)
    workers = num_workers or len(os.sched_getaffinity(0))
    with Pool(workers, _SECONDS_OF_TRIAL[level]) as pool:
        harvest = _examined(pool, table, _planned(chosen, level, only), level, workers, advance)
        discoveries = discoveries_of(harvest.sightings)
        fresh = [entry for entry in discoveries if entry.worst.fingerprint not in accepted]
        scripts = reproducers_of(pool, fresh, table.end_of("reproducers"), _SECONDS_OF_SHRINKING[level])
    findings = [finding_of(e, n, device, scripts.get(e.worst.fingerprint, {})) for n, e in enumerate(fresh, 1)]
    fingerprints = (entry.worst.fingerprint for entry in discoveries)
    reasons = {fingerprint: accepted[fingerprint] for fingerprint in fingerprints if fingerprint in accepted}
    return _reported(harvest, findings, reasons, device=device, level=level, workers=workers, seconds=table.elapsed)


@dataclass(kw_only=True, slots=True)
class _Harvest:
    """What the trials came to, as it comes in."""

    sightings: list[list[Sighting]]
    judged: set[str]
    not_covered: list[str]
    accumulations: tuple[str, ...] = ()
    num_trials: int = 0
    num_left_out: int = 0


def _reported(
    harvest: _Harvest,
    findings: Sequence[Finding],
    accepted: Mapping[str, str],
    *,
    device: str,
    level: Level,
    workers: int,
    seconds: float,
) -> AuditReport:
    """Return what was found with where, how long and at what it was looked."""
    return AuditReport(
        torch=torch.__version__,
        device=device,
        level=level,
        host=socket.gethostname(),
        machine=f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        num_threads=workers,
        seconds=seconds,
        num_trials=harvest.num_trials,
        num_left_out=harvest.num_left_out,
        findings=tuple(findings),
        accepted=accepted,
        operators_judged=tuple(sorted(harvest.judged)),
        operators_missed=tuple(sorted({op for check in REGISTRY.values() for op in check.ops} - harvest.judged)),
        accumulations=harvest.accumulations,
        not_covered=tuple(harvest.not_covered),
    )


def _allowed_seconds(seconds: float | None, level: Level) -> float:
    """Return what an audit may take, by default what its level promises; a level that does not exist is told later."""
    if seconds is None:
        return _SECONDS.get(level, 0.0)
    if not seconds > 0.0:
        raise UsageError(f"seconds={seconds!r} leaves no time to examine anything; give a number above 0")
    return seconds


def _running(level: Level, families: Sequence[str] | None, parts: Sequence[str] | None, only: str | None) -> list[str]:
    """Return the parts of the timetable that an audit has."""
    unknown = [name for name in parts or () if name not in _PARTS]
    if unknown:
        raise UsageError(f"parts= got {unknown[0]!r}; there are {', '.join(_PARTS)}")
    if only is not None:
        parts = parts or [*_PARTS]
    here = ["eager"] if level == "quick" else [*_PARTS]
    running = [name for name in here if parts is None or name in parts]
    for name in (EXAMPLES, COLLECTIVES, ELEMENTWISE):
        wanted = parts is None if families is None else name in families
        if wanted and not (name == COLLECTIVES and level == "quick"):
            running.append(name)
    if families is None and parts is None:
        running.append("accumulations")
    return [*running, "reproducers"]


def _examined(
    pool: Pool, table: Timetable, planned: "_Plan", level: Level, workers: int, advance: Advance | None
) -> _Harvest:
    """Run everything that is planned until its time is over."""
    harvest = _Harvest(sightings=[], judged=set(), not_covered=[])
    groups = [(name, group) for name, group in planned.groups.items() if name in table]
    total, done = sum(len(group) for _, group in groups), 0

    def enter(answer: Answer) -> None:
        nonlocal done
        done += 1
        if advance is not None:
            advance(done, total)

    for name, group in groups:
        answers, num_left = pool.run(
            "examine compiled" if name == "compiled" else "examine",
            [{"trial": trial.plain()} for trial in group],
            batch_size=_PARTS[name],
            deadline=table.end_of(name),
            advance=enter,
            num_workers=1 if name == "large" else workers,  # for the memory, and for torch's own threads
        )
        harvest.sightings += sightings_in(answers)
        _reap(harvest, answers, num_left)
        harvest.not_covered += _left_out(name, group, answers, planned.family_of)
        if name == "large":
            harvest.not_covered += planned.too_large
    if EXAMPLES in table:
        answers, num_left = pool.run("examples", _example_tasks(level), batch_size=4, deadline=table.end_of(EXAMPLES))
        harvest.sightings += sightings_in(answers)
        _reap(harvest, answers, num_left)
        harvest.not_covered += [f"examples of the checks: {num_left} tasks not begun for time"] * (num_left > 0)
    if COLLECTIVES in table:
        harvest.sightings += _sightings(pool.run("collectives", [{}], deadline=table.end_of(COLLECTIVES))[0])
    if ELEMENTWISE in table:
        answers, num_left = _elementwise(pool, level, planned.only, table.end_of(ELEMENTWISE))
        harvest.sightings += _sightings(answers)
        _reap(harvest, answers, num_left)
        harvest.not_covered += [f"elementwise: {num_left} functions not begun for time"] * (num_left > 0)
    if "accumulations" in table:
        harvest.accumulations = _accumulations(pool, table.end_of("accumulations"))
    return harvest


def _reap(harvest: _Harvest, answers: Sequence[Answer], num_left_out: int) -> None:
    harvest.num_trials += len(answers)
    harvest.num_left_out += num_left_out
    harvest.not_covered += _failures(answers)
    harvest.judged |= {op for a in answers if not a.ended and isinstance(a.value, dict) for op in a.value["judged"]}


def _left_out(
    part: str, planned: Sequence[Trial], answers: Sequence[Answer], family_of: Mapping[str, str]
) -> list[str]:
    """Return how many trials of which family were not begun, in sentences."""
    wanted = Counter(family_of[trial.subject] for trial in planned)
    ran = Counter(family_of[answer.given["trial"]["subject"]] for answer in answers)
    return [
        f"{family}, {part}: {count - ran[family]} of {count} trials not begun for time"
        for family, count in wanted.items()
        if count > ran[family]
    ]


def _example_tasks(level: Level) -> list[dict[str, Any]]:
    dtypes = DTYPES if level == "full" else ("float32", "bfloat16")
    return [
        {"check": name, "dtype": dtype, "trial": Trial(subject=f"{name}: examples", dtype=dtype, sizes=()).plain()}
        for dtype in dtypes
        for name in REGISTRY
    ]


def _chosen(device: str, level: str, families: Sequence[str] | None, only: str | None) -> list[Subject]:
    if device != "cpu":
        raise UsageError(f"device={device!r} cannot be audited by this release; give device='cpu'")
    if level not in _SECONDS:
        raise UsageError(f"level={level!r} is not known; give level='quick' or level='full'")
    every = subjects()
    there = [*dict.fromkeys(entry.family for entry in every), EXAMPLES, COLLECTIVES, ELEMENTWISE]
    unknown = [name for name in families or () if name not in there]
    if unknown:
        raise UsageError(f"families= got {unknown[0]!r}, which does not exist; there are {', '.join(there)}")
    return [
        entry
        for entry in every
        if (families is None or entry.family in families) and (only is None or re.search(only, entry.name))
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """Trials by part in their order, the family of each subject, and what there is too little memory for."""

    groups: Mapping[str, list[Trial]]
    family_of: Mapping[str, str]
    too_large: list[str]
    only: str | None


def _planned(chosen: Sequence[Subject], level: Level, only: str | None) -> _Plan:
    threads = min(2, len(os.sched_getaffinity(0)))
    eager: dict[str, list[list[Trial]]] = defaultdict(list)
    compiled: dict[str, list[list[Trial]]] = defaultdict(list)
    for entry in chosen:
        eager[entry.family].append(list(trials_of(entry, level, threads)))
        compiled[entry.family].append(list(compiled_trials(entry)))
    groups = {"eager": balanced(eager)}
    too_large: list[str] = []
    if level == "full":
        groups["large"], too_large = _large(chosen)
        groups["compiled"] = _in_batches(balanced(compiled), {entry.name: entry.family for entry in chosen})
    return _Plan(
        groups=groups, family_of={entry.name: entry.family for entry in chosen}, too_large=too_large, only=only
    )


def _in_batches(trials: Sequence[Trial], family_of: Mapping[str, str]) -> list[Trial]:
    """Return the trials so that those which share a fork, and with it a loaded compiler, are of one family."""
    size = _PARTS["compiled"]
    by_family: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_family[family_of[trial.subject]].append(trial)
    most = max((len(group) for group in by_family.values()), default=0)
    return [trial for at in range(0, most, size) for group in by_family.values() for trial in group[at : at + size]]


def _large(chosen: Sequence[Subject]) -> tuple[list[Trial], list[str]]:
    """Return large trials, smallest first, and what does not fit into the memory."""
    free, by_name = _free_bytes(), {entry.name: entry for entry in chosen}
    large, too_large = [], []
    for entry in chosen:
        for trial in large_trials(entry):
            if num_bytes(entry, trial) * 1.5 < free:
                large.append(trial)
            else:
                needed = num_bytes(entry, trial) * 1.5 / 2**30
                too_large.append(f"{entry.name} at {dict(trial.sizes)}: needs {needed:.0f} GiB of free memory")
    large.sort(key=lambda trial: num_bytes(by_name[trial.subject], trial))
    return large, too_large


def _free_bytes() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4.0 * 2**30


def _sightings(answers: Sequence[Answer]) -> list[list[Sighting]]:
    return [[sighting_from(plain)] for answer in answers if not answer.ended for plain in answer.value]


def _elementwise(pool: Pool, level: Level, only: str | None, deadline: float) -> tuple[list[Answer], int]:
    """Return what every elementwise function of torch whose name is wanted came to."""
    listed, _ = pool.run("function_names", [{}])
    calls = [call for answer in listed if not answer.ended for call in answer.value]
    calls = [call for call in calls if only is None or re.search(only, call)]
    dtypes = [dtype for dtype in DTYPES if level == "full" or dtype != "float64"]
    tasks = [{"name": call, "dtype": dtype, "trial": {"subject": call}} for dtype in dtypes for call in calls]
    return pool.run("elementwise", tasks, batch_size=40, deadline=deadline)


def _accumulations(pool: Pool, deadline: float) -> tuple[str, ...]:
    tasks = [{"name": name, "dtype": dtype} for dtype in DTYPES for name in TOTALS]
    answers, _ = pool.run("accumulate", tasks, batch_size=len(TOTALS), deadline=deadline)
    lines = [answer.value for answer in answers if not answer.ended and answer.value]
    return tuple(sorted(lines, key=lambda line: (not line.endswith("stagnates"), line)))


def _failures(answers: Sequence[Answer]) -> list[str]:
    reasons = dict.fromkeys(f"{a.given['trial']['subject']}: {a.reason}" for a in answers if a.ended == "failed")
    return list(reasons)
