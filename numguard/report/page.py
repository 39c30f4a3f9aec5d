"""From a run's directory to its page, without loading what draws it before it is needed."""

import os
from pathlib import Path

from numguard.records.reader import read_run
from numguard.report.summary import summarise


def write_html(run_dir: str | os.PathLike[str], path: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run as one HTML file and return where it is.

    Parameters
    ----------
    run_dir
        The run's directory, or one event file of it.
    path
        The file; ``report.html`` in the run's directory by default.

    Raises
    ------
    InputError
        If there is nothing of a run at ``run_dir``, or the file cannot be written.
    UsageError
        If jinja2 or plotly is not installed.
    """
    from numguard.report.html import write_page

    page = default_page(Path(run_dir)) if path is None else Path(path)
    write_page(summarise(read_run(run_dir)), page)
    return page


def default_page(run: Path) -> Path:
    """Return where the page of a run stands unless the user says otherwise."""
    return (run if run.is_dir() else run.parent) / "report.html"
