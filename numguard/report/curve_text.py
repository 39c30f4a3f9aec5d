"""Loss logs and what was found on them, as plain text."""

from numguard.report.curve_summary import CurveSummary, RunCurve
from numguard.report.inert_text import wrapped
from numguard.report.quantities import number

_MOST_SHOWN = 20


def plain_curve(summary: CurveSummary) -> str:
    """Return the summary as text of at most about 100 columns.

    Parameters
    ----------
    summary
        What was found.
    """
    lines = [wrapped(summary.headline)]
    for file in summary.files:
        columns = f" ({', '.join(file.names)})" if file.names else ""
        lines.append(wrapped(f"read {file.name}: {file.format}, {file.num_rows:,} rows{columns}", "  "))
        lines += [wrapped(note, "    ") for note in file.notes]
    shown = [run for run in summary.runs if run.findings] or list(summary.runs[:_MOST_SHOWN])
    for run in shown[:_MOST_SHOWN]:
        lines += ["", *_run(run)]
    left_out = len(summary.runs) - min(len(shown), _MOST_SHOWN)
    if left_out:
        lines += ["", f"... and {left_out:,} more runs" + ("" if summary.num_alarms else ", without alarms")]
    lines += ["", wrapped(summary.rate)]
    return "\n".join(lines).rstrip() + "\n"


def _run(run: RunCurve) -> list[str]:
    curve = run.curve
    last = "" if curve.last_loss is None else f", last loss {number(curve.last_loss)}"
    head = f"{run.name}: steps {curve.first_step:,} to {curve.last_step:,}{last}; compared with {run.rung}"
    lines = [wrapped(head)]
    if not run.findings:
        lines.append("  nothing found")
    for finding in run.findings[:_MOST_SHOWN]:
        label = f"  {finding.severity} at step {finding.first_caught_step:,}: {finding.kind}: "
        lines.append(wrapped(finding.message, label, "    "))
        if finding.severity != "notice" and finding.last_clean_step is not None:
            lines.append(wrapped(f"last clean step {finding.last_clean_step:,}. {finding.advice}", "    "))
    if len(run.findings) > _MOST_SHOWN:
        lines.append(f"  ... and {len(run.findings) - _MOST_SHOWN:,} more")
    return lines
