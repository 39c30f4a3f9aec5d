"""Many rows at once give what row by row gives."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numguard.detectors import LossMonitor, ReferenceRun
from numguard.errors import UsageError
from tests.detectors.made_curves import curve

_LOSSES = st.floats(0.5, 12.0) | st.sampled_from([float("nan"), float("inf"), -1.0, 0.0, 1e30])


def _columns(num_rows: int, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    losses = curve(num_rows, seed=seed)
    losses[random.random(num_rows) < 0.01] = np.nan
    losses[num_rows // 2 :] += random.choice([0.0, 0.05, 0.5])
    losses[random.integers(num_rows, size=5)] += random.choice([2.0, -1.0], 5)
    steps = np.cumsum(random.choice([1, 1, 1, 2, 7], num_rows))
    steps[num_rows // 3 :] -= 60
    return {
        "step": steps,
        "loss": losses,
        "grad_norm": np.exp(random.normal(0.0, 0.4, num_rows)),
        "lr": np.where(steps < 2000, 1e-3, 1e-4),
        "loss_scale": 2.0 ** random.integers(10, 17, num_rows),
        "skipped": random.random(num_rows) < 0.05,
        "something else": random.random(num_rows),
    }


def _row_by_row(monitor: LossMonitor, columns: dict[str, Any]) -> list[Any]:
    names = [name for name in columns if name not in ("step", "loss", "something else")]
    found = []
    for row in range(len(columns["step"])):
        channels = {name: columns[name][row].item() for name in names}
        found += monitor.update(int(columns["step"][row]), float(columns["loss"][row]), **channels)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_scan_says_what_update_says(seed: int) -> None:
    columns = _columns(9000, seed)
    reference = ReferenceRun.of(columns["step"].tolist(), curve(9000, seed=77).tolist()) if seed % 2 else None
    one, other = LossMonitor(reference=reference), LossMonitor(reference=reference)
    expected = _row_by_row(one, columns)
    assert expected, "a comparison of nothing"
    assert other.scan(columns) == expected
    assert other.state_dict() == one.state_dict()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 400), _LOSSES), max_size=120))
def test_scan_says_what_update_says_of_anything(rows: list[tuple[int, float]]) -> None:
    one, other, third = LossMonitor(), LossMonitor(), LossMonitor()
    expected = [finding for step, loss in rows for finding in one.update(step, loss)]
    columns: dict[str, Any] = {"step": [step for step, _ in rows], "loss": [loss for _, loss in rows]}
    as_rows = [{"step": step, "loss": loss} for step, loss in rows]
    assert other.scan(as_rows) == expected
    assert third.scan(columns) == expected
    assert other.state_dict() == one.state_dict() == third.state_dict()


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ({"loss": [1.0]}, "no column"),
        ({"step": [1, 2], "loss": [1.0]}, "differ in length"),
        ([{"loss": 1.0}], "without 'step'"),
    ],
)
def test_tables_that_cannot_be_are_explained(rows: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        LossMonitor().scan(rows)
