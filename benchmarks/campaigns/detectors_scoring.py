"""False alarms and hits of every rule, counted in the same way."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import beta, chi2

from benchmarks.campaigns.detectors_data import Curve, Fault, Run
from benchmarks.campaigns.detectors_rules import Rule, rules
from numguard.detectors import AlarmBudget, LossMonitor, ReferenceRun

OURS = "numguard LossMonitor"
#: The same with one false alarm in ten million rows allowed.
OURS_STRICT = "numguard LossMonitor, budget 1e-7"
#: Alarms closer than this are one episode.
EPISODE = 50
#: Rows on either side of a label in which an alarm counts; labels lie some rows after the onset.
AROUND = 25


class Monitored:
    """A monitor as a rule: any statistical alarm counts, exact rules and notices do not."""

    def __init__(self, budget: AlarmBudget | None = None, reference: ReferenceRun | None = None) -> None:
        self.monitor = LossMonitor(budget=budget, reference=reference)
        self.tests: list[str] = []

    def __call__(self, step: int, loss: float, channels: dict[str, float]) -> bool:
        found = [finding for finding in self.monitor.update(step, loss, **channels) if "test" in finding.evidence]
        self.tests += [finding.evidence["test"] for finding in found]
        return bool(found)

    def __deepcopy__(self, memo: dict[int, object]) -> "Monitored":
        other = Monitored()
        other.monitor._ladder, other.monitor._budget = self.monitor._ladder, self.monitor._budget
        other.monitor._tracks = copy.deepcopy(self.monitor._tracks, memo)
        return other


def everyone() -> dict[str, Rule]:
    """Return all rules, ours first."""
    return {OURS: Monitored(), **rules()}


def num_episodes(rows: list[int]) -> int:
    """Return the number of groups of rows that are no more than :data:`EPISODE` apart."""
    return sum(1 for index, row in enumerate(rows) if index == 0 or row - rows[index - 1] > EPISODE)


def poisson_interval(num: int, exposure: float, level: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval for a rate (Garwood 1936)."""
    tail = (1.0 - level) / 2.0
    low = chi2.ppf(tail, 2 * num) / 2.0 if num else 0.0
    return float(low / exposure), float(chi2.ppf(1.0 - tail, 2 * num + 2) / 2.0 / exposure)


def poisson_upper(num: int, exposure: float, level: float = 0.95) -> float:
    """Return the exact one-sided upper limit for a rate."""
    return float(chi2.ppf(level, 2 * num + 2) / 2.0 / exposure)


def binomial_interval(num: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval for a share (Clopper and Pearson 1934)."""
    tail = (1.0 - level) / 2.0
    low = float(beta.ppf(tail, num, total - num + 1)) if num else 0.0
    return low, float(beta.ppf(1.0 - tail, num + 1, total - num)) if num < total else 1.0


def bootstrap_upper(episodes: list[int], num_rows: list[int], seed: int = 0) -> float:
    """Return the upper 95 % limit of the pooled rate when whole runs are drawn again."""
    random, counts, sizes = np.random.default_rng(seed), np.array(episodes), np.array(num_rows)
    drawn = random.integers(len(counts), size=(4000, len(counts)))
    return float(np.quantile(counts[drawn].sum(1) / sizes[drawn].sum(1), 0.95))


@dataclass
class Count:
    """Episodes and rows of each run, and hits with their delays by fault."""

    episodes: list[int] = field(default_factory=list)
    num_rows: list[int] = field(default_factory=list)
    delays: dict[str, list[int]] = field(default_factory=dict)
    num_faults: dict[str, int] = field(default_factory=dict)
    by_chance: dict[str, int] = field(default_factory=dict)

    def rate(self) -> float:
        return 1e4 * sum(self.episodes) / max(1, sum(self.num_rows))


def _alarms(rule: Rule, rows: Iterator[tuple[int, float, dict[str, float]]], num_rows: int) -> list[int]:
    return [
        index
        for index, (step, loss, channels) in zip(range(num_rows), rows, strict=False)
        if rule(step, loss, channels)
    ]


def _places(curve: Curve, num_faults: int, longest: int, first: int) -> list[int]:
    random = np.random.default_rng(hash_of(curve.name))
    last = len(curve.losses) - longest
    return sorted(random.integers(first, last, size=num_faults).tolist()) if last > first else []


def hash_of(name: str) -> int:
    """Return a seed that is the same in every process."""
    return sum(ord(letter) * pow(131, place, 2**31) for place, letter in enumerate(name)) % 2**31


def score_curve(
    curve: Curve,
    faults: tuple[Fault, ...],
    num_faults: int,
    counts: dict[str, Count],
    make: Callable[[], dict[str, Rule]],
    first: int = 2500,
) -> None:
    """Run every rule over a curve; put faults in at places that the curve's name fixes, from row ``first`` on.

    A hit is an alarm within the fault's horizon at a row where the same rule on the clean curve gives none within
    :data:`EPISODE` rows.
    """
    longest = max((fault.horizon for fault in faults), default=0)
    places = _places(curve, num_faults, longest, first) if num_faults else []
    for name, rule in make().items():
        count = counts.setdefault(name, Count())
        clean: list[int] = []
        kept: list[tuple[int, Rule]] = []
        waiting = list(places)
        for row, (step, loss, channels) in enumerate(curve.rows()):
            while waiting and waiting[0] == row:
                kept.append((waiting.pop(0), copy.deepcopy(rule)))
            if np.isfinite(loss) and rule(step, loss, channels):
                clean.append(row)
        scored = [row for row in clean if row >= curve.first_scored]
        count.episodes.append(num_episodes(scored))
        count.num_rows.append(max(0, len(curve.losses) - curve.first_scored))
        for fault in faults:
            for place, state in kept:
                _inject(curve, fault, place, copy.deepcopy(state), clean, count)


def _inject(curve: Curve, fault: Fault, place: int, rule: Rule, clean: list[int], count: Count) -> None:
    spoilt = fault.spoil(curve.losses[place : place + fault.horizon + 64])[: fault.horizon]
    count.num_faults[fault.name] = count.num_faults.get(fault.name, 0) + 1
    alarms = _alarms(rule, curve.rows(spoilt, place), len(spoilt))
    near = [row - place for row in clean if place - EPISODE <= row < place + fault.horizon + EPISODE]
    if any(0 <= row < fault.horizon for row in near):
        count.by_chance[fault.name] = count.by_chance.get(fault.name, 0) + 1
    own = [row for row in alarms if all(abs(row - other) > EPISODE for other in near)]
    if own:
        count.delays.setdefault(fault.name, []).append(own[0])


def score_events(runs: list[Run], scored: frozenset[str]) -> dict[str, tuple[int, int, int, int]]:
    """Return by rule: hits, events, alarm episodes on clean runs of the scored workloads, and their rows."""
    totals: dict[str, list[int]] = {}
    for run in runs:
        if run.event is None and run.workload not in scored:
            continue
        for name, rule in {OURS_STRICT: Monitored(AlarmBudget(per_step=1e-7)), **everyone()}.items():
            total = totals.setdefault(name, [0, 0, 0, 0])
            alarms = []
            for row, (step, loss, norm) in enumerate(run.rows):
                channels = {} if norm is None else {"grad_norm": norm}
                if loss is not None and rule(step, loss, channels):
                    alarms.append(row)
            if run.event is None:
                total[2] += num_episodes(alarms)
                total[3] += len(run.rows)
            else:
                total[0] += any(abs(row - run.event) <= AROUND for row in alarms)
                total[1] += 1
    return {name: (total[0], total[1], total[2], total[3]) for name, total in totals.items()}
