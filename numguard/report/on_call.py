"""What the engineer on call asks of a finding, answered in plain words and from its fields alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from numguard.finding import Finding
from numguard.report.quantities import counted, listed, number, percent

#: What each kind says of its operator or place, to be followed by where and since when.
SAYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "wrong_result": "{op} returns wrong results",
        "inaccurate_accumulation": "{op} loses accuracy in the way this build accumulates",
        "overflow": "{op} overflows on the way to a result that fits",
        "nonfinite": "{op} gives the first NaN or infinity",
        "unstable_region": "{module} is numerically unstable, though each operator in it is right",
        "corruption": "{op} was corrupted once: the same call gave two answers",
        "changed_outside_optimizer": "{module} was changed by something else than the optimizer",
        "nondeterminism": "{op} gives another answer each time",
        "invariance_broken": "{op} depends on something that must not matter",
        "lost_updates": "{module} loses parameter updates to rounding",
        "saturation": "{op} saturates its number format",
        "replica_divergence": "replicas that must agree do not",
        "collective_mismatch": "{op} disagrees between ranks",
        "equivalence_broken": "two forms of the same step differ",
        "loss_spike": "the loss spiked",
        "loss_shift": "the loss shifted to another level",
        "loss_drift": "the loss drifts away from its reference",
        "loss_noise": "the noise of the loss changed",
        "loss_plateau": "the loss stopped falling",
        "off_trend": "the loss left its registered trend",
        "hard_batch": "a hard batch raised the loss",
        "loss_scale": "the loss scale collapsed",
        "crash": "{op} crashes",
        "hang": "{op} hangs",
        "out_of_memory": "{op} runs out of memory",
        "degraded": "numguard is not doing all it promised",
    }
)
_HARDWARE: Final = frozenset({"corruption", "replica_divergence", "collective_mismatch"})
_NEVER_REPEATS: Final = frozenset({"corruption", "nondeterminism"})
_ABOUT_NUMGUARD: Final = "degraded"
_OF_THE_RUN: Final = frozenset(
    {"loss_spike", "loss_shift", "loss_drift", "loss_noise", "loss_plateau", "off_trend", "hard_batch", "loss_scale"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What all findings of one cause say together.

    Parameters
    ----------
    ranks, hosts
        Where it was seen.
    num_ranks
        Ranks that took part in the run.
    num_failed, num_checked
        Failed checks and all checks.
    last_clean_step
        The last step at which every place that it reached was still right.
    stop
        Whether the run should stop.
    """

    ranks: tuple[int, ...]
    hosts: tuple[str, ...]
    num_ranks: int
    num_failed: int
    num_checked: int
    last_clean_step: int | None
    stop: bool


def stops(finding: Finding) -> bool:
    """Return whether a run should stop for a finding: for every error, and for nothing softer."""
    return finding.severity == "error"


def operator_name(op: str) -> str:
    """Return the operator as people say it: ``sum`` for ``aten.sum.dim_IntList`` or ``aten::sum.out``."""
    if "::" in op:
        return op.split("::", 1)[1].split(".")[0]
    parts = op.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "aten" else op


def short_operator(op: str) -> str:
    """Return the operator without what all have in common: ``sum.dim_IntList`` for ``aten.sum.dim_IntList``."""
    return op.removeprefix("aten.").removeprefix("aten::").removesuffix(".default")


def where(finding: Finding, scene: Scene) -> str:
    """Return the machine part of a headline: host and device, or on how many ranks."""
    ranks, hosts = scene.ranks, scene.hosts
    if len(ranks) > 1:
        scope = f"all {scene.num_ranks}" if len(ranks) == scene.num_ranks else f"{len(ranks)} of {scene.num_ranks}"
        on_host = f" (host {hosts[0]})" if len(hosts) == 1 else f" on {len(hosts)} hosts" if hosts else ""
        return f"{scope} ranks{on_host}"
    machine = f"host {hosts[0]}" if hosts else "this host"
    details = [finding.device, f"rank {ranks[0]} of {scene.num_ranks}" if scene.num_ranks > 1 else ""]
    shown = ", ".join(filter(None, details))
    return f"{machine} ({shown})" if shown else machine


def headline(finding: Finding, scene: Scene) -> str:
    """Return what is wrong, where, and since when, in one line."""
    names = {"op": operator_name(finding.op) or "an operator", "module": finding.module or "the model"}
    says = SAYS[finding.kind].format_map(names)
    if finding.kind == _ABOUT_NUMGUARD:
        return f"{says}: {finding.message or 'no detail given'}"
    since = "" if finding.first_caught_step is None else f" since step {finding.first_caught_step:,}"
    if finding.kind in _OF_THE_RUN:  # no machine's own: the loss is averaged over all of them
        return f"{says}{since.replace('since', 'at')}"
    return f"{says} on {where(finding, scene)}{since}"


def answers(finding: Finding, scene: Scene) -> tuple[Answer, ...]:
    """Return the questions of the engineer on call with their answers."""
    rows = {
        "Stop or go on?": "Stop. Every later step trains on wrong numbers."
        if scene.stop
        else "Go on. This alone is no reason to stop.",
        "Last clean step": _clean(finding, scene),
        "Which machine?": _blame(finding, scene),
        "Which line?": _line(finding),
        "How often?": f"{counted(scene.num_failed, 'alarm')}."
        if finding.kind in _OF_THE_RUN
        else _frequency(scene.num_failed, scene.num_checked),
        "How far off?": _distance(finding),
        "Does it reproduce?": _reproduces(finding),
        "How sure is this?": _proof(finding),
        "Advice": finding.advice,
    }
    return tuple(Answer(question=question, answer=answer) for question, answer in rows.items() if answer)


