"""Which of the catalogued defects of PyTorch the audit finds by itself.

The audit knows nothing of the catalogue: this file reads what it found, and maps findings to entries afterwards.

    python -m benchmarks.campaigns.audit_catalogue --run REPORTS        # audits family by family into REPORTS
    python -m benchmarks.campaigns.audit_catalogue REPORTS [--catalogue FILE] [--document FILE] [--known FILE]
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from numguard.acceptance import AuditReport, audit, merged, read_report
from numguard.acceptance.audit_report import baseline_of
from numguard.finding import Finding

CATALOGUE: Final = Path(__file__).parents[3] / "shared" / "bugs" / "catalogue.json"
#: Level, family, part, what the call must contain, and seconds: a program each, so that a campaign can be gone on with.
RUNS: Final = (
    ("quick", "", "", "", 60.0),
    ("quick", "normalisation", "", "", 90.0),
    ("quick", "reductions", "", "", 110.0),
    ("quick", "scatters", "", "", 90.0),
    ("quick", "losses", "", "", 80.0),
    ("full", "collectives", "", "", 80.0),
    ("full", "reductions", "compiled", r"x\.var\(dim=1\)", 70.0),
    ("full", "reductions", "large", r"vector_norm\(x\)|clip|total_norm", 100.0),
    ("full", "exponentials", "large", r"\.softmax", 150.0),
    ("full", "scatters", "large", "", 150.0),
    ("quick", "contractions", "", "", 60.0),
    ("full", "pipelines", "compiled", "", 170.0),
    ("quick", "optimizers", "", "", 45.0),
    ("full", "examples", "", "", 50.0),
    ("quick", "exponentials", "", "", 30.0),
    ("quick", "pooling", "", "", 40.0),
    ("quick", "activations", "", "", 30.0),
    ("quick", "elementwise", "", "", 60.0),
)
Test = Callable[[Finding], bool]


def _about(finding: Finding) -> str:
    return f"{finding.op} {finding.module} {' '.join(finding.evidence.get('calls', []))}"


def _trial(finding: Finding) -> dict[str, Any]:
    return dict(finding.evidence.get("trial") or {})


def _largest(finding: Finding) -> int:
    total = 1
    for _, size in _trial(finding).get("sizes", []):
        total *= size
    return total


def _is(pattern: str, **wanted: Any) -> Test:
    """Return a test for operator or call, and for fields of the finding or its trial; ``least`` is a size."""

    def test(finding: Finding) -> bool:
        trial = _trial(finding)
        for name, value in wanted.items():
            values = value if isinstance(value, tuple) else (value,)
            if name == "least":
                if _largest(finding) < value:
                    return False
            elif name in trial:
                if trial[name] not in values:
                    return False
            elif getattr(finding, name) not in values:
                return False
        return re.search(pattern, _about(finding)) is not None

    return test


_HALF: Final = ("bfloat16", "float16")
_SMALLER: Final = ("inaccurate_accumulation", "unstable_region", "invariance_broken", "wrong_result")

#: What counts as having found an entry: the right operator, dtype, layout, phase or size, and a kind that fits.
MAPPING: Final[dict[str, Test]] = {
    "L01": _is(r"vector_norm|\.norm\(", dtype="float32", kind=_SMALLER, data=("ones", "positive"), least=1 << 20),
    "L02": _is(r"clip_grad_norm_|get_total_norm", dtype="float32", kind=_SMALLER, least=1 << 20),
    "L03": _is(r"vector_norm|clip_grad_norm_|get_total_norm|x\.norm", kind="overflow", data=("huge", "huge_signed")),
    "L04": _is(r"embedding_dense_backward|F\.embedding\(", dtype=_HALF, phase="backward", kind=_SMALLER),
    "L06": _is(r"x\[i\]|take|unfold|embedding_bag|index_put|put_", dtype=_HALF, phase="backward", kind=_SMALLER),
    "L07": _is(r"layer_norm", dtype=_HALF, phase="backward", kind=_SMALLER, data=("ones", "near_one", "normal")),
    "L08": _is(r"group_norm", layout="channels_last", kind=_SMALLER, phase="forward"),
    "L09": _is(r"group_norm", layout="channels_last", kind="crash"),
    "L11": lambda finding: (
        "layer_norm" in finding.module
        and ["c", 1] in [list(size) for size in _trial(finding).get("sizes", [])]
        and finding.kind in _SMALLER
    ),
    "L12": _is(r"(layer|group|batch|rms|instance)_norm", kind="overflow", data=("huge", "huge_signed")),
    "L14": _is(r"segment_reduce", kind=_SMALLER),
    "L16": _is(r"softmax\(0\)", dtype="float32", kind=_SMALLER, least=1 << 24),
    "L18": _is(
        r"scatter_add|index_add|bincount|embedding|index_put|gather|x\[i\]",
        dtype="float32",
        kind=_SMALLER,
        least=1 << 24,
    ),
    "L19": _is(r"prod\(", dtype="bfloat16", kind=_SMALLER, data=("near_one", "normal", "ones")),
    "L20": lambda finding: (
        _is(r"F\.cross_entropy|nll_loss", dtype=_HALF, phase="forward", kind=_SMALLER)(finding)
        and (not finding.op or "nll_loss" in finding.op)
    ),
    "L23": _is(r"pad\(", compiled=True, kind=("crash", "wrong_result", "invariance_broken", "corruption")),
    "L25": _is(r"addcdiv", compiled=True, kind=_SMALLER),
    "L27": _is(r"x\.var\(|x\.std\(", compiled=True, dtype="float32", kind=_SMALLER, data=("far", "shifted")),
    "L29": lambda finding: finding.kind == "collective_mismatch" and bool(finding.evidence.get("same_layout")),
    "L30": lambda finding: finding.kind == "collective_mismatch" and finding.evidence.get("same_layout") is False,
    "L37": _is(r"multi_head_attention", kind="invariance_broken", proof="exact"),
    "L48": _is(r"dropout", compiled=True),
    "L51": _is(r"vector_norm", dtype="bfloat16", kind=_SMALLER, least=1 << 31),
}


def found_in(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Return the findings that show each entry of :data:`MAPPING`."""
    every = list(findings)
    return {name: [finding for finding in every if test(finding)] for name, test in MAPPING.items()}


