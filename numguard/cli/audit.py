"""``numguard audit``: is the torch on this machine numerically sound?"""

import os
import sys
from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from numguard.acceptance import AuditReport, audit, merged, read_report
from numguard.errors import UsageError
from numguard.report.inert_text import inert

_MOST_ROWS: Final = 60


def examine_torch(
    *reports: Path,
    level: Literal["quick", "full"] = "quick",
    device: str = "cpu",
    family: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    part: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    seconds: float | None = None,
    baseline: Path | None = None,
    write_baseline: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    out: Path | None = None,
    all_known: Annotated[bool, Parameter(name="--all", negative=())] = False,
) -> int:
    """Examine the operators of the installed torch, and say what is new: wrong here, and neither known nor accepted.

    Exits with 0 if nothing new was found, 1 if something was, 2 for bad usage or input. With reports of other hosts as
    arguments nothing is examined: they are merged.

    Parameters
    ----------
    reports
        JSON files of earlier audits, one for each host.
    level
        quick takes at most a minute on two cores; full, at most twenty, adds compiled and large calls.
    device
        What to examine.
    family
        Only these families of operators; may be repeated.
    part
        Only these parts of full: eager, large, compiled; may be repeated.
    seconds
        What it may take; by default what the level promises. What it does not suffice for is listed.
    baseline
        TOML file of accepted fingerprints.
    write_baseline
        Where to write the fingerprints of what was found, as a baseline.
    json
        Print JSON instead of a table.
    out
        Folder for report.json, report.html and the reproducers; one JSON for each host under torchrun.
    all_known
        Report known defects of this version of torch, too.
    """
    console = Console(highlight=False, stderr=json)
    report = merged(read_report(path) for path in reports) if reports else None
    if report is None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, refresh_per_second=4) as progress:
            task = progress.add_task("trials", total=None, visible=False)  # not before the options are known to be good
            report = audit(
                device=device,
                level=level,
                families=family or None,
                parts=part or None,
                seconds=seconds,
                baseline=baseline,
                known=not all_known,
                advance=lambda done, total: progress.update(task, completed=done, total=total, visible=True),
            )
    if out is not None:
        _write(report, out)
    if write_baseline is not None:
        _try(lambda: report.write_baseline(write_baseline), write_baseline)
    if json:
        print(report.json())
    else:
        _print(console, report, out)
    return int(not report.ok)


def _write(report: AuditReport, out: Path) -> None:
    from numguard.acceptance.audit_page import write_page

    rank = os.environ.get("RANK", "")
    host = f"-{inert(report.host, 60).replace('/', '_')}-rank{rank}" if rank.isdigit() else ""

    def write() -> None:
        out.mkdir(parents=True, exist_ok=True)
        report.write(out / f"report{host}.json")
        write_page(report, out / f"report{host}.html")
        report.write_reproducers(out / "reproducers")

    _try(write, out)


def _try(write: object, path: Path) -> None:
    try:
        write()  # type: ignore[operator]
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror}; give another place") from None


def _print(console: Console, report: AuditReport, out: Path | None) -> None:
    table = Table(title=None, box=None, pad_edge=False)
    for name in ("kind", "operator or call", "dtype", "phase", "computed", "exact", "error / bound", "fingerprint"):
        table.add_column(name, overflow="fold")
    for finding in report.findings[:_MOST_ROWS]:
        evidence = finding.evidence
        dtype = str((evidence.get("trial") or {}).get("dtype", ""))
        figures = (evidence.get("computed"), evidence.get("exact"), finding.ratio)
        shown = [_figure(value) for value in figures]
        cells = (finding.kind, finding.op or finding.module, dtype, finding.phase, *shown, finding.fingerprint)
        table.add_row(*(Text(inert(cell, 90)) for cell in cells))
    if report.findings:
        console.print(table)
    left = len(report.findings) - _MOST_ROWS
    if left > 0:
        console.print(f"... and {left} more; --json or --out DIR for all of them")
    console.print(
        f"\ntorch {inert(report.torch)} on {inert(report.machine)}: {len(report.findings)} new findings, "
        f"{len(report.accepted)} known or accepted, {report.num_trials} trials in {report.seconds:.0f} s"
        + (f", {report.num_left_out} left out for time" if report.num_left_out else "")
    )
    for line in report.not_covered[:8]:
        console.print(Text(f"not covered: {inert(line, 200)}"))
    if report.findings and out is None:
        print("Reproducers and the whole report: numguard audit --out DIR", file=sys.stdout)


def _figure(value: object) -> str:
    return f"{float(value):.6g}" if isinstance(value, int | float | str) and value != "" else "-"
