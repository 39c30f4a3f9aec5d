"""What a row costs: ``LossMonitor.update`` and ``.scan``, and the memory of a long scan.

Usage::

    python -m benchmarks.campaigns.detectors_cost                      # times
    python -m benchmarks.campaigns.detectors_cost --memory 10000000    # peak memory of one scan
"""

import argparse
import resource
import time

import numpy as np

from numguard.detectors import LossMonitor, ReferenceRun


def _columns(num_rows: int) -> dict[str, np.ndarray]:
    steps = np.arange(num_rows)
    random = np.random.default_rng(0)
    losses = 2.5 + 8.0 * (steps + 30.0) ** -0.35 + random.normal(0.0, 0.04, num_rows)
    return {"step": steps, "loss": losses}


def _update_seconds(num_rows: int, *, compared: bool) -> float:
    columns = _columns(num_rows)
    steps, losses = columns["step"].tolist(), columns["loss"].tolist()
    norms = np.random.default_rng(1).lognormal(0.0, 0.2, num_rows).tolist()
    reference = (
        ReferenceRun.of(steps, (columns["loss"] + 0.003 * np.cos(columns["step"])).tolist()) if compared else None
    )
    monitor = LossMonitor(reference=reference)
    began = time.perf_counter()
    for step, loss, norm in zip(steps, losses, norms, strict=True):
        monitor.update(step, loss, grad_norm=norm, lr=1e-3, loss_scale=65536.0)
    return (time.perf_counter() - began) / num_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--memory", type=int, metavar="ROWS", help="scan so many rows and print the peak memory")
    num_rows = parser.parse_args().memory
    if num_rows:
        columns, began = _columns(num_rows), time.perf_counter()
        findings = LossMonitor().scan(columns)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        seconds = time.perf_counter() - began
        print(f"scan of {num_rows:,} rows: {seconds:.0f} s, peak {peak:.2f} GiB, {len(findings)} findings")
        return
    for compared in (False, True):
        seconds = min(_update_seconds(40_000, compared=compared) for _ in range(3))
        print(f"update{' with a reference' if compared else ''}: {seconds * 1e6:.1f} us a row")
    columns, began = _columns(1_000_000), time.perf_counter()
    LossMonitor().scan(columns)
    print(f"scan of 1,000,000 rows: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