def _reproduces(findings: list[Finding]) -> Finding | None:
    return next((finding for finding in findings if finding.evidence.get("reproducer_fails")), None)


def _table(found: dict[str, list[Finding]], titles: dict[str, str]) -> str:
    lines = ["| entry | what | found as | computed | exact | reproducer |", "|---|---|---|---|---|---|"]
    for name, title in titles.items():
        findings = found.get(name, [])
        best = _reproduces(findings) or (findings[0] if findings else None)
        if best is None:
            lines.append(f"| {name} | {title} | not found | | | |")
            continue
        evidence = best.evidence
        script = "fails alone" if evidence.get("reproducer_fails") else "none"
        script += ", passes when right" if evidence.get("reproducer_passes_when_right") else ""
        figures = [
            f"{value:.8g}" if isinstance(value, float) else "" for value in (evidence["computed"], evidence["exact"])
        ]
        where = (best.op or best.module).replace("|", "\\|")
        lines.append(f"| {name} | {title} | `{best.kind}` of `{where}` | {figures[0]} | {figures[1]} | {script} |")
    return "\n".join(lines)


def titles_of(catalogue: Path) -> dict[str, str]:
    """Return the titles of the defects in a catalogue by the first part of their ids."""
    entries = json.loads(catalogue.read_text(encoding="utf-8"))
    entries = entries if isinstance(entries, list) else entries["entries"]
    return {e["id"].partition("-")[0]: e["title"].replace("|", "\\|") for e in entries if e["kind"] == "defect"}