def next_steps(finding: Finding, scene: Scene) -> tuple[str, ...]:
    """Return what to do now, in order; only the advice for a finding that is no reason to stop."""
    if not scene.stop:
        return (finding.advice,) if finding.advice else ()
    steps = ["Stop the run."]
    if _points_at_machine(finding, scene):
        machine = f"host {listed(scene.hosts)}" if scene.hosts else f"the host of rank {scene.ranks[0]}"
        steps.append(f"Drain {machine} (device {finding.device}) before anything else runs there.")
    elif finding.op:
        at = f" that {finding.location} calls" if finding.location else ""
        steps.append(
            f"Replace the operator {operator_name(finding.op)}{at}, or the build, driver or kernel below it: "
            "the operator is wrong, not the line."
        )
        if len(scene.ranks) == 1:
            steps.append("Run the same step on another host: it tells a bad device from a bad operator.")
    elif finding.location:
        steps.append(f"Look at {finding.location}.")
    if scene.last_clean_step is not None:
        steps.append(f"Restart from a checkpoint written at step {scene.last_clean_step:,} or before.")
    elif finding.first_caught_step is not None:
        steps.append("Trust no checkpoint of this run: the place was wrong the first time it was checked.")
    if finding.capsule:
        steps.append(f"Repeat the call alone: numguard replay {finding.capsule}")
    return tuple(steps)


def _points_at_machine(finding: Finding, scene: Scene) -> bool:
    return finding.kind in _HARDWARE or (finding.kind == "wrong_result" and _one_rank_stands_out(scene))


def _one_rank_stands_out(scene: Scene) -> bool:
    """Return whether failures on one rank only are too many for chance.

    A fault of the software strikes each of R ranks alike, so that n failures all fall on the rank of the first one with
    probability R^-(n - 1); below 1 % the rank itself is the better explanation.
    """
    if scene.num_ranks < 2 or len(scene.ranks) != 1:
        return False
    return (scene.num_failed - 1) * math.log(scene.num_ranks) > math.log(100)


def _clean(finding: Finding, scene: Scene) -> str:
    if finding.first_caught_step is None:
        return ""
    caught = f"First caught in step {finding.first_caught_step:,}."
    if scene.last_clean_step is None:
        never = "" if finding.kind in _OF_THE_RUN else "None known: the place was never seen right. "
        return f"{never}{caught}"
    restart = " Restart from a checkpoint written then or before." if scene.stop else ""
    return f"Step {scene.last_clean_step:,}.{restart} {caught}"


def _blame(finding: Finding, scene: Scene) -> str:
    if finding.kind == _ABOUT_NUMGUARD or finding.kind in _OF_THE_RUN:
        return ""
    place = where(finding, scene)
    if finding.kind in _HARDWARE:
        return f"Hardware first: {place}."
    if finding.kind != "wrong_result":
        return f"Seen on {place}."
    if _one_rank_stands_out(scene):
        return (
            f"Seen on {place} only, {scene.num_failed:,} times, which points to its device: drain it first, then look "
            "at the operator."
        )
    if len(scene.ranks) > 1:
        return f"Seen on {place}. More than one rank points to software: the operator, the build or the driver."
    return f"Seen on {place}. That is not enough to tell hardware from software: run the same step on another host."


def _line(finding: Finding) -> str:
    parts = [finding.location or "", f"in {finding.module}" if finding.module else "", finding.phase]
    call = f"calls {finding.op}" if finding.op else ""
    return ", ".join(part for part in (*parts, call) if part)


def _frequency(num_failed: int, num_checked: int) -> str:
    if num_checked <= 0:
        return counted(num_failed, "time")
    verb = "check" if num_checked == 1 else "checks"
    return f"{num_failed:,} of {num_checked:,} {verb} of this place failed ({percent(num_failed / num_checked)})."


def _distance(finding: Finding) -> str:
    if finding.forward_error is None and finding.ratio is None:
        return ""
    times = f" ({number(finding.ratio)} times the bound)" if finding.ratio is not None else ""
    return f"Error {number(finding.forward_error)} where {number(finding.error_bound)} is allowed{times}."


def _reproduces(finding: Finding) -> str:
    if finding.kind == _ABOUT_NUMGUARD:
        return ""
    if finding.kind in _NEVER_REPEATS:
        return "No. The same call on the same inputs gave different answers."
    return {
        "re-executed": "Yes. The call was repeated on the same inputs and was wrong again.",
        "second-shadow": "Not repeated. Two independent recomputations agree that it is wrong.",
        "exact": "Not repeated; an exact rule needs no second run.",
        "no": "Unknown. The inputs were gone before it could be repeated." if finding.op else "",
    }[finding.confirmed]


def _proof(finding: Finding) -> str:
    if finding.proof == "exact":
        return "Certain: an exact rule is broken."
    if finding.proof == "bound":
        model = {
            "proved": "proved for any order of additions",
            "calibrated": "for the accumulation that this build was observed to use",
            "assumed": "which assumes how this device accumulates",
            "none": "",
        }[finding.model]
        return f"Outside the rounding bound of a correct implementation{', ' + model if model else ''}."
    return "No proof: a hint to look, not a fact."
