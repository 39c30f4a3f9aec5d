"""From observations to findings: one for each defect, root causes before their symptoms, accepted ones counted."""

import itertools
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from numguard.finding import KINDS, Finding, Severity, fingerprint
from numguard.interception.observation import Observation
from numguard.ranks import Rank
from numguard.session.wording import advice_for, message_for

# What a wrong number can lead to. A later finding of one of these kinds carries the earlier error as its cause.
_SYMPTOMS: Final = frozenset(
    {
        "nonfinite",
        "unstable_region",
        "loss_spike",
        "loss_shift",
        "loss_drift",
        "loss_noise",
        "off_trend",
        "replica_divergence",
    }
)
_MOST_ADOPTED: Final = 100  # findings of one fingerprint that are kept apart by their steps; more are only counted
_MAX_SITES: Final = 24  # listed in the evidence of a finding that many sites share


@dataclass(slots=True)
class _Case:
    finding: Finding
    order: int
    written_count: int = 0


class Casebook:
    """Keeps the findings of one run.

    Parameters
    ----------
    rank
        Who found them.
    accepted
        Fingerprints with the reason for which they are accepted: counted, not reported.
    """

    def __init__(self, rank: Rank, accepted: Mapping[str, str]) -> None:
        self._rank, self._accepted = rank, accepted
        self._cases: dict[tuple[object, ...], _Case] = {}
        self._numbers = itertools.count(1)
        self._run = uuid.uuid4().hex[:6]
        self.num_accepted: Counter[str] = Counter()
        self._num_adopted: Counter[str] = Counter()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every finding, root causes first, in the order of the data flow."""
        cases = sorted(
            self._cases.values(), key=lambda case: (case.finding.cause is not None, _first(case.finding), case.order)
        )
        return tuple(case.finding for case in cases)

    def observe(self, observation: Observation) -> tuple[Finding, bool] | None:
        """Enter an observation; return its finding and whether it is new, or None where it is accepted."""
        site, kind = observation.site, observation.kind
        shared = kind in ("inaccurate_accumulation", "overflow")
        place = () if shared else (site.origin.module, site.origin.location, site.origin.phase)
        print_parts = (kind, site.op, site.dtype, observation.output.split("[")[0])
        name = fingerprint(*print_parts, *(() if shared else (site.origin.module,)))
        if self._is_accepted(name):
            return None
        key = (*print_parts, *place)
        site.num_failed += 1
        case = self._cases.get(key)
        if case is not None:
            case.finding = _again(case.finding, observation)
            return case.finding, False
        finding = self._finding(observation, name)
        self._cases[key] = _Case(finding, observation.order)
        return finding, True

    def _finding(self, observation: Observation, name: str) -> Finding:
        site, verdict = observation.site, observation.verdict
        severity: Severity = KINDS[observation.kind]
        if severity == "error" and (observation.model == "assumed" or observation.confirmed == "no"):
            severity = "warning"
        strict = observation.kind == "inaccurate_accumulation"
        return Finding(
            id=f"{self._run}-{self._rank.rank}-{next(self._numbers)}",
            fingerprint=name,
            kind=observation.kind,
            severity=severity,
            proof=observation.proof,
            model=observation.model,
            first_caught_step=observation.step,
            last_clean_step=site.last_clean_step,
            count=1,
            checked=max(1, site.num_checked + 1),
            rank=self._rank.rank,
            host=self._rank.host,
            device=self._rank.device,
            phase=site.origin.phase,
            op=site.op,
            module=site.origin.module,
            location=site.origin.location,
            forward_error=abs(verdict.worst_computed - verdict.worst_exact),
            error_bound=verdict.worst_strict_bound if strict else verdict.worst_bound,
            ratio=verdict.worst_strict_ratio if strict else verdict.worst_ratio,
            message=message_for(observation),
            advice=advice_for(observation, self._rank),
            evidence=_evidence(observation, self._rank),
            cause=self._cause(observation.kind, site.op, observation.step),
            confirmed=observation.confirmed,
        )

    def add(self, kind: str, key: tuple[object, ...], **fields: Any) -> tuple[Finding, bool] | None:
        """Enter a finding that no check of a call made: ``nonfinite``, ``degraded``, ``lost_updates``.

        Parameters
        ----------
        key
            What identifies it within the run; a second one with the same key only counts.
        **fields
            Fields of :class:`~numguard.finding.Finding`.
        """
        name = fingerprint(kind, *key)
        if self._is_accepted(name):
            return None
        case = self._cases.get((kind, *key))
        if case is not None:
            case.finding = replace(case.finding, count=case.finding.count + 1)
            return case.finding, False
        finding = Finding(
            id=f"{self._run}-{self._rank.rank}-{next(self._numbers)}",
            fingerprint=name,
            kind=kind,
            severity=KINDS[kind],
            rank=self._rank.rank,
            host=self._rank.host,
            device=self._rank.device,
            cause=self._cause(kind, str(fields.get("op", "")), fields.get("first_caught_step")),
            **fields,
        )
        self._cases[(kind, *key)] = _Case(finding, 1 << 60)
        return finding, True

    def adopt(self, finding: Finding) -> tuple[Finding, bool] | None:
        """Enter a finding that a detector made of the run as a whole: one for each step at which it alarmed."""
        name = finding.fingerprint
        if self._is_accepted(name):
            return None
        self._num_adopted[name] += 1
        if self._num_adopted[name] > _MOST_ADOPTED:
            case = self._cases[name, _MOST_ADOPTED]
            case.finding = replace(case.finding, count=case.finding.count + 1)
            return case.finding, False
        own = replace(
            finding,
            id=f"{self._run}-{self._rank.rank}-{next(self._numbers)}",
            rank=self._rank.rank,
            host=self._rank.host,
            device=self._rank.device,
            cause=self._cause(finding.kind, "", finding.first_caught_step),
        )
        self._cases[name, self._num_adopted[name]] = _Case(own, 1 << 60)
        return own, True

    def keep(self, finding: Finding, capsule: str) -> Finding:
        """Note where the inputs of a finding's call are kept, and return the finding with that."""
        for case in self._cases.values():
            if case.finding.id == finding.id:
                case.finding = replace(case.finding, capsule=capsule)
                return case.finding
        return finding

    def _is_accepted(self, name: str) -> bool:
        if name in self._accepted:
            self.num_accepted[name] += 1
            return True
        return False

    def _cause(self, kind: str, op: str, step: int | None) -> str | None:
        """Return the root that explains a new finding: the same operator wrong elsewhere, or any earlier error."""
        errors = [case for case in self._cases.values() if case.finding.severity == "error"]
        if KINDS[kind] == "error":
            errors = [case for case in errors if _kernel(case.finding.op) == _kernel(op)]
        elif kind not in _SYMPTOMS:
            return None
        errors = [case for case in errors if step is None or _first(case.finding) <= step]
        if not errors:
            return None
        root = min(errors, key=lambda case: (_first(case.finding), case.order)).finding
        return root.cause or root.id

    def unwritten(self) -> list[Finding]:
        """Return the findings whose count has doubled since they were last asked for, new ones included."""
        due = [case for case in self._cases.values() if case.finding.count >= max(1, 2 * case.written_count)]
        for case in due:
            case.written_count = case.finding.count
        return [case.finding for case in due]

    def unwritten_at_end(self) -> list[Finding]:
        """Return the findings whose last count has not been asked for."""
        due = [case for case in self._cases.values() if case.finding.count != case.written_count]
        for case in due:
            case.written_count = case.finding.count
        return [case.finding for case in due]


