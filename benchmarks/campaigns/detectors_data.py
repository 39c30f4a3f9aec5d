"""Loss curves of real runs, which of them fix the thresholds and which are scored, and the faults put into them."""

import csv
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

#: Beside the repository; none of it is part of it. ``NUMGUARD_CURVES`` names another place.
DATA: Final = Path(os.environ.get("NUMGUARD_CURVES", Path(__file__).parents[3] / "shared" / "data"))
#: Data orders (found by correlating step-to-step changes) that fix the thresholds; all others are scored.
CALIBRATION_ORDERS: Final = frozenset({"llm.c second", "modded 2", "modded fp4", "modded 1B first"})
#: Orders whose logged loss is averaged over all ranks.
ALL_REDUCED: Final = frozenset({"build-nanogpt", "llm.c first", "llm.c second", "modded 2 AdamW"})
#: Runs on other batches than the scored pairs that share recipe and batches with each other.
REFERENCE_CALIBRATION: Final = ("10-14_ModernArch", "10-17_DistributedMuon", "10-18_PyTorch25")
#: AlgoPerf workloads whose clean runs take part in fixing the thresholds: every second one by name.
ALGOPERF_EVERY: Final = 2


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One run; ``grad_norms`` and ``rates`` where they were logged."""

    name: str
    order: str
    steps: np.ndarray
    losses: np.ndarray
    grad_norms: np.ndarray | None
    rates: np.ndarray | None

    @property
    def calibrates(self) -> bool:
        return self.order.removesuffix(" AdamW") in CALIBRATION_ORDERS

    @property
    def all_reduced(self) -> bool:
        return self.order in ALL_REDUCED

    @property
    def first_scored(self) -> int:
        """Rows that no rule is scored on: 600, or the first twentieth."""
        return max(600, len(self.losses) // 20)

    def rows(self, losses: np.ndarray | None = None, start: int = 0) -> Iterator[tuple[int, float, dict[str, float]]]:
        losses = self.losses[start:] if losses is None else losses
        names = {"grad_norm": self.grad_norms, "lr": self.rates}
        known = {name: column[start:].tolist() for name, column in names.items() if column is not None}
        for index, (step, loss) in enumerate(zip(self.steps[start:].tolist(), losses.tolist(), strict=False)):
            yield int(step), loss, {name: column[index] for name, column in known.items()}


def _order(name: str) -> str:
    if name.startswith("log_"):
        return "build-nanogpt"
    if "hector" in name:
        return "llm.c second"
    for part, order in (
        ("llmc__main", "llm.c first"),
        ("06-06_AdamW", "modded 2 AdamW"),
        ("QuantizedFP4", "modded fp4"),
        ("ScaleUp1B__87bd51fd", "modded 1B first"),
        ("ScaleUp1B", "modded 1B second"),
    ):
        if part in name:
            return order
    return "modded 2" if any(part in name for part in ("Flex", "WindowWarmup", "ValueEmbed")) else "modded 1"


def curves() -> list[Curve]:
    """Return the runs that logged every step."""
    paths = [
        path for folder in ("build_nanogpt", "llmc", "modded_nanogpt/train") for path in (DATA / folder).glob("*.csv")
    ]
    found = []
    for path in sorted(paths):
        table = np.genfromtxt(path, delimiter=",", names=True)
        names = table.dtype.names or ()
        found.append(
            Curve(
                name=path.stem,
                order=_order(path.stem),
                steps=table["step"],
                losses=table["loss"],
                grad_norms=table["grad_norm"] if "grad_norm" in names else None,
                rates=table["lr"] if "lr" in names else None,
            )
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Run:
    """One AlgoPerf run: rows of step, loss and gradient norm; ``event`` is the row that was labelled."""

    name: str
    workload: str
    rows: list[tuple[int, float | None, float | None]]
    event: int | None


def algoperf() -> list[Run]:
    """Return clean runs, and runs with a sustained spike or a divergence, of 150 rows or more."""
    with (DATA / "algoperf" / "index.csv").open(encoding="utf-8") as lines:
        index = {row["run"]: row for row in csv.DictReader(lines)}
    rows: dict[str, list[tuple[int, float | None, float | None]]] = {}
    with (DATA / "algoperf" / "curves.csv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            loss, norm = row["loss"], row["grad_norm"]
            rows.setdefault(row["run"], []).append(
                (int(float(row["step"])), float(loss) if loss else None, float(norm) if norm else None)
            )
    found = []
    for name, about in sorted(index.items()):
        label = about["label2"]
        if int(about["n"]) < 150 or label not in ("clean", "spike_sustained", "diverged"):
            continue
        event = None
        if label != "clean":
            event = [step for step, _, _ in rows[name]].index(int(about["event_step"]))
        found.append(Run(name=name, workload=about["workload"], rows=rows[name], event=event))
    return found


def calibration_workloads(runs: list[Run]) -> frozenset[str]:
    """Return the workloads whose clean runs take part in fixing the thresholds."""
    return frozenset(sorted({run.workload for run in runs if run.event is None})[::ALGOPERF_EVERY])


def _louder(losses: np.ndarray) -> np.ndarray:
    kernel = np.ones(51)
    smooth = np.convolve(losses, kernel, "same") / np.convolve(np.ones_like(losses), kernel, "same")
    return 2.0 * losses - smooth


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault that is added from a row on; ``wanted_delay`` is in rows."""

    name: str
    horizon: int
    wanted_delay: float
    spoil: Callable[[np.ndarray], np.ndarray]


def _row_numbers(losses: np.ndarray) -> np.ndarray:
    return np.arange(len(losses))


FAULTS: Final = (
    Fault(name="spike +0.5", horizon=60, wanted_delay=2, spoil=lambda y: y + 0.5 * np.exp(-_row_numbers(y) / 10.0)),
    Fault(name="shift 2 %", horizon=600, wanted_delay=25, spoil=lambda y: y * 1.02),
    Fault(name="drift +.01/100", horizon=3000, wanted_delay=450, spoil=lambda y: y + 1e-4 * _row_numbers(y)),
    Fault(name="noise x2", horizon=1500, wanted_delay=80, spoil=_louder),
)
REFERENCE_FAULTS: Final = (
    Fault(name="drift +.01/100", horizon=350, wanted_delay=70, spoil=FAULTS[2].spoil),
    Fault(name="drift +.003/100", horizon=350, wanted_delay=160, spoil=lambda y: y + 3e-5 * _row_numbers(y)),
    Fault(name="shift 0.2 %", horizon=350, wanted_delay=30, spoil=lambda y: y * 1.002),
)
