"""What an audit says: as an object, as JSON, as a baseline, and merged over many hosts."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from numguard.errors import InputError
from numguard.finding import KINDS, Finding
from numguard.records.atomic_file import write_atomically
from numguard.records.lines import as_plain

SCHEMA: Final = 1
_LINES: Final = ("operators_judged", "operators_missed", "accumulations", "not_covered")
_MOST_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditReport:
    """The result of :func:`numguard.audit`.

    Parameters
    ----------
    torch
        Version that was examined.
    device, level
        As asked for.
    host, machine
        Which machine, and what its vector units are.
    num_threads
        Child processes.
    seconds
        What it took.
    num_trials, num_left_out
        Trials that were run, and that the time did not suffice for.
    findings
        What is wrong and neither known nor accepted; each with its reproducer in ``evidence["reproducer"]``.
    accepted
        Fingerprints that were seen and are known or accepted, with the reason.
    operators_judged, operators_missed
        Operators whose check looked at a call, and checked ones that no trial reached.
    accumulations
        How sums of this build were observed to be formed, a sentence for each operator, dtype and layout.
    not_covered
        What could not be examined, with the reason.
    """

    torch: str
    device: str
    level: str
    host: str = ""
    machine: str = ""
    num_threads: int = 1
    seconds: float = 0.0
    num_trials: int = 0
    num_left_out: int = 0
    findings: tuple[Finding, ...] = ()
    accepted: Mapping[str, str] = field(default_factory=dict)
    operators_judged: tuple[str, ...] = ()
    operators_missed: tuple[str, ...] = ()
    accumulations: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing new is wrong."""
        return not self.findings

    def json(self) -> str:
        """Return strict JSON."""
        content = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        content["findings"] = [
            {entry.name: getattr(finding, entry.name) for entry in fields(finding)} for finding in self.findings
        ]
        return json.dumps({"schema": SCHEMA, **as_plain(content)}, allow_nan=False, indent=1)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON, whole or not at all."""
        write_atomically(Path(path), self.json().encode() + b"\n", mode=0o644, durable=False)

    def write_baseline(self, path: str | os.PathLike[str]) -> None:
        """Write the fingerprints of the findings as a TOML file of accepted ones."""
        write_atomically(Path(path), baseline_of(self).encode(), mode=0o644, durable=False)

    def write_reproducers(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write one script for each finding that has one, and return their paths."""
        directory = Path(folder)
        directory.mkdir(parents=True, exist_ok=True)
        written = []
        for finding in self.findings:
            script = finding.evidence.get("reproducer")
            if script:
                path = directory / f"{finding.kind}_{finding.fingerprint}.py"
                write_atomically(path, str(script).encode(), mode=0o644, durable=False)
                written.append(path)
        return written


def baseline_of(report: AuditReport) -> str:
    """Return accepted fingerprints as TOML, one table for each finding."""
    lines = [f"# What numguard audit --level {report.level} found in torch {report.torch} on {report.device}."]
    for finding in report.findings:
        lines += ["", "[[accepted]]", f"fingerprint = {json.dumps(finding.fingerprint)}"]
        lines += [f"kind = {json.dumps(finding.kind)}", f"op = {json.dumps(finding.op)}"]
        lines += [f"reason = {json.dumps(finding.message[:300], ensure_ascii=True)}"]
    lines += [
        f"\n[[accepted]]\nfingerprint = {json.dumps(name)}\nreason = {json.dumps(reason[:300])}"
        for name, reason in report.accepted.items()
    ]
    if len(lines) == 1:
        lines.append("accepted = []")
    return "\n".join(lines) + "\n"


def read_report(path: str | os.PathLike[str]) -> AuditReport:
    """Return the report in a JSON file.

    Raises
    ------
    InputError
        If there is none, or it is not one.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except OSError as failure:
        raise InputError(path, "", failure.strerror or str(failure)) from None
    if len(raw) > _MOST_BYTES:
        raise InputError(path, "", f"longer than {_MOST_BYTES} bytes")
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as failure:
        raise InputError(path, "", f"not JSON ({str(failure)[:80]})") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InputError(path, "schema", f"is not a report of numguard audit of schema {SCHEMA}")
    return _report(path, content)


def _report(path: object, content: Mapping[str, Any]) -> AuditReport:
    names = {entry.name for entry in fields(AuditReport)}
    known = {entry.name for entry in fields(Finding)}
    try:
        findings = tuple(Finding(**{n: v for n, v in plain.items() if n in known}) for plain in content["findings"])
        values = {name: content[name] for name in names if name in content}
        tuples: dict[str, Any] = {name: tuple(map(str, values[name])) for name in _LINES if name in values}
        everything: dict[str, Any] = {**values, **tuples, "findings": findings}
        report = AuditReport(**everything)
    except (KeyError, TypeError, AttributeError) as failure:
        raise InputError(path, "findings", f"is not a report of numguard audit ({str(failure)[:80]})") from None
    wrong = [finding.kind for finding in findings if finding.kind not in KINDS]
    if wrong or not isinstance(report.accepted, dict):
        raise InputError(path, "findings", f"has a finding of the unknown kind {str(wrong[:1])[:60]}")
    return report


def merged(reports: Iterable[AuditReport]) -> AuditReport:
    """Return one report for many hosts: a finding names the hosts that have it.

    Raises
    ------
    InputError
        If there is no report.
    """
    every = list(reports)
    if not every:
        raise InputError("", "", "there is no report to merge")
    hosts: dict[str, list[str]] = {}
    first: dict[str, Finding] = {}
    for report in every:
        for finding in report.findings:
            hosts.setdefault(finding.fingerprint, []).append(report.host or finding.host)
            known = first.setdefault(finding.fingerprint, finding)
            if finding.evidence.get("reproducer") and not known.evidence.get("reproducer"):
                first[finding.fingerprint] = finding
    findings = tuple(
        replace(
            finding,
            host=", ".join(sorted(set(hosts[name]))[:8]),
            evidence={**finding.evidence, "hosts": sorted(set(hosts[name])), "num_hosts": len(every)},
        )
        for name, finding in first.items()
    )
    return replace(
        every[0],
        host=f"{len(every)} hosts",
        seconds=max(report.seconds for report in every),
        num_trials=sum(report.num_trials for report in every),
        num_left_out=sum(report.num_left_out for report in every),
        findings=findings,
        accepted={name: reason for report in every for name, reason in report.accepted.items()},
        not_covered=tuple(dict.fromkeys(line for report in every for line in report.not_covered)),
    )
