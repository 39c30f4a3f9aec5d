"""What a row costs: ``LossMonitor.update`` and ``.scan``, and the memory of a long scan.

Usage::

    python -m benchmarks.campaigns.detectors_cost                      # times
    python -m benchmarks.campaigns.detectors_cost --memory 10000000    # peak memory of one scan
    python -m benchmarks.campaigns.detectors_cost --write              # either, put into docs/detectors.md
"""

import argparse
import resource
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.campaigns.detectors_page import section
from numguard.detectors import LossMonitor, ReferenceRun

PAGE = Path(__file__).parents[2] / "docs" / "detectors.md"


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
    began = time.process_time()
    for step, loss, norm in zip(steps, losses, norms, strict=True):
        monitor.update(step, loss, grad_norm=norm, lr=1e-3, loss_scale=65536.0)
    return (time.process_time() - began) / num_rows


def _scan_memory(num_rows: int) -> tuple[float, float, int]:
    """Return the peak memory of this process in GiB, the seconds and the findings of one scan."""
    columns, began = _columns(num_rows), time.perf_counter()
    num_findings = len(LossMonitor().scan(columns))
    seconds = time.perf_counter() - began
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, seconds, num_findings


def _line(text: str, figures: str) -> str:
    """Return the cost section with the line that begins like these figures replaced, or added."""
    start = figures.partition(":")[0]
    kept = [line for line in text.splitlines() if line.startswith("- ") and not line.startswith(start)]
    return "\n".join(["## Cost", "", *sorted([*kept, figures]), ""])


def _write(figures: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    known = section(text, "Cost")
    new = _line(known, figures)
    before, _, after = text.partition("\n## Thresholds\n")
    before = before.replace(known, "") if known else before
    PAGE.write_text(f"{before.rstrip()}\n\n{new}\n## Thresholds\n{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--memory", type=int, metavar="ROWS", help="scan so many rows and print the peak memory")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/detectors.md")
    arguments = parser.parse_args()
    today = datetime.now(UTC).strftime("%d %B %Y")
    command = "`python -m benchmarks.campaigns.detectors_cost"
    if arguments.memory:
        peak, seconds, num_findings = _scan_memory(arguments.memory)
        figures = (
            f"- {command} --memory`: `scan` of {arguments.memory:,} rows took {peak:.2f} GiB at its peak (target 1 for "
            f"10,000,000), their columns included, and said {num_findings} findings on a curve without a fault "
            f"({seconds:.0f} s on a busy machine; {today})."
        )
    else:
        alone, compared = (min(_update_seconds(40_000, compared=mode) for _ in range(3)) for mode in (False, True))
        columns, began = _columns(1_000_000), time.process_time()
        LossMonitor().scan(columns)
        figures = (
            f"- {command}`: `update` {alone * 1e6:.1f} us a row without and {compared * 1e6:.1f} us with a reference "
            f"(target 50); `scan` of 1,000,000 rows {time.process_time() - began:.1f} s (target 30); CPU time of one "
            f"thread, {today}."
        )
    print(figures)
    if arguments.write:
        _write(figures)


if __name__ == "__main__":
    main()
