"""Findings put in order: each root cause once, over all ranks and attempts, with the symptoms that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass

from numguard.finding import Finding
from numguard.report.on_call import Answer, Scene, answers, headline, next_steps, stops

_WEIGHT = {"error": 0, "warning": 1, "notice": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """One root cause.

    Parameters
    ----------
    lead
        The finding that was caught first.
    repeats
        The same defect on other ranks and in other attempts.
    symptoms
        Findings that follow from it.
    ranks, hosts, devices
        Where it was seen.
    num_failed, num_checked
        Failed checks and all checks, of the lead and its repeats.
    last_clean_step
        The last step at which every place that it reached was still right; None where some place never was.
    stop
        Whether the run should stop for it.
    headline
        What is wrong, in one line.
    answers
        What the engineer on call asks, answered.
    next_steps
        What to do now, in order.
    """

    lead: Finding
    repeats: tuple[Finding, ...]
    symptoms: tuple[Finding, ...]
    ranks: tuple[int, ...]
    hosts: tuple[str, ...]
    devices: tuple[str, ...]
    num_failed: int
    num_checked: int
    last_clean_step: int | None
    stop: bool
    headline: str
    answers: tuple[Answer, ...]
    next_steps: tuple[str, ...]


def causes_of(findings: Sequence[Finding], num_ranks: int) -> tuple[Cause, ...]:
    """Return the root causes among the findings, the gravest first, then the earliest.

    Parameters
    ----------
    findings
        In the order in which they were caught.
    num_ranks
        Ranks that took part, so that "one of many" can be told from "all".
    """
    roots = _roots(findings)
    groups: dict[str, list[Finding]] = {}
    symptoms: dict[str, list[Finding]] = {}
    for finding, root in zip(findings, roots, strict=True):
        if root is finding:
            groups.setdefault(finding.fingerprint, []).append(finding)
        else:
            symptoms.setdefault(root.fingerprint, []).append(finding)
    causes = [
        _cause(sorted(group, key=_earliest), symptoms.get(fingerprint, []), num_ranks)
        for fingerprint, group in groups.items()
    ]
    return tuple(
        sorted(causes, key=lambda cause: (not cause.stop, _WEIGHT[cause.lead.severity], _earliest(cause.lead)))
    )


def _earliest(finding: Finding) -> tuple[int, int]:
    return 2**63 if finding.first_caught_step is None else finding.first_caught_step, finding.rank


def _roots(findings: Sequence[Finding]) -> list[Finding]:
    """Return the root of every finding: itself where it names no cause, an unknown one, or stands in a circle."""
    by_id: dict[str, Finding] = {}
    by_rank: dict[tuple[int, str], Finding] = {}
    for finding in findings:
        by_id.setdefault(finding.id, finding)
        by_rank.setdefault((finding.rank, finding.id), finding)

    known: dict[int, Finding] = {}

    def root_of(finding: Finding) -> Finding:
        current, passed = finding, {id(finding): finding}
        while current.cause is not None and id(current) not in known:
            above = by_rank.get((current.rank, current.cause)) or by_id.get(current.cause)
            if above is None:
                break
            if id(above) in passed:
                current = finding
                break
            passed[id(above)] = above
            current = above
        root = known.get(id(current), current)
        known.update(dict.fromkeys(passed, root) if root is not finding else {id(finding): finding})
        return root

    return [root_of(finding) for finding in findings]


def _distinct(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))


def _cause(group: Sequence[Finding], symptoms: Sequence[Finding], num_ranks: int) -> Cause:
    lead = group[0]
    ranks = tuple(sorted({finding.rank for finding in group}))
    hosts, devices = _distinct([item.host for item in group]), _distinct([item.device for item in group])
    steps = [finding.last_clean_step for finding in (*group, *symptoms) if finding.severity == "error"]
    steps = steps or [finding.last_clean_step for finding in group]
    clean = None if None in steps else min(step for step in steps if step is not None)
    failed, checked = sum(finding.count for finding in group), sum(finding.checked for finding in group)
    stop = any(stops(finding) for finding in (*group, *symptoms))
    scene = Scene(
        ranks=ranks,
        hosts=hosts,
        num_ranks=num_ranks,
        num_failed=failed,
        num_checked=checked,
        last_clean_step=clean,
        stop=stop,
    )
    return Cause(
        lead=lead,
        repeats=tuple(group[1:]),
        symptoms=tuple(sorted(symptoms, key=_earliest)),
        ranks=ranks,
        hosts=hosts,
        devices=devices,
        num_failed=failed,
        num_checked=checked,
        last_clean_step=clean,
        stop=stop,
        headline=headline(lead, scene),
        answers=answers(lead, scene),
        next_steps=next_steps(lead, scene),
    )
