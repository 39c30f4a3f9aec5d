"""Published runs beside the repository, where they are; the data are not part of it."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def rows_of(path: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file of the data, or skip the test and say what is absent."""
    if not (DATA / path).is_file():
        pytest.skip(f"needs the published runs in {Path('shared') / 'data' / path} beside the repository")
    with (DATA / path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def column(rows: list[dict[str, str]], name: str) -> Any:
    return np.asarray([float(row[name]) for row in rows])


def chinchilla_points(num_dropped: int) -> dict[str, Any]:
    """Return N, D and loss of Hoffmann et al.'s figure 4 as Besiroglu et al. read it off, without the worst losses."""
    rows = rows_of("chinchilla_epoch/svg_extracted_data.csv")
    n, compute, loss = column(rows, "Model Size"), column(rows, "Training FLOP"), column(rows, "loss")
    kept = np.sort(np.argsort(-loss, kind="stable")[num_dropped:])
    return {"N": n[kept], "D": (compute / (6 * n))[kept], "loss": loss[kept]}


TRAINED_ON = ("cosine_24000", "constant_24000", "wsdcon_9")
PREDICTED = ("constant_72000", "cosine_72000", "wsd_20000_24000", "wsdld_20000_24000", "wsdcon_3", "wsdcon_18")


def schedule_curves(size: int, names: tuple[str, ...], *, every: int = 1) -> dict[str, Any]:
    """Return step, lr, curve and loss of Luo et al.'s runs.

    Their schedules are filled out by rows without a loss where the rate has a corner: warm-up from 0 to 3e-4 over 2,160
    steps, a drop at step 8,000 (``wsdcon``), a decay from step 20,000 (``wsd``). ``every`` keeps one loss in so many.
    """
    parts = []
    for name in names:
        rows = rows_of(f"multipowerlaw/csv_{size}/{name}.csv")
        curve = {row["step"]: (float(row["step"]), float(row["lr"]), float(row["loss"])) for row in rows}
        seen = [point for point in curve.values() if not (max(map(float, curve)) == 24000 and point[0] == 24000)]
        points = {step: (rate, loss if i % every == 0 else np.nan) for i, (step, rate, loss) in enumerate(seen)}
        corners = {0.0: 0.0, 2160.0: 3e-4}
        if name.startswith("wsdcon"):
            corners |= {7999.0: 3e-4, 8000.0: int(name.split("_")[1]) * 1e-5}
        elif name.startswith("wsd"):
            corners[20000.0] = 3e-4
        for step, rate in corners.items():
            points.setdefault(step, (rate, np.nan))
        parts.append([(name, step, *points[step]) for step in sorted(points)])
    table = [row for part in parts for row in part]
    return {
        "curve": [row[0] for row in table],
        "step": np.asarray([row[1] for row in table]),
        "lr": np.asarray([row[2] for row in table]),
        "loss": np.asarray([row[3] for row in table]),
    }


def curve_scores(curves: dict[str, Any], predicted: Any) -> tuple[float, float]:
    """Return R² and mean absolute error over the rows with a loss, averaged over the curves."""
    names = np.asarray(curves["curve"])
    scores = []
    for name in dict.fromkeys(curves["curve"]):
        rows = (names == name) & np.isfinite(curves["loss"])
        loss, error = curves["loss"][rows], curves["loss"][rows] - predicted[rows]
        scores.append((1 - (error**2).sum() / ((loss - loss.mean()) ** 2).sum(), np.abs(error).mean()))
    squared, absolute = np.mean(scores, axis=0)
    return float(squared), float(absolute)
