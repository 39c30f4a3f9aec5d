"""Families of published runs, in the columns that the laws want. The data are not part of the repository.

They are read from ``shared/data`` beside the repository, one folder for each source; whatever is absent is left out.
"""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from numguard import scaling
from numguard.scaling.law import FloatArray, Law

DATA = Path(__file__).parents[2].parent / "shared" / "data"


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Runs of one recipe at several sizes.

    Parameters
    ----------
    name
        Source and what tells the family from others of it.
    source
        The folder.
    law
        The law that its columns are for.
    columns
        By name, ``[runs]``.
    loss
        ``[runs]``.
    size
        ``[runs]``, compute, or steps within a run.
    """

    name: str
    source: str
    law: Law
    columns: Mapping[str, FloatArray]
    loss: FloatArray
    size: FloatArray


def _rows(path: str) -> list[dict[str, str]]:
    with (DATA / path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _column(rows: list[dict[str, str]], name: str) -> FloatArray:
    return np.asarray([float(row[name]) for row in rows])


def _of_compute(name: str, source: str, compute: FloatArray, loss: FloatArray) -> Family:
    return Family(name=name, source=source, law=scaling.PowerLaw(), columns={"C": compute}, loss=loss, size=compute)


def _of_tokens(name: str, source: str, n: FloatArray, d: FloatArray, loss: FloatArray) -> Family:
    return Family(
        name=name, source=source, law=scaling.ChinchillaLaw(), columns={"N": n, "D": d}, loss=loss, size=6 * n * d
    )


def chinchilla(num_dropped: int = 5) -> Family:
    """Return the points of Hoffmann et al.'s figure 4, without the ``num_dropped`` worst losses."""
    rows = _rows("chinchilla_epoch/svg_extracted_data.csv")
    n, compute, loss = _column(rows, "Model Size"), _column(rows, "Training FLOP"), _column(rows, "loss")
    kept = np.argsort(-loss, kind="stable")[num_dropped:]
    kept.sort()
    return _of_tokens("chinchilla", "chinchilla_epoch", n[kept], (compute / (6 * n))[kept], loss[kept])


def porian() -> Iterator[Family]:
    """Yield the loss of the compute-optimal model at each compute, for five settings."""
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in _rows("porian/optimal_pairs.csv"):
        if row["loss"]:
            groups[row["row"]].append(row)
    for number, rows in groups.items():
        yield _of_compute(f"porian {number}", "porian", _column(rows, "flops"), _column(rows, "loss"))


def gadre() -> Iterator[Family]:
    """Yield the grids of N and D on two corpora, each with four losses."""
    rows = _rows("gadre_scaling/models.csv")
    losses = [name for name in rows[0] if name.startswith("loss")]
    for corpus in sorted({row["train"] for row in rows}):
        own = [row for row in rows if row["train"] == corpus]
        for number, name in enumerate(losses):
            yield _of_tokens(
                f"gadre {corpus} {number}", "gadre_scaling", _column(own, "N"), _column(own, "D"), _column(own, name)
            )


def misfitting() -> Iterator[Family]:
    """Yield the IsoFLOP grid on C4, flagged outliers left out, and the best loss for each compute."""
    rows = [row for row in _rows("open_athena_isoflops/isoflops.csv") if row["source"] == "misfitting"]
    rows = [row for row in rows if row["outlier"] == "False"]
    n, d, loss, budget = (_column(rows, name) for name in ("params", "tokens", "loss", "budget"))
    yield _of_tokens("misfitting grid", "open_athena_isoflops", n, d, loss)
    compute = np.unique(budget)
    yield _of_compute(
        "misfitting best", "open_athena_isoflops", compute, np.asarray([loss[budget == c].min() for c in compute])
    )


def supercollapse(name: str) -> Iterator[Family]:
    """Yield final losses over sizes at the compute-optimal horizon, one family for each file."""
    last: dict[str, dict[str, str]] = {row["run"]: row for row in _rows(f"supercollapse/{name}.csv")}
    compute, loss = _column(list(last.values()), "compute"), _column(list(last.values()), "test_loss")
    yield _of_compute(f"supercollapse {name}", "supercollapse", compute, loss)


def constant_rate_runs() -> Iterator[Family]:
    """Yield loss over steps of single runs at a constant learning rate, thinned to rows a tenth apart."""
    for size in ("25", "100"):
        rows = _rows(f"multipowerlaw/csv_{size}/constant_72000.csv")
        yield _thinned(f"constant {size}M", "multipowerlaw", _column(rows, "step"), _column(rows, "loss"))


def _thinned(name: str, source: str, step: FloatArray, loss: FloatArray) -> Family:
    edges = np.exp(np.arange(np.log(step[0]), np.log(step[-1]) + 0.1, 0.1))
    rows = np.unique(np.minimum(np.searchsorted(step, edges), len(step) - 1))
    return _of_compute(name, source, step[rows], loss[rows])


def constant_rate_sizes() -> Iterator[Family]:
    """Yield loss over steps of runs of one recipe at a constant learning rate, one for each size and horizon."""
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in _rows("supercollapse/c5m_schedules.csv"):
        if row["schedule"] == "const" and float(row["step"]) >= 100:
            groups[row["run"]].append(row)
    for number, rows in groups.items():
        width = rows[0]["D"]
        yield _thinned(
            f"c5m constant {width}, run {number}", "supercollapse", _column(rows, "step"), _column(rows, "test_loss")
        )


FAMILIES: dict[str, tuple[Callable[[], Any], ...]] = {
    "porian": (porian,),
    "chinchilla_epoch": (lambda: [chinchilla()],),
    "gadre_scaling": (gadre,),
    "open_athena_isoflops": (misfitting,),
    "supercollapse": (constant_rate_sizes, lambda: supercollapse("c5m"), lambda: supercollapse("mlp")),
    "multipowerlaw": (constant_rate_runs,),
}


def families(loaders: Mapping[str, tuple[Callable[[], Any], ...]]) -> list[Family]:
    """Return the families whose data are there."""
    present = [load for folder, loads in loaders.items() if (DATA / folder).is_dir() for load in loads]
    return [family for load in present for family in load()]
