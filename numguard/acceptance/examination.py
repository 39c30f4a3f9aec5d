"""One trial, run and judged: by the checks of the operators inside, by float64 around it, and by its red zones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import torch
from torch import Tensor

from numguard.acceptance.adversaries import EXTREME, NONFINITE
from numguard.acceptance.explained import MOST_CHANGES, NUM_DRAWS, Evaluate, Excess, excesses
from numguard.acceptance.red_zones import overwritten, surroundings
from numguard.acceptance.subjects import Subject
from numguard.acceptance.trials import Tensors, Trial, draw_all, run_trial
from numguard.finding import Finding, fingerprint
from numguard.inquiry import Inquiry

_MOST_IN_FLOAT64: Final = 1 << 27  # elements of an input that are evaluated in float64 at all
_FEW_DRAWS_FROM: Final = 1 << 22
#: What torch says where it does not offer what was asked for: not a finding.
NOT_OFFERED: Final = (NotImplementedError, RuntimeError, TypeError, ValueError, IndexError)
_FIGURES: Final = ("forward_error", "error_bound", "ratio")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """One defect, as one trial shows it.

    Parameters
    ----------
    fingerprint, kind, severity, proof, model, confirmed
        As in :class:`~numguard.finding.Finding`.
    op
        The operator whose check found it, or empty where only the call around it was judged.
    output
        Of the operator or of the call.
    subject, trial
        What was run.
    computed, exact, forward_error, error_bound, ratio
        Of the worst element.
    message
        In a sentence.
    advice
        What to do about it.
    """

    fingerprint: str
    kind: str
    severity: str
    subject: str
    trial: Trial
    op: str = ""
    output: str = "result"
    phase: str = "forward"
    proof: str = "none"
    model: str = "none"
    confirmed: str = "no"
    computed: float | None = None
    exact: float | None = None
    forward_error: float | None = None
    error_bound: float | None = None
    ratio: float | None = None
    message: str = ""
    advice: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return plain JSON values; figures that are not finite as text."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"trial": self.trial.plain(), "evidence": dict(self.evidence)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one trial.

    Parameters
    ----------
    sightings
        What is wrong.
    judged
        Operators that a check looked at.
    unjudged
        Operators that ran without.
    not_offered
        What torch said where it does not have the call for these inputs.
    """

    sightings: tuple[Sighting, ...] = ()
    judged: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()
    not_offered: str = ""


def examine_trial(subject: Subject, trial: Trial) -> Outcome:
    """Run and judge one trial in this process. What kills it is for the pool to notice."""
    threads = torch.get_num_threads()
    torch.set_num_threads(trial.num_threads)
    try:
        return _examined(subject, trial)
    finally:
        torch.set_num_threads(threads)


def _examined(subject: Subject, trial: Trial) -> Outcome:
    try:
        tensors = draw_all(subject, trial)
    except NOT_OFFERED as reason:
        return Outcome(not_offered=f"inputs: {reason}")
    around = surroundings(tensors)
    try:
        answer = Inquiry().ask(run_trial, (subject, trial, tensors), {})
    except NOT_OFFERED as reason:
        return Outcome(not_offered=str(reason).partition("\n")[0])
    sightings = [sighting_of(subject.name, trial, finding) for finding in answer.findings if finding.kind != "degraded"]
    sightings += _of_call(subject, trial, tensors, answer.result)
    sightings += _of_equivalent(subject, trial, tensors, answer.result)
    for name in overwritten(around):
        sightings.append(red_zone(subject.name, trial, name))
    return Outcome(
        sightings=tuple(sightings),
        judged=tuple(dict.fromkeys(judged.call.op for judged in answer.judged)),
        unjudged=answer.unjudged,
    )


def sighting_of(subject: str, trial: Trial, finding: Finding) -> Sighting:
    """Return what a check found during a trial."""
    evidence = finding.evidence
    return Sighting(
        fingerprint=finding.fingerprint,
        kind=finding.kind,
        severity=finding.severity,
        subject=subject,
        trial=trial,
        op=finding.op,
        output=str(evidence.get("output", "result")),
        phase=finding.phase,
        proof=finding.proof,
        model=finding.model,
        confirmed=finding.confirmed,
        computed=evidence.get("computed"),
        exact=evidence.get("exact"),
        message=finding.message,
        advice=finding.advice,
        evidence={"dtype": evidence.get("dtype", ""), "check": evidence.get("check", "")},
        **{name: getattr(finding, name) for name in _FIGURES},
    )