def _every_finding(report: AuditReport) -> str:
    lines = ["| kind | operator or call | dtype | data, layout | computed | exact | error / bound | reproducer |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for finding in report.findings:
        evidence, trial = finding.evidence, _trial(finding)
        ratio = "" if finding.ratio is None else f"{float(finding.ratio):.3g}"
        figures = [evidence.get("computed"), evidence.get("exact")]
        shown = ["" if value is None else f"{float(value):.8g}" for value in figures]
        where = (finding.op or finding.module).replace("|", "\\|")
        data = f"{trial.get('data', '')}, {trial.get('layout', '')}" + (", compiled" if trial.get("compiled") else "")
        script = "fails alone" if evidence.get("reproducer_fails") else ""
        kind = f"**{finding.kind}**" if finding.severity == "error" else finding.kind
        cells = [kind, f"`{where}`", trial.get("dtype", ""), data, *shown, ratio, script]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _gaps(report: AuditReport) -> str:
    judged, missed = len(report.operators_judged), len(report.operators_missed)
    names = ", ".join(f"`{name}`" for name in report.operators_missed)
    lines = [f"- {line}" for line in report.not_covered]
    lines.append(
        f"- {judged} operators were judged by their checks; {missed} that have one were reached by no trial: {names}"
    )
    return "\n".join(lines)


def _document(report: AuditReport, table: str, summary: str) -> str:
    errors = sum(finding.severity == "error" for finding in report.findings)
    adds = "\n".join(f"- {line}" for line in report.accumulations)
    return (
        f"# What the audit finds in torch {report.torch}\n\n"
        "Generated by `python -m benchmarks.campaigns.audit_catalogue REPORTS --run --document FILE`; do not edit.\n\n"
        f"{report.num_trials} trials on {report.machine}: {len(report.findings)} findings, {errors} of them errors. "
        "An error is outside the bound of a correct implementation, or breaks an exact invariant. A warning is an "
        "accumulation coarser than documented, an intermediate that overflowed, or an error above eight times what "
        "one-ulp changes of the inputs explain.\n\n"
        f"## Against the catalogue of known defects\n\n{table}\n\n{summary}\n\n"
        f"## Every finding\n\nErrors are in bold.\n\n{_every_finding(report)}\n\n"
        f"## What was not examined\n\n{_gaps(report)}\n\n## How this build adds\n\n{adds}\n"
    )


def _run(folder: Path) -> None:
    """Audit family by family, each in a program of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for level, family, part, only, seconds in RUNS:
        target = folder / f"{level}-{family or 'all'}-{part or 'all'}.json"
        if not target.exists():
            command = [sys.executable, "-m", __spec__.name, str(target), "--one", level, family, part, only]
            subprocess.run([*command, "--seconds", str(seconds)], check=True)


def main() -> None:
    """Run or read, map, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path)
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE)
    parser.add_argument("--document", type=Path)
    parser.add_argument("--known", type=Path)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--one", nargs=4)
    parser.add_argument("--seconds", type=float)
    asked = parser.parse_args()
    if asked.one:
        level, family, part, only = asked.one
        report: AuditReport = audit(
            level=level,
            families=[family] if family else None,
            parts=[part] if part else None,
            only=only or None,
            known=False,
            seconds=asked.seconds,
        )
        report.write(asked.reports)
        report.write_reproducers(asked.reports.with_suffix(""))
        return
    if asked.run:
        _run(asked.reports)
    reports = [read_report(path) for path in sorted(asked.reports.glob("*.json"))]
    findings = [finding for report in reports for finding in report.findings]
    found, titles = found_in(findings), titles_of(asked.catalogue)
    num_found = sum(bool(found.get(name)) for name in titles)
    num_reproduced = sum(_reproduces(found.get(name, [])) is not None for name in titles)
    table = _table(found, titles)
    summary = (
        f"{num_found} of {len(titles)} found, {num_reproduced} with a reproducer that fails on its own; "
        f"{len(findings)} findings, {sum(finding.severity == 'error' for finding in findings)} errors."
    )
    print(f"{table}\n\n{summary}")
    whole = merged(replace(report, host="") for report in reports)
    judged = {name for report in reports for name in report.operators_judged}
    whole = replace(
        whole,
        accumulations=tuple(dict.fromkeys(line for report in reports for line in report.accumulations)),
        operators_judged=tuple(sorted(judged)),
        operators_missed=tuple(name for name in whole.operators_missed if name not in judged),
    )
    if asked.document:
        asked.document.write_text(_document(whole, table, summary), encoding="utf-8")
    if asked.known:
        asked.known.parent.mkdir(parents=True, exist_ok=True)
        asked.known.write_text(baseline_of(whole), encoding="utf-8")


if __name__ == "__main__":
    main()
