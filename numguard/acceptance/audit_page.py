"""The audit's report as one HTML file that runs no script and asks the network for nothing."""

import os
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, Final

from numguard.acceptance.audit_report import AuditReport
from numguard.finding import Finding
from numguard.records.atomic_file import write_atomically

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #1b1b1b }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3rem .6rem; vertical-align: top }
th { border-bottom: 2px solid #888 } td { border-bottom: 1px solid #ddd; overflow-wrap: anywhere }
.n { text-align: right; font-variant-numeric: tabular-nums } .error { color: #a00; font-weight: 600 }
pre { background: #f4f4f4; padding: .7rem; overflow-x: auto; font-size: 13px } summary { cursor: pointer }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #ddd } pre { background: #22252b } }
"""


def page_of(report: AuditReport) -> str:
    """Return the page as text; everything that comes from the report is escaped."""
    judged, missed = len(report.operators_judged), len(report.operators_missed)
    head = (
        f"<p>torch {_text(report.torch)}, {_text(report.device)}, level {_text(report.level)}, "
        f"{_text(report.machine)}, {_text(report.host)}: <b>{len(report.findings)} new findings</b>, "
        f"{len(report.accepted)} known or accepted; {report.num_trials} trials in {report.seconds:.0f} s, "
        f"{report.num_left_out} left out for time; {judged} operators judged by their checks.</p>"
    )
    names = ("kind", "operator or call", "dtype", "phase", "computed", "exact", "error / bound", "trials")
    header = "".join(f"<th>{name}</th>" for name in names)
    rows = "".join(_row(finding) for finding in report.findings)
    table = f"<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>" if rows else "<p>Nothing new.</p>"
    parts = [
        ("What is new", table),
        ("Known or accepted", _list(f"{name}: {reason}" for name, reason in report.accepted.items())),
        ("How this build adds", _list(report.accumulations)),
        ("Not covered", _list(report.not_covered)),
        (f"Checked operators that no trial reached ({missed})", _list(report.operators_missed)),
    ]
    body = "".join(f"<h2>{_text(title)}</h2>{content}" for title, content in parts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>numguard audit</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><style>{_STYLE}</style></head>'
        f"<body><h1>numguard audit</h1>{head}{body}</body></html>\n"
    )


def write_page(report: AuditReport, path: str | os.PathLike[str]) -> None:
    """Write the page, whole or not at all."""
    write_atomically(Path(path), page_of(report).encode("utf-8", "replace"), mode=0o644, durable=False)


def _row(finding: Finding) -> str:
    evidence = finding.evidence
    trial = evidence.get("trial")
    dtype = trial.get("dtype", "") if isinstance(trial, dict) else ""
    cells = [
        f'<td class="{_text(finding.severity)}">{_text(finding.kind)}</td>',
        f"<td>{_text(finding.op or finding.module)}</td><td>{_text(dtype)}</td><td>{_text(finding.phase)}</td>",
        *(f'<td class="n">{_figure(v)}</td>' for v in (evidence.get("computed"), evidence.get("exact"), finding.ratio)),
        f'<td class="n">{finding.count}</td>',
    ]
    script = evidence.get("reproducer")
    code = f"<details><summary>reproducer</summary><pre>{_text(script)}</pre></details>" if script else ""
    return f'<tr>{"".join(cells)}</tr><tr><td colspan="8">{_text(finding.message)}{code}</td></tr>'


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else "<p>None.</p>"


def _figure(value: Any) -> str:
    try:
        return f"{float(value):.6g}"
    except (TypeError, ValueError):
        return "-"


def _text(value: object) -> str:
    return escape(str(value))