def _of_call(subject: Subject, trial: Trial, tensors: Tensors, computed: Tensors) -> list[Sighting]:
    largest = max(x.numel() for x in tensors.values())
    if largest > _MOST_IN_FLOAT64:
        return []
    draws = 1 if largest > _FEW_DRAWS_FROM else NUM_DRAWS

    def evaluate(inputs: Tensors, move: Callable[[Tensor], Tensor] | None) -> Tensors:
        # Eager: what is judged is not asked for its own reference.
        return run_trial(subject, replace(trial, compiled=False), inputs, move)

    try:
        found = excesses(computed, tensors, evaluate, draws)
    except NOT_OFFERED:
        return []
    return [_of_excess(subject, trial, tensors, excess, evaluate) for excess in found]


def _of_excess(subject: Subject, trial: Trial, tensors: Tensors, excess: Excess, evaluate: Evaluate) -> Sighting:
    broken = _broken_invariance(subject, trial, tensors, excess, evaluate)
    kind = "overflow" if trial.data in EXTREME else "invariance_broken" if broken else "unstable_region"
    kind = "nonfinite" if trial.data in NONFINITE else kind
    way = broken if kind == "invariance_broken" else ""
    backward = excess.output.endswith(".grad")
    ratio = f"{excess.ratio:.3g} times what one-ulp changes explain, of which {MOST_CHANGES:.0f} are allowed"
    return Sighting(
        fingerprint=fingerprint(kind, subject.name, trial.dtype, "backward" if backward else "forward", way),
        kind=kind,
        severity="warning",
        subject=subject.name,
        trial=trial,
        output=excess.output,
        phase="backward" if backward else "forward",
        computed=excess.computed,
        exact=excess.exact,
        forward_error=abs(excess.computed - excess.exact),
        error_bound=excess.allowed,
        ratio=excess.ratio,
        message=(
            f"{excess.output} of {subject.name} in {trial.dtype} is {excess.computed:.8g} instead of "
            f"{excess.exact:.8g} on {trial.data} data{_where(trial)}: {ratio}"
            + (f"; it is right {broken}" if broken else "")
        ),
        advice="Evaluate this in float32 or float64, or keep such data away from it.",
        evidence={"right": broken} if broken else {},
    )


def _where(trial: Trial) -> str:
    how = [f"{trial.layout} layout"] if trial.layout != "contiguous" else []
    how += ["compiled"] if trial.compiled else []
    how += [f"{trial.num_threads} threads"] if trial.num_threads != 1 else []
    return f" ({', '.join(how)})" if how else ""


def _broken_invariance(subject: Subject, trial: Trial, tensors: Tensors, excess: Excess, evaluate: Evaluate) -> str:
    """Return in which other way of computing the same the element is right; empty where it never is."""
    ways: dict[str, tuple[Trial, Tensors]] = {}
    if trial.compiled:
        ways["eagerly"] = (replace(trial, compiled=False), tensors)
    if trial.layout != "contiguous":
        ways["contiguously"] = (replace(trial, layout="contiguous"), {n: x.contiguous() for n, x in tensors.items()})
    if trial.num_threads != 1:
        ways["on one thread"] = (replace(trial, num_threads=1), tensors)
    for way, (other, inputs) in ways.items():
        torch.set_num_threads(other.num_threads)
        computed = run_trial(subject, other, inputs)
        torch.set_num_threads(trial.num_threads)
        if excess.output not in {e.output for e in excesses(computed, inputs, evaluate, 2)}:
            return way
    return ""


def _of_equivalent(subject: Subject, trial: Trial, tensors: Tensors, computed: Tensors) -> list[Sighting]:
    """Return a sighting where an equivalent expression gives NaN in other places."""
    if not subject.equivalent:
        return []
    other = run_trial(replace(subject, expression=subject.equivalent), trial, tensors)
    for name, x in computed.items():
        differ = x.isnan() != other[name].isnan()
        if bool(differ.any()):
            message = (
                f"{int(differ.sum())} of {x.numel()} elements of {name} are NaN in only one of {subject.name} and "
                f"{subject.equivalent}, in {trial.dtype} on {trial.data} data"
            )
            return [
                Sighting(
                    fingerprint=fingerprint("invariance_broken", subject.name, trial.dtype, name, "equivalent"),
                    kind="invariance_broken",
                    severity="error",
                    subject=subject.name,
                    trial=trial,
                    output=name,
                    phase="backward" if name.endswith(".grad") else "forward",
                    proof="exact",
                    model="proved",
                    confirmed="exact",
                    message=message,
                    advice="Use the form that stays finite, or make sure that no row is masked as a whole.",
                    evidence={"right": "in its equivalent form"},
                )
            ]
    return []


def red_zone(subject: str, trial: Trial, name: str) -> Sighting:
    """Return that memory around an input was written to."""
    return Sighting(
        fingerprint=fingerprint("corruption", subject, trial.dtype, name),
        kind="corruption",
        severity="error",
        subject=subject,
        trial=trial,
        output=name,
        proof="exact",
        model="proved",
        confirmed="exact",
        message=f"{subject} wrote to memory that {name} does not cover, in {trial.layout} layout",
        advice="Give this call contiguous tensors.",
    )
