"""The report as one HTML file that opens from disk, asks the network for nothing, and runs no script but its own two.

Everything that comes from the log is text: jinja2 escapes it, hidden characters are shown, long strings are cut. The
page's content policy names its scripts by their hashes, so that even a script that got through would not run.
"""

import base64
import hashlib
import json
import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from numguard.errors import InputError, UsageError
from numguard.records.atomic_file import write_atomically
from numguard.records.lines import as_plain
from numguard.report.causes import Cause
from numguard.report.details import Section, sections, symptom_rows
from numguard.report.inert_text import inert
from numguard.report.quantities import listed
from numguard.report.summary import VERDICT_WORDS, RunSummary

try:
    from jinja2 import Environment, StrictUndefined, Template
    from markupsafe import Markup
except ImportError:
    raise UsageError("jinja2 is not installed; run: pip install 'numguard-torch[cli]'") from None

from numguard.report.loss_figure import figure_json, library

_MOST_ROWS = 200
_MOST_CAUSES = 100
_NUMERIC = frozenset(
    {
        "step",
        "rank",
        "calls",
        "calls seen",
        "calls checked",
        "worst error / bound",
        "detectable rate",
        "share of time",
        "budget",
        "own time",
        "elapsed",
        "armed steps",
        "checks",
        "share of update mass",
    }
)
_SPOKEN = frozenset({"message", "event", "reason"})


def html_report(summary: RunSummary) -> str:
    """Return the page as text.

    Parameters
    ----------
    summary
        What :func:`numguard.report.summarise` returned.
    """
    scripts = (library(), resource("curve.js")) if summary.curves else ()
    return template("template.html").render(
        summary=summary,
        word=VERDICT_WORDS[summary.verdict],
        policy=policy_for(scripts),
        style=Markup(resource("report.css")),
        figure=Markup(figure_json(summary)) if summary.curves else "",
        plotly=Markup(scripts[0]) if scripts else "",
        script=Markup(scripts[1]) if scripts else "",
        caption=_caption(summary),
        missing=listed([f"rank {rank}" for rank in summary.missing_ranks], most=20),
        causes=[_cause(cause) for cause in summary.causes[:_MOST_CAUSES]],
        num_causes_left_out=max(0, len(summary.causes) - _MOST_CAUSES),
        sections=sections(summary, most_rows=_MOST_ROWS),
        numeric=_NUMERIC,
        spoken=_SPOKEN,
    )


def write_page(summary: RunSummary, path: str | os.PathLike[str]) -> None:
    """Write the page, whole or not at all.

    Parameters
    ----------
    summary
        What :func:`numguard.report.summarise` returned.
    path
        The file. A symbolic link there is replaced, not followed.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    write_whole(html_report(summary), path)


def write_whole(page: str, path: str | os.PathLike[str]) -> None:
    """Write a page, whole or not at all.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    try:
        write_atomically(Path(path), page.encode("utf-8", "replace"), mode=0o644, durable=False)
    except (OSError, ValueError) as failure:
        reason = getattr(failure, "strerror", None) or str(failure)
        raise InputError(inert(path, 200), "", f"the report could not be written: {reason}") from None


def resource(name: str) -> str:
    """Return a file that lies beside this one: style, script, template."""
    return files("numguard.report").joinpath(name).read_text(encoding="utf-8")


@cache
def template(name: str) -> Template:
    """Return a template in which whatever comes from a log is text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=_finalized)
    environment.filters["cut"] = inert
    return environment.from_string(resource(name))


def _finalized(value: object) -> object:
    return value if isinstance(value, Markup) else inert(value)


def policy_for(scripts: tuple[str, ...]) -> str:
    """Return the content policy of a page that runs these scripts and no other."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _caption(summary: RunSummary) -> str:
    num_steps = sum(curve.num_steps for curve in summary.curves)
    num_points = sum(len(curve.points) for curve in summary.curves)
    thin = "" if num_points >= num_steps else ", drawn as the lowest and highest of each stretch"
    grave = any(cause.stop and cause.lead.first_caught_step is not None for cause in summary.causes)
    shade = " Shaded: from the last clean step on, not to be trusted." if grave else ""
    return f"{num_steps:,} steps recorded{thin}.{shade}"


def _cause(cause: Cause) -> dict[str, Any]:
    rows = symptom_rows(cause)
    columns = ("step", "rank", "kind", "place", "message")
    table = Section(title="", columns=columns, rows=rows[:_MOST_ROWS], num_left_out=max(0, len(rows) - _MOST_ROWS))
    evidence = json.dumps(as_plain(cause.lead.evidence), indent=2, ensure_ascii=False)
    lines = [inert(line) for line in evidence.splitlines()[:400]]
    return {
        "lead": cause.lead,
        "headline": cause.headline,
        "answers": cause.answers,
        "table": table,
        "evidence": Markup("\n").join(lines) if cause.lead.evidence else "",
    }
