"""What was checked, what was not, and what would have been caught by now."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from numguard.interception.sites import FIRST_VISITS, Site


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteCoverage:
    """One site.

    Parameters
    ----------
    op, module, location, phase, dtype, shape
        What and where; ``shape`` is a class of shapes.
    seen, checked
        Calls in armed steps, and those that were checked.
    worst_ratio, worst_strict_ratio
        Largest error over bound so far, for the accumulation this build uses and for the documented one.
    mean_ratio
        Mean of error over strict bound with its sign: a systematic bias shows here long before a bound breaks.
    detectable_rate
        Smallest share of corrupted calls that would have been caught by now with 95 % probability.
    checks_per_step, calls_per_step
        Mean number of checks of this site per step of the run, and of its calls in an armed step.
    """

    op: str
    module: str
    location: str | None
    phase: str
    dtype: str
    shape: str
    seen: int
    checked: int
    worst_ratio: float
    worst_strict_ratio: float
    mean_ratio: float
    detectable_rate: float
    checks_per_step: float
    calls_per_step: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """What a guard has looked at.

    Parameters
    ----------
    sites
        Every site that was met in an armed step.
    uncovered
        Calls that could not be checked, by reason.
    first_coverage_step
        Step at which every site known then had its first three checks; None while that has not been reached.
    num_steps, num_armed_steps
        Steps so far, and armed ones.
    num_calls_seen, num_checks
        Calls of checked operators in armed steps, and checks made.
    """

    sites: tuple[SiteCoverage, ...]
    uncovered: Mapping[str, int]
    first_coverage_step: int | None
    num_steps: int
    num_armed_steps: int
    num_calls_seen: int
    num_checks: int

    @staticmethod
    def empty() -> "Coverage":
        """Return the coverage of a guard that has watched nothing."""
        return Coverage(
            sites=(),
            uncovered={},
            first_coverage_step=None,
            num_steps=0,
            num_armed_steps=0,
            num_calls_seen=0,
            num_checks=0,
        )

    def predicted_latency(self, site: SiteCoverage, rate: float, quantile: float = 0.5) -> float:
        """Return the steps by which a fault is caught with a probability, at the pace of checks so far.

        Parameters
        ----------
        site
            Where the fault is.
        rate
            Share of the calls of that site that it corrupts beyond their bound.
        quantile
            Probability.

        Returns
        -------
        float
            Steps from the onset; infinite for a site that is never checked.

        Notes
        -----
        Every check of a call finds the fault with probability ``rate``, independently, hence
        ``1 - (1 - rate) ** (checks_per_step * steps)``. A fault in every call of a site is met at its next check.
        """
        if not 0.0 < rate <= 1.0 or not 0.0 < quantile < 1.0:
            raise ValueError(f"rate={rate} must lie in (0, 1] and quantile={quantile} in (0, 1)")
        if site.checks_per_step <= 0.0:
            return math.inf
        per_step = site.checks_per_step
        if rate == 1.0:
            return quantile / per_step
        return math.log1p(-quantile) / math.log1p(-rate) / per_step

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of a ``coverage`` event."""
        return {
            "sites": [asdict(site) for site in self.sites],
            "uncovered": dict(self.uncovered),
            "first_coverage_step": self.first_coverage_step,
            "num_steps": self.num_steps,
            "num_armed_steps": self.num_armed_steps,
            "num_calls_seen": self.num_calls_seen,
            "num_checks": self.num_checks,
        }


def is_first_covered(sites: Iterable[Site]) -> bool:
    """Return whether every site has had its first checks, or all the calls it ever made."""
    return all(site.num_checked + site.num_excused >= min(FIRST_VISITS, site.num_seen) for site in sites)


def site_coverage(site: Site, num_steps: int) -> SiteCoverage:
    """Return the coverage of one site after ``num_steps`` steps."""
    return SiteCoverage(
        op=site.op,
        module=site.origin.module,
        location=site.origin.location,
        phase=site.origin.phase,
        dtype=site.dtype,
        shape=site.shape,
        seen=site.num_seen,
        checked=site.num_checked,
        worst_ratio=site.worst_ratio,
        worst_strict_ratio=site.worst_strict_ratio,
        mean_ratio=site.mean_ratio,
        detectable_rate=site.detectable_rate,
        checks_per_step=site.num_checked / max(1, num_steps),
        calls_per_step=site.calls_per_step,
    )
