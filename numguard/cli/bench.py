"""``numguard bench``: what the kernels cost, measured here or predicted from their machine code."""

from pathlib import Path
from typing import Literal

import torch

from numguard.backends import benchmark
from numguard.cli.mistakes import told_in_one_line
from numguard.errors import UsageError


def measure(
    *,
    device: Literal["auto", "gpu", "cpu", "prediction"] = "auto",
    csv: str | None = None,
    plot: str | None = None,
) -> int:
    """Measure the kernels beside plain torch, or predict their cost where there is no GPU.

    Parameters
    ----------
    device
        "gpu" and "cpu" measure; "prediction" compiles for GPUs that are not there, which takes minutes. "auto" measures
        on the GPU if there is one, and else measures on the CPU and, if Triton is installed, predicts.
    csv
        Where to write the first table as CSV.
    plot
        Where to draw the measured throughput over the size, as an HTML file.
    """
    with told_in_one_line():
        tables = _tables(device)
        try:
            benchmark.save(tables[0], csv=Path(csv) if csv else None, plot=Path(plot) if plot else None)
        except OSError as problem:
            raise UsageError(f"the table could not be written: {problem}") from None
    return 0


def _tables(device: str) -> "list[benchmark.Table]":
    has_gpu = torch.cuda.is_available()
    if device == "gpu" and not has_gpu:
        raise UsageError("there is no GPU here: ask for --device prediction, or --device cpu")
    measures_gpu = has_gpu and device in ("auto", "gpu")
    makers = [benchmark.gpu_table] if measures_gpu else []
    if device == "cpu" or (device == "auto" and not has_gpu):
        makers.append(benchmark.cpu_table)
    if device == "prediction" or (device == "auto" and not has_gpu and benchmark.can_predict()):
        makers.append(benchmark.prediction_table)
    tables = []
    for maker in makers:
        tables.append(maker())
        print(tables[-1].text(), end="\n\n", flush=True)
    return tables
