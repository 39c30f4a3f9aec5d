"""``numguard report``: what a run's event log says, in the terminal and as one HTML file."""

import json
import signal
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from numguard.cli.mistakes import told_in_one_line
from numguard.cli.page_place import page_at
from numguard.records import read_run
from numguard.report.inert_text import inert
from numguard.report.page import default_page
from numguard.report.summary import VERDICT_WORDS, RunSummary, summarise

_PAGE = "report.html"


def show_report(
    run: str,
    /,
    *,
    out: Annotated[str | None, Parameter(name=("--out", "--html"))] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    no_html: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Say what a run's event log says: stop or go on, from which checkpoint, what to drain or fix.

    Exits with 0 if nothing was found, 1 if there are errors or warnings, 2 for bad input, and 3 if nothing was found in
    what could be read but part of the log was damaged.

    Parameters
    ----------
    run
        The run_dir of a guard, or one event file of it.
    out
        Folder for report.html, or a file that ends in .html; by default the run_dir.
    json
        Print one JSON object instead of text.
    no_html
        Write no page.
    """
    previous = signal.signal(signal.SIGTERM, _end)
    try:
        with told_in_one_line():
            return _report(run, out=out, as_json=json, no_html=no_html)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _report(run: str, *, out: str | None, as_json: bool, no_html: bool) -> int:
    summary = summarise(read_run(run))
    page = None if no_html else default_page(Path(run)) if out is None else page_at(out, _PAGE)
    if summary.damage:
        print(f"numguard: {inert(run, 200)}: {_damage(summary)}", file=sys.stderr)
    if as_json:
        print(_json(summary))
    else:
        from numguard.report.terminal import print_report

        print_report(summary)
    if page is not None:
        _write_page(summary, page, as_json=as_json)
    if summary.num_findings or summary.verdict == "stop":
        return 1
    return 3 if summary.damage else 0


def _write_page(summary: RunSummary, page: Path, *, as_json: bool) -> None:
    from numguard.report.html import write_page

    write_page(summary, page)
    print(f"\nThe whole report: {inert(page, 400)}", file=sys.stderr if as_json else sys.stdout)


def _damage(summary: RunSummary) -> str:
    first = f" ({inert(summary.damage.examples[0], 300)})" if summary.damage.examples else ""
    return f"{summary.damage.describe()}{first}"


def _json(summary: RunSummary) -> str:
    """Return the summary as strict JSON in ASCII: what a script that watches runs asks for."""
    content = {
        "verdict": summary.verdict,
        "say": f"{VERDICT_WORDS[summary.verdict]}: {summary.headline}",
        "num_findings": summary.num_findings,
        **{field.name: getattr(summary, field.name) for field in fields(summary) if field.name != "verdict"},
    }
    return json.dumps(_plain(content), allow_nan=False, indent=1)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value - value != 0.0:
        return str(value)
    return value


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
