"""A table of results with a header that says on what they were obtained."""

import csv
import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

#: Columns of what was timed; a table adds one that compares.
TIMING_COLUMNS: Final = ("kernel", "dtype", "elements", "variant", "median us", "GB/s")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under column names.

    Parameters
    ----------
    title
        One line; says whether the figures are measured or predicted.
    header
        Lines on device, clocks and versions.
    columns
        Names, with units.
    rows
        Cells as text.
    """

    title: str
    header: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """Return the table with aligned columns."""
        widths = [max(len(row[place]) for row in (self.columns, *self.rows)) for place in range(len(self.columns))]
        lines = [self.title, *self.header, ""]
        for row in (self.columns, *self.rows):
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return "\n".join(lines)


def timing_cells(
    kernel: str, dtype: torch.dtype, num_elements: int, variant: str, *, seconds: float, num_bytes: int
) -> tuple[str, ...]:
    """Return the cells under :data:`TIMING_COLUMNS`; ``num_bytes`` are all that is moved in that time."""
    described = (kernel, str(dtype).removeprefix("torch."), str(num_elements), variant)
    return (*described, f"{seconds * 1e6:.1f}", f"{num_bytes / seconds / 1e9:.1f}")


def environment(device: torch.device) -> tuple[str, ...]:
    """Return lines on the device, its clocks, and the versions in use."""
    versions = [f"torch {torch.__version__}", f"Python {platform.python_version()}"]
    try:
        versions.append(f"Triton {importlib.metadata.version('triton')}")
    except importlib.metadata.PackageNotFoundError:
        versions.append("no Triton")
    lines = [", ".join(versions)]
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        lines.append(f"{properties.name}, {properties.multi_processor_count} multiprocessors, {_clocks(device)}")
    else:
        lines.append(f"{platform.machine()} CPU, {torch.get_num_threads()} threads")
    return tuple(lines)


def _clocks(device: torch.device) -> str:
    query = [
        "nvidia-smi",
        "--query-gpu=clocks.sm,clocks.mem,driver_version",
        "--format=csv,noheader",
        f"--id={device.index or 0}",
    ]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "clocks unknown"
    sm, memory, driver = (part.strip() for part in done.stdout.strip().split(","))
    return f"SM clock {sm}, memory clock {memory}, driver {driver}"


def write_csv(table: Table, path: Path) -> None:
    """Write a table as CSV, its title and header as comment lines in front."""
    with path.open("w", newline="", encoding="utf-8") as file:
        for line in (table.title, *table.header):
            file.write(f"# {line}\n")
        writer = csv.writer(file)
        writer.writerow(table.columns)
        writer.writerows(table.rows)


def write_plot(table: Table, path: Path, *, x: str, y: str, series: Sequence[str]) -> None:
    """Draw one column over another on logarithmic sizes, as an HTML file that needs no network.

    Parameters
    ----------
    table, path
        What is drawn, and where to.
    x, y
        Columns of numbers.
    series
        Columns that tell one line from another.
    """
    import plotly.graph_objects as graph

    places = {name: table.columns.index(name) for name in (x, y, *series)}
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in table.rows:
        label = " ".join(row[places[name]] for name in series)
        lines.setdefault(label, []).append((float(row[places[x]]), float(row[places[y]])))
    figure = graph.Figure()
    for label, points in lines.items():
        figure.add_scatter(x=[point[0] for point in points], y=[point[1] for point in points], name=label)
    figure.update_layout(title=table.title, xaxis={"title": x, "type": "log"}, yaxis={"title": y})
    figure.write_html(path, include_plotlyjs=True)
