"""The report in a terminal. The only file that imports rich."""

from typing import IO

from numguard.errors import UsageError
from numguard.report.causes import Cause
from numguard.report.details import Section, sections, symptom_rows
from numguard.report.inert_text import inert
from numguard.report.summary import VERDICT_WORDS, RunSummary

try:
    from rich.console import Console, Group
    from rich.padding import Padding
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text
except ImportError:
    raise UsageError("rich is not installed; run: pip install 'numguard-torch[cli]'") from None

_COLOURS = {"stop": "red", "care": "yellow", "go": "green", "unknown": "magenta"}
_SEVERITIES = {"error": "bold red", "warning": "yellow", "notice": "cyan"}
_MOST_ROWS = 8
_NUMERIC = frozenset(
    {"step", "rank", "calls", "calls seen", "calls checked", "worst error / bound", "detectable rate", "share of time"}
)


def print_report(summary: RunSummary, *, file: IO[str] | None = None, width: int | None = None) -> None:
    """Print the report; colours only where the stream is a terminal.

    Parameters
    ----------
    summary
        What :func:`numguard.report.summarise` returned.
    file
        The stream; standard output where it is None.
    width
        Columns; the terminal's own where it is None.
    """
    console = Console(file=file, width=width, highlight=False, markup=False, emoji=False)
    colour = _COLOURS[summary.verdict]
    verdict = Text.assemble(
        (VERDICT_WORDS[summary.verdict], f"bold {colour}"), (f": {inert(summary.headline)}", "bold")
    )
    steps = [Text(f"{index}. {inert(step)}") for index, step in enumerate(summary.next_steps, 1)]
    console.print(Panel(Group(verdict, *steps), border_style=colour, padding=(1, 2)))
    for index, cause in enumerate(summary.causes, 1):
        _print_cause(console, index, cause)
    for section in sections(summary, most_rows=_MOST_ROWS):
        _print_section(console, section)


def _print_cause(console: Console, index: int, cause: Cause) -> None:
    style = _SEVERITIES[cause.lead.severity]
    console.print()
    console.print(Text.assemble((f"{index}. {cause.lead.severity}  ", style), (inert(cause.headline), "bold")))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for item in cause.answers:
        grid.add_row(item.question, Text(inert(item.answer)))
    if cause.lead.message:
        grid.add_row("In detail", Text(inert(cause.lead.message)))
    console.print(Padding(grid, (0, 0, 0, 3)))
    rows = symptom_rows(cause)
    if rows:
        columns = ("step", "rank", "symptom", "place", "message")
        left_out = max(0, len(rows) - _MOST_ROWS)
        console.print(
            Padding(
                _table(Section(title="", columns=columns, rows=rows[:_MOST_ROWS], num_left_out=left_out)), (0, 0, 0, 3)
            )
        )


def _print_section(console: Console, section: Section) -> None:
    console.print()
    console.print(Text(section.title, style="bold"))
    if section.lead:
        console.print(Text(inert(section.lead)))
    if section.rows:
        console.print(_table(section))
    if section.num_left_out:
        console.print(Text(f"... and {section.num_left_out:,} more", style="dim"))


def _table(section: Section) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=bool(section.columns), header_style="dim")
    for name in section.columns or ("", ""):
        table.add_column(name, justify="right" if name in _NUMERIC else "left", overflow="fold", min_width=4)
    for row in section.rows:
        table.add_row(*(Text(inert(cell)) for cell in row))
    return table
