"""The one record that every room passes on: what was found, where, and how sure we are."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

Severity = Literal["error", "warning", "notice"]
Proof = Literal["bound", "exact", "none"]
Model = Literal["proved", "calibrated", "assumed", "none"]
Confirmation = Literal["re-executed", "second-shadow", "exact", "no"]

#: Every kind of finding with the severity it carries when its proof is complete.
KINDS: Final[Mapping[str, Severity]] = MappingProxyType(
    {
        "wrong_result": "error",
        "inaccurate_accumulation": "warning",
        "overflow": "warning",
        "nonfinite": "warning",
        "unstable_region": "warning",
        "corruption": "error",
        "changed_outside_optimizer": "notice",
        "nondeterminism": "warning",
        "invariance_broken": "error",
        "lost_updates": "warning",
        "saturation": "warning",
        "replica_divergence": "error",
        "collective_mismatch": "error",
        "equivalence_broken": "error",
        "loss_spike": "warning",
        "loss_shift": "warning",
        "loss_drift": "warning",
        "loss_noise": "warning",
        "loss_plateau": "warning",
        "off_trend": "warning",
        "hard_batch": "notice",
        "loss_scale": "notice",
        "crash": "error",
        "hang": "error",
        "out_of_memory": "error",
        "degraded": "warning",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong, with its proof.

    Parameters
    ----------
    id
        Names this finding within one run.
    fingerprint
        The same for the same defect in every run; what an ``accept=`` file lists.
    kind
        One of :data:`KINDS`; kinds are disjoint.
    severity
        ``"error"`` only where ``proof`` is ``"bound"`` or ``"exact"`` and ``confirmed`` is not ``"no"``.
    proof
        ``"bound"``: outside the rounding bound of a correct implementation. ``"exact"``: an exact
        invariant is broken. ``"none"``: a warning or a notice.
    model
        What the bound assumes of the implementation: ``"proved"`` for any order of additions in the stated
        precision, ``"calibrated"`` for what this build was observed to do, ``"assumed"`` otherwise.
    first_caught_step, last_clean_step
        Step of the first failed check; last earlier step at which the same site was checked and passed.
    count, checked
        Failed checks and all checks of this site so far.
    rank, host, device
        Where it happened: a rank may move on a restart, a node must be drained.
    phase
        ``"forward"``, ``"backward"`` or ``"optimizer"``.
    op
        The operator with its overload, as ``aten::sum.dim_IntList``; empty where it could not be told.
    module
        Qualified name in the guarded model, else a class name, else empty.
    location
        ``file:line`` of the user's code, or None where it could not be told.
    forward_error, error_bound, ratio
        Absolute error of the worst element, the bound it had to meet, and their quotient.
    message, advice
        What is wrong, with the figures that prove it, and what to do about it.
    evidence
        Plain JSON values: shapes, dtypes, worst index, computed and exact value, condition number, flags.
    cause
        ``id`` of the finding that this one is a symptom of.
    confirmed
        How the suspicion was confirmed before it was reported.
    capsule
        File that replays the call, where one was asked for.
    """

    id: str
    fingerprint: str
    kind: str
    severity: Severity
    proof: Proof = "none"
    model: Model = "none"
    first_caught_step: int | None = None
    last_clean_step: int | None = None
    count: int = 1
    checked: int = 1
    rank: int = 0
    host: str = ""
    device: str = "cpu"
    phase: str = ""
    op: str = ""
    module: str = ""
    location: str | None = None
    forward_error: float | None = None
    error_bound: float | None = None
    ratio: float | None = None
    message: str = ""
    advice: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    cause: str | None = None
    confirmed: Confirmation = "no"
    capsule: str | None = None

    def __str__(self) -> str:
        return f"{self.severity}: {self.kind}: {self.message}"


def fingerprint(*parts: object) -> str:
    """Return the 12-digit name that the same defect has in every run.

    Parameters
    ----------
    *parts
        What identifies the defect: kind, op, dtype, module, file and function. Never values or steps.
    """
    text = "\x1f".join("" if part is None else str(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
