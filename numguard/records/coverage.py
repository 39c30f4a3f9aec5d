"""What a run has checked and what not, over all its ranks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from numguard.records.schema import SITE_NUMBERS, as_float, site_problem

_MOST_SITES: Final = 20_000
_MOST_REASONS: Final = 1_000
_LOG_MISSED: Final = math.log(0.05)


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteCoverage:
    """One place in the training step at which an operator is called.

    Parameters
    ----------
    op, module, location, phase, dtype, shape
        Which place.
    num_seen, num_checked
        Calls in armed steps, and checks among them, over all ranks.
    worst_ratio
        Largest forward error over its bound; None where nothing was checked.
    detectable_rate
        Smallest share of wrong calls that would have been caught with 95 % probability, were it the same on all ranks.
    """

    op: str
    module: str
    location: str
    phase: str
    dtype: str
    shape: str
    num_seen: int
    num_checked: int
    worst_ratio: float | None
    detectable_rate: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """What was checked.

    Parameters
    ----------
    sites
        Every known site.
    uncovered
        Reason to number of calls that no check could judge.
    first_coverage_step
        Step by which every site had had its first checks, on the slowest rank; None while some rank is not there.
    num_calls_seen, num_checks
        Over all ranks.
    num_ranks
        Ranks that reported coverage.
    num_sites_left_out
        Sites beyond the number that is kept.
    """

    sites: tuple[SiteCoverage, ...] = ()
    uncovered: Mapping[str, int] = field(default_factory=dict)
    first_coverage_step: int | None = None
    num_calls_seen: int = 0
    num_checks: int = 0
    num_ranks: int = 0
    num_sites_left_out: int = 0


def _largest(first: float | None, second: float | None) -> float | None:
    """Return the larger one; NaN, which no number exceeds, counts as the largest."""
    if first is None or second is None:
        return second if first is None else first
    return first if first != first or first > second else second


def _pooled_rate(first: float | None, second: float | None) -> float | None:
    """Return the rate that both ranks' checks detect together.

    n independent checks miss a fault of rate p with probability (1 - p)^n, so a rate p that is missed with 5 % stands
    for n = ln 0.05 / ln(1 - p) checks, and those add up.
    """
    rates = [rate for rate in (first, second) if rate is not None and 0.0 < rate <= 1.0]
    checks = sum(_LOG_MISSED / math.log1p(-rate) for rate in rates if rate < 1.0)
    if checks == 0.0:
        return max(rates, default=None)
    return -math.expm1(_LOG_MISSED / checks)


@dataclass(slots=True)
class CoverageTable:
    """The coverage of all ranks while it is being put together, one rank after another."""

    _sites: dict[tuple[str, ...], SiteCoverage] = field(default_factory=dict)
    _uncovered: dict[str, int] = field(default_factory=dict)
    _first_steps: list[int | None] = field(default_factory=list)
    _num_calls: int = 0
    _num_checks: int = 0
    _num_left_out: int = 0

    def add_rank(self, parts: Sequence[Mapping[str, Any]]) -> list[str]:
        """Add the parts of the last ``coverage`` event of one rank; return what was wrong with its sites."""
        problems = []
        whole = parts[-1]
        self._num_calls += whole["num_calls_seen"]
        self._num_checks += whole["num_checks"]
        self._first_steps.append(whole["first_coverage_step"])
        for reason, count in whole["uncovered"].items():
            if type(count) is not int or count < 0:
                problems.append("coverage.uncovered holds something else than counts")
            elif reason in self._uncovered or len(self._uncovered) < _MOST_REASONS:
                self._uncovered[reason] = self._uncovered.get(reason, 0) + count
        for part in parts:
            for site in part["sites"]:
                problem = self._add_site(site)
                if problem is not None:
                    problems.append(problem)
        return problems

    def _add_site(self, site: Any) -> str | None:
        problem = site_problem(site)
        if problem is not None:
            return problem
        try:
            worst, rate = (as_float(site[name]) for name in SITE_NUMBERS)
        except OverflowError:
            return "a site's number is too large for a float"
        place = tuple(str(site[name] or "") for name in ("op", "module", "location", "phase", "dtype", "shape"))
        known = self._sites.get(place)
        if known is None and len(self._sites) >= _MOST_SITES:
            self._num_left_out += 1
            return None
        self._sites[place] = SiteCoverage(
            op=place[0],
            module=place[1],
            location=place[2],
            phase=place[3],
            dtype=place[4],
            shape=place[5],
            num_seen=site["seen"] + (known.num_seen if known else 0),
            num_checked=site["checked"] + (known.num_checked if known else 0),
            worst_ratio=_largest(worst if site["checked"] else None, known.worst_ratio if known else None),
            detectable_rate=_pooled_rate(rate, known.detectable_rate if known else None),
        )
        return None

    def result(self) -> Coverage:
        """Return the coverage of the ranks added so far."""
        steps = [step for step in self._first_steps if step is not None]
        return Coverage(
            sites=tuple(self._sites.values()),
            uncovered=dict(sorted(self._uncovered.items(), key=lambda item: -item[1])),
            first_coverage_step=max(steps) if steps and len(steps) == len(self._first_steps) else None,
            num_calls_seen=self._num_calls,
            num_checks=self._num_checks,
            num_ranks=len(self._first_steps),
            num_sites_left_out=self._num_left_out,
        )
