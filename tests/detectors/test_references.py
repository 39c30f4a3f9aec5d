"""The ladder of references: a run on the same batches, a proxy, a registered trend, and what each may claim."""

import numpy as np
import pytest

from numguard.detectors import LossMonitor, ReferenceRun, batch_order_hash
from numguard.errors import UsageError
from numguard.finding import Finding
from tests.detectors.made_curves import Array, batch_noise, curve, kinds, said

NUM_ROWS, PLACE = 1600, 1100
ROWS = np.arange(NUM_ROWS - PLACE)


def _reference(losses: Array | None = None) -> ReferenceRun:
    losses = curve(NUM_ROWS, seed=2) if losses is None else losses
    return ReferenceRun.of(range(len(losses)), losses.tolist(), name="run 17")


def _delay(found: list[Finding]) -> int:
    assert found
    assert found[0].first_caught_step is not None
    return found[0].first_caught_step - PLACE


def test_the_same_run_again_is_left_alone() -> None:
    assert said(LossMonitor(reference=_reference()), curve(NUM_ROWS)) == []


def test_a_bitwise_equal_run_is_left_alone() -> None:
    losses = curve(NUM_ROWS)
    assert said(LossMonitor(reference=_reference(losses)), losses) == []


@pytest.mark.parametrize(
    ("change", "names", "most"),
    [
        # In 60 rows a ramp of 0.006 nat can look like a step: noise 0.004.
        (1e-4 * ROWS, {"loss_drift", "loss_shift"}, 70),
        (3e-5 * ROWS, {"loss_drift"}, 170),
        (np.full(NUM_ROWS - PLACE, 0.0075), {"loss_shift"}, 30),
    ],
)
def test_small_departures_are_found_soon_and_named(change: Array, names: set[str], most: int) -> None:
    losses = curve(NUM_ROWS)
    losses[PLACE:] += change
    found = said(LossMonitor(reference=_reference()), losses)
    assert 0 <= _delay(found) <= most
    assert found[0].kind in names
    assert found[0].evidence["rung"] == "reference"
    assert "run 17" in found[0].message


def test_a_plateau_is_named() -> None:
    steep = 4.0 - 3e-4 * np.arange(NUM_ROWS) + batch_noise(NUM_ROWS)
    names = []
    for seed in range(5, 15):
        own = steep + np.random.default_rng(seed).normal(0.0, 0.003, NUM_ROWS)
        own[PLACE:] += 3e-4 * ROWS
        found = said(LossMonitor(reference=_reference(steep)), own[: PLACE + 100])
        assert 0 <= _delay(found) <= 60
        names.append(found[0].kind)
    # Some 20 rows say little of a slope: now and then a plateau is taken for another departure, never for none.
    assert set(names) <= {"loss_plateau", "loss_drift", "loss_shift"}
    assert names.count("loss_plateau") >= 7


def test_a_jump_that_the_reference_shares_is_a_hard_batch() -> None:
    hard = np.where(np.arange(NUM_ROWS) == PLACE, 2.5, 0.0)
    reference = _reference(curve(NUM_ROWS, seed=2) + hard)
    found = said(LossMonitor(reference=reference), curve(NUM_ROWS) + 0.97 * hard)
    assert kinds(found) == ["hard_batch"]
    assert found[0].severity == "notice"


def test_a_jump_that_the_reference_lacks_is_a_spike() -> None:
    losses = curve(NUM_ROWS)
    losses[PLACE:] += 0.5 * np.exp(-ROWS / 10.0)
    found = said(LossMonitor(reference=_reference()), losses)
    assert "hard_batch" not in kinds(found)
    assert found[0].kind == "loss_spike"
    assert 0 <= _delay(found) <= 2


def test_a_batch_that_was_hard_before_is_named() -> None:
    losses = curve(3000)
    losses[2000] += 3.0
    losses[2900] += 3.0
    names = [f"batch {row % 900}" for row in range(3000)]
    found = said(LossMonitor(), losses, batch_id=names)
    assert kinds(found) == ["loss_spike", "hard_batch"]
    assert kinds(said(LossMonitor(hard_batches=["batch 200"]), losses, batch_id=names)) == ["hard_batch"] * 2


def test_other_batches_are_refused_by_their_names() -> None:
    names = [batch_order_hash([row]) for row in range(NUM_ROWS)]
    losses = curve(NUM_ROWS, seed=2)
    reference = ReferenceRun.of(range(NUM_ROWS), losses.tolist(), names)
    shuffled = [*names[:50], *reversed(names[50:])]
    found = said(LossMonitor(reference=reference), curve(NUM_ROWS), batch_id=shuffled)
    assert kinds(found) == ["degraded"]
    assert found[0].first_caught_step == 50


def test_other_batches_are_refused_by_what_the_losses_do() -> None:
    found = said(LossMonitor(reference=_reference()), curve(NUM_ROWS, batches=7))
    assert kinds(found) == ["degraded"]
    assert "correlate" in found[0].message


def test_a_run_that_outlasts_its_reference_falls_back() -> None:
    losses = curve(4000)
    losses[3000:] += 0.1
    found = said(LossMonitor(reference=_reference()), losses)
    assert found[0].kind == "loss_shift"
    assert found[0].evidence["rung"] == "log-trend"


def test_a_proxy_takes_the_noise_of_the_batches_away() -> None:
    num_rows, place = 6000, 5000
    proxy = ReferenceRun.of(range(num_rows), (1.0 + 1.3 * curve(num_rows, seed=4)).tolist())
    losses = curve(num_rows)
    losses[place:] += 0.02
    assert said(LossMonitor(), losses[: place + 100]) == []
    found = said(LossMonitor(proxy=proxy), losses)
    assert found[0].evidence["rung"] == "proxy"
    assert found[0].kind in ("loss_shift", "loss_spike")
    assert place <= (found[0].first_caught_step or 0) <= place + 60


@pytest.mark.parametrize(("offset", "direction"), [(0.2, "up"), (-0.2, "down")])
def test_a_loss_outside_the_registered_band_is_off_trend(offset: float, direction: str) -> None:
    losses = curve(1200)
    expected = losses - batch_noise(1200)

    def trend(step: int) -> tuple[float, float, float] | None:
        value = float(expected[step]) - offset
        return (value, value - 0.1, value + 0.1) if step >= 600 else None

    found = said(LossMonitor(trend=trend), losses)
    assert kinds(found) == ["off_trend"]
    assert found[0].evidence["direction"] == direction
    assert found[0].first_caught_step == 600 + 2 * 16 - 1


def test_a_loss_inside_the_registered_band_is_not() -> None:
    losses = curve(1200)
    assert said(LossMonitor(trend=lambda step: (float(losses[step]), 0.0, 20.0)), losses) == []


@pytest.mark.parametrize(
    ("steps", "losses", "reason"),
    [([1, 2], [1.0], "do not belong"), ([1], [float("nan")], "no finite loss"), ([], [], "no finite loss")],
)
def test_a_useless_reference_is_refused(steps: list[int], losses: list[float], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        ReferenceRun.of(steps, losses)


def test_names_of_batches_depend_on_samples_and_order() -> None:
    names = {batch_order_hash(ids) for ids in ([1, 2], [2, 1], [12], ["1", "2", "3"])}
    assert len(names) == 4
    assert batch_order_hash([1, 2]) == batch_order_hash(["1", "2"])
