"""From many sightings to few findings: one for each defect, with the calls that it shows in."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from numguard.acceptance.examination import Sighting
from numguard.acceptance.pool import Answer
from numguard.acceptance.trials import trial_from
from numguard.finding import KINDS, Finding, fingerprint

_MOST_CALLS: Final = 40
_RANK: Final = {"error": 0, "warning": 1, "notice": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Discovery:
    """One defect.

    Parameters
    ----------
    worst
        Where it shows most.
    num_trials
        In how many trials it shows.
    calls
        The subjects whose results it spoils.
    """

    worst: Sighting
    num_trials: int
    calls: tuple[str, ...]


def sighting_from(plain: Mapping[str, Any]) -> Sighting:
    """Return the sighting that plain JSON values describe."""
    return Sighting(**{**plain, "trial": trial_from(plain["trial"])})


def sightings_in(answers: Iterable[Answer]) -> list[list[Sighting]]:
    """Return the sightings of every trial; how a process ended is one, too."""
    found = []
    for answer in answers:
        if answer.ended in ("crash", "hang", "out_of_memory"):
            found.append([_of_end(answer)])
        elif not answer.ended:
            found.append([sighting_from(plain) for plain in answer.value["sightings"]])
    return found


def _of_end(answer: Answer) -> Sighting:
    trial = trial_from(answer.given["trial"])
    way = "backward" if trial.gradients else "forward"
    gradients = f", asking for the gradient of {', '.join(trial.gradients)}" if trial.gradients else ""
    layout = f" in {trial.layout} layout" if trial.layout != "contiguous" else ""
    what = {"crash": "ended its process", "hang": "did not end", "out_of_memory": "ran out of memory"}[answer.ended]
    return Sighting(
        fingerprint=fingerprint(answer.ended, trial.subject, trial.dtype, trial.layout, way, trial.compiled),
        kind=answer.ended,
        severity=KINDS[answer.ended],
        subject=trial.subject,
        trial=trial,
        phase=way,
        proof="exact",
        model="proved",
        confirmed="exact",
        message=f"{trial.subject} in {trial.dtype}{layout}{gradients} {what}: {answer.reason}",
        advice="Keep such calls out of a run; the reproducer is what to report upstream.",
    )


def discoveries_of(trials: Sequence[Sequence[Sighting]]) -> list[Discovery]:
    """Return the defects behind the sightings of many trials, gravest first.

    A call that float64 contradicts is a symptom where an operator inside was found inaccurate in the same phase.
    """
    groups: dict[str, list[Sighting]] = defaultdict(list)
    roots: dict[str, set[str]] = defaultdict(set)
    symptoms: dict[str, list[set[str]]] = defaultdict(list)
    for sightings in trials:
        inner = [entry for entry in sightings if entry.op]
        for entry in sightings:
            groups[entry.fingerprint].append(entry)
            if not entry.op:
                exact = entry.severity == "error"  # explains itself
                phases = (entry.phase, "optimizer")  # calls know only forward and backward
                causes = set() if exact else {other.fingerprint for other in inner if other.phase in phases}
                symptoms[entry.fingerprint].append(causes)
            else:
                roots[entry.fingerprint].add(entry.subject)
    explained = {name for name, causes in symptoms.items() if all(causes)}
    return sorted(
        (
            Discovery(
                worst=max(group, key=lambda entry: (entry.ratio or 0.0, -_size(entry))),
                num_trials=len(group),
                calls=tuple(sorted(roots.get(name, set()) | {entry.subject for entry in group})),
            )
            for name, group in groups.items()
            if name not in explained
        ),
        key=_order,
    )


def _size(sighting: Sighting) -> int:
    total = 1
    for _, size in sighting.trial.sizes:
        total *= size
    return total


def _order(discovery: Discovery) -> tuple[object, ...]:
    worst = discovery.worst
    return _RANK[worst.severity], worst.kind, worst.op, worst.subject, worst.trial.dtype, worst.phase


def finding_of(discovery: Discovery, number: int, device: str, reproducer: Mapping[str, Any]) -> Finding:
    """Return a discovery as a finding; ``reproducer`` goes into its evidence."""
    worst = discovery.worst
    return Finding(
        id=f"audit-{number}",
        fingerprint=worst.fingerprint,
        kind=worst.kind,
        severity=worst.severity,  # type: ignore[arg-type]
        proof=worst.proof,  # type: ignore[arg-type]
        model=worst.model,  # type: ignore[arg-type]
        count=discovery.num_trials,
        checked=discovery.num_trials,
        device=device,
        phase=worst.phase,
        op=worst.op,
        module=worst.subject,
        forward_error=worst.forward_error,
        error_bound=worst.error_bound,
        ratio=worst.ratio,
        message=worst.message,
        advice=worst.advice,
        evidence={
            "call": worst.subject,
            "trial": worst.trial.plain(),
            "output": worst.output,
            "computed": worst.computed,
            "exact": worst.exact,
            "calls": list(discovery.calls[:_MOST_CALLS]),
            **dict(worst.evidence),
            **reproducer,
        },
        confirmed=worst.confirmed,  # type: ignore[arg-type]
    )