def _kernel(op: str) -> str:
    """Return the operator without its overload: ``sum`` and ``sum.dim_IntList`` share their kernels."""
    return op.partition(".")[0]


def _first(finding: Finding) -> int:
    return -1 if finding.first_caught_step is None else finding.first_caught_step


def _evidence(observation: Observation, rank: Rank) -> dict[str, Any]:
    verdict = observation.verdict
    evidence = dict(observation.evidence)
    evidence |= {
        "check": observation.check,
        "output": observation.output,
        "dtype": observation.site.dtype,
        "num_elements": int(verdict.num_elements),
        "num_wrong": int(verdict.num_wrong),
        "worst_index": int(verdict.worst_index),
        "computed": verdict.worst_computed,
        "exact": verdict.worst_exact,
        "sites": [_site_name(observation)],
    }
    if rank.device_uuid:
        evidence["device_uuid"] = rank.device_uuid
    return evidence


def _site_name(observation: Observation) -> str:
    origin = observation.site.origin
    return " ".join(part for part in (origin.phase, origin.module, origin.location or "") if part)


def _again(finding: Finding, observation: Observation) -> Finding:
    """Return the finding with one more failed check; the worst case so far stays its figures."""
    site, verdict = observation.site, observation.verdict
    strict = observation.kind == "inaccurate_accumulation"
    ratio = verdict.worst_strict_ratio if strict else verdict.worst_ratio
    changes: dict[str, Any] = {"count": finding.count + 1, "checked": max(finding.checked, site.num_checked + 1)}
    sites = list(finding.evidence.get("sites", []))
    name = _site_name(observation)
    if name not in sites and len(sites) < _MAX_SITES:
        changes["evidence"] = dict(finding.evidence) | {"sites": [*sites, name]}
    if finding.ratio is None or ratio > finding.ratio:
        changes |= {
            "ratio": ratio,
            "forward_error": abs(verdict.worst_computed - verdict.worst_exact),
            "error_bound": verdict.worst_strict_bound if strict else verdict.worst_bound,
            "message": message_for(observation),
        }
    return replace(finding, **changes)
