"""Times on a GPU, beside plain torch, torch.compile and torch.sum, as shares of a measured copy."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import torch

from numguard_kernels.bench.table import TIMING_COLUMNS, Table, environment, timing_cells
from numguard_kernels.registry import specs
from numguard_kernels.spec import KernelSpec

#: Elements, from where a launch is all the time there is to where memory is.
SIZES: Final = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
_ROUNDS: Final = 5


def measured_rows(device: torch.device, *, sizes: Sequence[int] = SIZES) -> Table:
    """Return the table of all kernels on a GPU.

    Variants of a row are interleaved, so that clocks and temperature are the same for all, and the L2 cache is flushed
    before each run; the figure is the median over rounds of the median of a round. What does not fit into the memory of
    the device is left out.

    Parameters
    ----------
    device
        A CUDA or ROCm device.
    sizes
        Numbers of elements.
    """
    rows: list[tuple[str, ...]] = []
    with torch.cuda.device(device):
        for spec in specs():
            for dtype in spec.dtypes:
                for size in sizes:
                    rows.extend(_rows_of(spec, dtype, size, device))
    columns = (*TIMING_COLUMNS, "share of copy")
    return Table(title="Measured on this GPU", header=environment(device), columns=columns, rows=tuple(rows))


def _rows_of(spec: KernelSpec, dtype: torch.dtype, size: int, device: torch.device) -> Iterator[tuple[str, ...]]:
    try:
        arguments, options = spec.benchmark(size, dtype, device)
        num_bytes = spec.bytes_moved(*arguments, **options)
        medians = interleaved(_variants(spec, arguments, options, num_bytes, device))
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return
    copied = 2 * num_bytes / medians["copy"]
    for name, seconds in medians.items():
        moved = num_bytes * (2 if name == "copy" else 1)
        cells = timing_cells(spec.name, dtype, size, name, seconds=seconds, num_bytes=moved)
        yield (*cells, f"{moved / seconds / copied:.3f}")


def _variants(
    spec: KernelSpec, arguments: tuple[Any, ...], options: dict[str, Any], num_bytes: int, device: torch.device
) -> dict[str, Callable[[], Any]]:
    source = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    variants: dict[str, Callable[[], Any]] = {
        "copy": lambda: target.copy_(source),
        "numguard": lambda: spec.launcher(*arguments, **options),
    }
    for name, rival in spec.rivals.items():
        variants[name] = partial(rival, *arguments, **options)
        if name.startswith("torch,"):
            variants[f"torch.compile of {name}"] = partial(torch.compile(rival), *arguments, **options)
    return variants


def interleaved(variants: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the median time of each variant in seconds, round after round over all of them."""
    from triton.testing import do_bench

    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(_ROUNDS):
        for name, variant in variants.items():
            times[name].append(float(do_bench(variant, warmup=10, rep=50, return_mode="median")))
    return {name: statistics.median(found) / 1e3 for name, found in times.items()}
