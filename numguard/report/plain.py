"""The report as plain text: for a log, an e-mail, or a machine without the ``cli`` extra."""

from collections.abc import Sequence

from numguard.report.causes import Cause
from numguard.report.details import Section, sections, symptom_rows
from numguard.report.inert_text import inert, wrapped
from numguard.report.summary import VERDICT_WORDS, RunSummary

_MOST_CELL = 48
_LABEL = 20


def plain_report(summary: RunSummary, *, most_rows: int = 8) -> str:
    """Return the report as text of at most about 100 columns.

    Parameters
    ----------
    summary
        What :func:`numguard.report.summarise` returned.
    most_rows
        Rows that each table shows.
    """
    lines = [wrapped(f"{VERDICT_WORDS[summary.verdict]}: {summary.headline}"), ""]
    lines += [wrapped(step, f"  {index}. ") for index, step in enumerate(summary.next_steps, 1)]
    for index, cause in enumerate(summary.causes, 1):
        lines += ["", *_cause(cause, f"{index}. {cause.lead.severity.upper()}: ", most_rows)]
    for section in sections(summary, most_rows=most_rows):
        lines += ["", *_section(section)]
    return "\n".join(lines).rstrip() + "\n"


def _cause(cause: Cause, label: str, most_rows: int) -> list[str]:
    lines = [wrapped(cause.headline, label)]
    lines += [wrapped(item.answer, f"   {item.question:<{_LABEL}}") for item in cause.answers]
    if cause.lead.message:
        lines.append(wrapped(cause.lead.message, f"   {'In detail':<{_LABEL}}"))
    rows = symptom_rows(cause)
    if rows:
        lines.append(wrapped(f"{len(rows):,}, by step:", f"   {'Symptoms':<{_LABEL}}"))
        lines += [wrapped(f"{row[0]} {row[2]}: {row[3]}: {row[4]}", "     - ") for row in rows[:most_rows]]
    return lines


def _section(section: Section) -> list[str]:
    lines = [section.title, "-" * len(section.title)]
    if section.lead:
        lines.append(wrapped(section.lead))
    if section.columns:
        lines += _table([section.columns, *section.rows])
    else:
        lines += [wrapped(row[1], f"{inert(row[0], _LABEL):<{_LABEL}}" if row[0] else "- ") for row in section.rows]
    if section.num_left_out:
        lines.append(f"... and {section.num_left_out:,} more")
    return lines


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[_middle_cut(inert(cell)) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _middle_cut(text: str) -> str:
    """Return a text with its middle left out where it is too long: a path's end says more than its start."""
    return text if len(text) <= _MOST_CELL else f"{text[: _MOST_CELL // 3]}..{text[2 - 2 * _MOST_CELL // 3 :]}"
