"""Loss logs and what was found on them as one HTML file, made like the report of a run."""

from pathlib import Path

from markupsafe import Markup

from numguard.report.curve_summary import CurveSummary
from numguard.report.details import Section
from numguard.report.html import policy_for, resource, template, write_whole
from numguard.report.loss_figure import drawn, library
from numguard.report.quantities import number
from numguard.report.summary import drawn_curves

_MOST_CURVES = 24
_MOST_ROWS = 500


def html_curve(summary: CurveSummary) -> str:
    """Return the page as text.

    Parameters
    ----------
    summary
        What was found.
    """
    # Runs with alarms first: of a log of hundreds of runs not every one can be told from the others in a figure.
    runs = sorted(summary.runs, key=lambda run: not run.alarms)[:_MOST_CURVES]
    names = {curve.curve.rank: curve.name for curve in runs}
    curves = drawn_curves([run.curve for run in runs])
    figure = drawn(
        curves=curves,
        names=[names[curve.rank] for curve in curves],
        findings=[finding for run in runs for finding in run.findings],
        bands=summary.bands,
    )
    scripts = (library(), resource("curve.js"))
    return template("curve.html").render(
        summary=summary,
        policy=policy_for(scripts),
        style=Markup(resource("report.css")),
        figure=Markup(figure),
        plotly=Markup(scripts[0]),
        script=Markup(scripts[1]),
        caption=_caption(summary, len(curves)),
        sections=(_findings(summary), _runs(summary), _files(summary)),
    )


def write_curve_page(summary: CurveSummary, path: Path) -> None:
    """Write the page, whole or not at all.

    Parameters
    ----------
    summary
        What was found.
    path
        The file. A symbolic link there is replaced, not followed.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    write_whole(html_curve(summary), path)


def _caption(summary: CurveSummary, num_drawn: int) -> str:
    parts = ["Long curves are drawn as the lowest and highest of each stretch."]
    parts += [
        "Shaded: the median of each stretch and three robust standard deviations on either side."
        if band.level is None
        else f"Shaded: the {band.level:.0%} band of the registered prediction {band.name}."
        for band in summary.bands
    ]
    if num_drawn < len(summary.runs):
        parts.append(f"{num_drawn} of {len(summary.runs):,} runs are drawn, those with alarms first.")
    return " ".join(parts)


def _findings(summary: CurveSummary) -> Section:
    rows = [
        (
            f"{finding.first_caught_step or 0:,}",
            run.name,
            finding.severity,
            finding.kind,
            finding.message,
            "" if finding.last_clean_step is None else f"{finding.last_clean_step:,}",
            finding.advice,
        )
        for run in summary.runs
        for finding in run.findings
    ]
    return Section(
        title="What was found",
        lead="" if rows else "Nothing.",
        columns=("step", "run", "severity", "kind", "message", "last clean step", "advice"),
        rows=tuple(rows[:_MOST_ROWS]),
        num_left_out=max(0, len(rows) - _MOST_ROWS),
    )


def _runs(summary: CurveSummary) -> Section:
    rows = [
        (
            run.name,
            f"{run.curve.first_step:,} to {run.curve.last_step:,}",
            f"{run.curve.num_steps:,}",
            number(run.curve.last_loss),
            run.rung,
        )
        for run in summary.runs
    ]
    return Section(
        title="What was looked at",
        lead=summary.rate,
        columns=("run", "steps", "rows", "last loss", "compared with"),
        rows=tuple(rows[:_MOST_ROWS]),
        num_left_out=max(0, len(rows) - _MOST_ROWS),
    )


def _files(summary: CurveSummary) -> Section:
    rows = [(file.name, f"{file.format}, {file.num_rows:,} rows ({', '.join(file.names)})") for file in summary.files]
    rows += [("", note) for file in summary.files for note in file.notes]
    rows += [("", example) for file in summary.files for example in file.damage.examples]
    return Section(title="Files", rows=tuple(rows))
