"""What the backends cost on this machine: measured where they run, predicted where no GPU is."""

import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from numguard.backends.kernel_modules import kernel_module
from numguard.backends.selection import backend_for, prepare
from numguard.backends.statistics import tensor_statistics
from numguard.errors import UsageError

if TYPE_CHECKING:
    from numguard_kernels.bench.table import Table as Table

_SIZES: Final = (10_000, 100_000, 1_000_000, 10_000_000)
_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)
_SECONDS_PER_CELL: Final = 0.2


def gpu_table() -> "Table":
    """Return the measured table of the Triton kernels on the current GPU."""
    table: Table = kernel_module("bench.measured").measured_rows(torch.device("cuda", torch.cuda.current_device()))
    return table


def can_predict() -> bool:
    """Return whether Triton is installed, which compiles for GPUs that are not there."""
    return importlib.util.find_spec("triton") is not None


def prediction_table() -> "Table":
    """Return the static table of the Triton kernels, from machine code.

    Raises
    ------
    UsageError
        Where Triton is not installed.
    """
    if not can_predict():
        raise UsageError("the prediction compiles the kernels with Triton, which is not installed: pip install triton")
    table: Table = kernel_module("bench.unmeasured").predicted_table()
    return table


def cpu_table() -> "Table":
    """Return the measured table of the core statistics on the CPU, beside torch.sum and the best stock route."""
    prepare()
    tables = kernel_module("bench.table")
    backend = backend_for("statistics", torch.device("cpu"))
    rows: list[tuple[str, ...]] = []
    for dtype in _DTYPES:
        for size in _SIZES:
            x = torch.randn(size).to(dtype)
            variants: dict[str, Callable[[], object]] = {
                "torch.sum": x.sum,
                f"numguard, {backend}": lambda x=x: tensor_statistics(x),  # type: ignore[misc]
                "sum and norm in float64": lambda x=x: (  # type: ignore[misc]
                    x.sum(dtype=torch.float64),
                    torch.linalg.vector_norm(x, 1, dtype=torch.float64),
                ),
            }
            medians = _interleaved(variants)
            for name, seconds in medians.items():
                num_bytes = size * dtype.itemsize
                cells = tables.timing_cells(
                    "tensor_statistics", dtype, size, name, seconds=seconds, num_bytes=num_bytes
                )
                rows.append((*cells, f"{seconds / medians['torch.sum']:.2f}"))
    table: Table = tables.Table(
        title="Measured on this CPU",
        header=tables.environment(torch.device("cpu")),
        columns=(*tables.TIMING_COLUMNS, "ratio to torch.sum"),
        rows=tuple(rows),
    )
    return table


def _interleaved(variants: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return median seconds; all variants in turn, so that all meet the same machine."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for variant in variants.values():
        variant()
    end = time.perf_counter() + _SECONDS_PER_CELL * len(variants)
    while time.perf_counter() < end or len(times[next(iter(times))]) < 3:
        for name, variant in variants.items():
            start = time.perf_counter()
            variant()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def save(table: "Table", *, csv: Path | None, plot: Path | None) -> None:
    """Write a table as CSV and, where it holds times, as a plot.

    Raises
    ------
    UsageError
        For a plot of a table without times.
    """
    if csv is not None:
        kernel_module("bench.table").write_csv(table, csv)
    if plot is not None:
        if "GB/s" not in table.columns:
            raise UsageError(
                "a prediction has no sizes to plot over: leave --plot out, or measure on a GPU or --device cpu"
            )
        kernel_module("bench.table").write_plot(
            table, plot, x="elements", y="GB/s", series=("kernel", "dtype", "variant")
        )
