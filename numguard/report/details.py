"""The details below the verdict as titled tables of plain strings, the same for every medium."""

from dataclasses import dataclass

from numguard.finding import Finding
from numguard.records.coverage import SiteCoverage
from numguard.report.causes import Cause
from numguard.report.on_call import short_operator
from numguard.report.quantities import counted, number, percent, seconds
from numguard.report.summary import RankCost, RunSummary


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A table with a title, a sentence before it, and the number of rows that were left out.

    ``columns`` is empty for a list of names and values.
    """

    title: str
    lead: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    num_left_out: int = 0


def sections(summary: RunSummary, *, most_rows: int) -> tuple[Section, ...]:
    """Return the sections that have something to say, each with at most ``most_rows`` rows."""
    candidates = (
        _degraded(summary),
        _damage(summary),
        _checked(summary),
        _unchecked(summary),
        _uncovered(summary),
        _lost_updates(summary),
        _cost(summary),
        _happenings(summary),
        _notices(summary),
        _facts(summary),
    )
    kept = [section for section in candidates if section.rows or section.lead]
    return tuple(_cut(section, most_rows) for section in kept)


def symptom_rows(cause: Cause) -> tuple[tuple[str, ...], ...]:
    """Return step, kind, place and message of every symptom and repetition of a cause."""
    return tuple(_finding_row(finding) for finding in (*cause.symptoms, *cause.repeats))


def _cut(section: Section, most_rows: int) -> Section:
    most_rows = max(most_rows, 0 if section.columns else 16)
    return Section(
        title=section.title,
        lead=section.lead,
        columns=section.columns,
        rows=section.rows[:most_rows],
        num_left_out=max(0, len(section.rows) - most_rows),
    )


def _step(step: int | None) -> str:
    return "-" if step is None else f"{step:,}"


def _place(site: SiteCoverage | Finding) -> str:
    return " ".join(part for part in (site.module, f"({site.location})" if site.location else "") if part) or "-"


def _finding_row(finding: Finding) -> tuple[str, ...]:
    place = " ".join(part for part in (short_operator(finding.op), _place(finding)) if part)
    return _step(finding.first_caught_step), str(finding.rank), finding.kind, place, finding.message


def _degraded(summary: RunSummary) -> Section:
    return Section(title="What numguard did not do as promised", rows=tuple(("", line) for line in summary.degraded))


def _damage(summary: RunSummary) -> Section:
    lines = [*summary.notes, *summary.damage.examples] if summary.damage else list(summary.notes)
    lead = f"Not all of the log could be used: {summary.damage.describe()}." if summary.damage else ""
    return Section(title="Damaged input", lead=lead, rows=tuple(("", line) for line in lines))


def _checked(summary: RunSummary) -> Section:
    coverage = summary.coverage
    checked = [site for site in coverage.sites if site.num_checked]
    if not coverage.num_ranks:
        return Section(title="What was checked", lead="No rank reported its coverage.")
    first = coverage.first_coverage_step
    lead = (
        f"{counted(coverage.num_checks, 'check')} at {counted(len(checked), 'place')} of {len(coverage.sites):,}, in "
        f"{counted(coverage.num_calls_seen, 'call')} seen in armed steps on {counted(coverage.num_ranks, 'rank')}. "
        + (
            f"Every place had its first checks by step {first:,}."
            if first is not None
            else "Not every place has had its first checks yet."
        )
    )
    rows = tuple(
        (
            short_operator(site.op),
            _place(site),
            " ".join(filter(None, (site.phase, site.dtype, site.shape))),
            f"{site.num_checked:,} of {site.num_seen:,}",
            number(site.worst_ratio),
            percent(site.detectable_rate),
        )
        for site in sorted(checked, key=_worst_first)
    )
    columns = ("operator", "place", "phase, dtype, shape", "calls checked", "worst error / bound", "detectable rate")
    return Section(title="What was checked", lead=lead, columns=columns, rows=rows)


def _worst_first(site: SiteCoverage) -> tuple[float, str]:
    worst = site.worst_ratio
    return (0.0 if worst is None else float("-inf") if worst != worst else -worst), site.op


def _unchecked(summary: RunSummary) -> Section:
    sites = [site for site in summary.coverage.sites if not site.num_checked]
    rows = tuple(
        (
            short_operator(site.op),
            _place(site),
            " ".join(filter(None, (site.phase, site.dtype, site.shape))),
            f"{site.num_seen:,}",
        )
        for site in sorted(sites, key=lambda site: -site.num_seen)
    )
    lead = f"{counted(len(sites), 'known place')} had no check so far." if sites else ""
    columns = ("operator", "place", "phase, dtype, shape", "calls seen")
    return Section(title="Not checked yet", lead=lead, columns=columns, rows=rows)


def _uncovered(summary: RunSummary) -> Section:
    rows = tuple((reason, f"{count:,}") for reason, count in summary.coverage.uncovered.items())
    lead = "Calls that no check could judge:" if rows else ""
    return Section(title="Not covered", lead=lead, columns=("reason", "calls"), rows=rows)


def _lost_updates(summary: RunSummary) -> Section:
    rows = tuple((module, percent(share)) for module, share in summary.lost_updates if share > 0)
    columns = ("module", "share of update mass")
    return Section(title="Updates lost to rounding", columns=columns, rows=rows)


def _cost(summary: RunSummary) -> Section:
    rows = tuple(_cost_row(cost) for cost in sorted(summary.costs, key=lambda cost: -cost.share))
    columns = ("rank", "share of time", "budget", "own time", "elapsed", "armed steps", "checks")
    return Section(title="What it cost", columns=columns, rows=rows)


def _cost_row(cost: RankCost) -> tuple[str, ...]:
    return (
        str(cost.rank),
        percent(cost.share),
        "none (exhaustive)" if cost.budget is None else percent(cost.budget),
        seconds(cost.own_seconds),
        seconds(cost.elapsed_seconds),
        f"{cost.num_armed_steps:,}",
        f"{cost.num_checks:,}",
    )


def _happenings(summary: RunSummary) -> Section:
    rows = tuple((f"{item.step:,}", str(item.rank), item.text) for item in summary.happenings)
    return Section(title="What else happened", columns=("step", "rank", "event"), rows=rows)


def _notices(summary: RunSummary) -> Section:
    rows = tuple(_finding_row(finding) for finding in summary.notices)
    return Section(title="Notices", columns=("step", "rank", "kind", "place", "message"), rows=rows)


def _facts(summary: RunSummary) -> Section:
    return Section(title="The run", rows=summary.facts)
