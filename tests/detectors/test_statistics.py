"""Each kind of fault is found, named, timed; healthy curves are left alone."""

import numpy as np
import pytest

from numguard.detectors import DETECTORS, AlarmBudget, LossMonitor
from numguard.finding import KINDS, Finding
from tests.detectors.made_curves import Array, batch_noise, curve, kinds, said

NUM_ROWS, PLACE = 4000, 3000


def _after(found: list[Finding], place: int = PLACE) -> Finding:
    assert found, "nothing was said"
    first = found[0]
    assert first.first_caught_step is not None
    assert first.first_caught_step >= place
    return first


def _from_place(change: Array) -> Array:
    losses = curve(NUM_ROWS)
    losses[PLACE:] += change
    return losses


ROWS = np.arange(NUM_ROWS - PLACE)


@pytest.mark.parametrize("seed", range(4))
def test_a_healthy_curve_is_left_alone(seed: int) -> None:
    assert said(LossMonitor(), curve(8000, batches=seed, seed=seed + 10)) == []


def test_a_constant_loss_is_left_alone() -> None:
    assert said(LossMonitor(), np.full(3000, 2.0)) == []


def test_a_loss_rounded_in_the_log_is_left_alone() -> None:
    assert said(LossMonitor(), np.round(curve(4000), 2)) == []


@pytest.mark.parametrize("sign", [1, -1])
def test_a_spike_is_found_within_two_rows_in_both_directions(sign: int) -> None:
    found = _after(said(LossMonitor(), _from_place(sign * 0.6 * np.exp(-ROWS / 10.0))))
    assert found.kind == "loss_spike"
    assert found.evidence["direction"] == ("up" if sign > 0 else "down")
    assert found.first_caught_step is not None
    assert found.first_caught_step - PLACE <= 2


def test_a_single_row_far_outside_is_a_spike() -> None:
    found = _after(said(LossMonitor(), _from_place(np.where(ROWS == 0, 3.0, 0.0))))
    assert (found.kind, found.first_caught_step) == ("loss_spike", PLACE)
    assert found.last_clean_step == PLACE - 1
    assert found.evidence["size"] == pytest.approx(3.0, abs=0.3)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_shift_is_found_in_both_directions(sign: int) -> None:
    found = _after(said(LossMonitor(), _from_place(np.full(NUM_ROWS - PLACE, sign * 0.08))))
    assert found.kind == "loss_shift"
    assert found.evidence["size"] == pytest.approx(sign * 0.08, abs=0.04)
    assert found.first_caught_step is not None
    assert found.first_caught_step - PLACE <= 60


def test_without_a_reference_a_slow_rise_is_a_shift_and_never_a_drift() -> None:
    losses = curve(6000)
    losses[PLACE:] += 1e-4 * np.arange(6000 - PLACE)
    found = said(LossMonitor(), losses)
    assert _after(found).kind == "loss_shift"
    assert {"loss_drift", "loss_plateau"}.isdisjoint(kinds(found))


@pytest.mark.parametrize(("factor", "direction"), [(2.0, "up"), (0.3, "down")])
def test_noise_is_found_in_both_directions(factor: float, direction: str) -> None:
    smooth = curve(NUM_ROWS, own=0.0) - batch_noise(NUM_ROWS)
    losses = smooth + batch_noise(NUM_ROWS) * np.where(np.arange(NUM_ROWS) < PLACE, 1.0, factor)
    found = [finding for finding in said(LossMonitor(), losses) if finding.kind == "loss_noise"]
    first = _after(found)
    assert first.evidence["direction"] == direction
    assert first.evidence["size"] == pytest.approx(factor, rel=0.5)


def test_the_gradient_norm_leads_from_the_second_row_on() -> None:
    monitor = LossMonitor()
    assert monitor.update(11446, 3.06, grad_norm=12952.0) == []
    found = monitor.update(11447, 3.11, grad_norm=262623.0)
    assert kinds(found) == ["loss_spike"]
    assert found[0].evidence["detector"] == "gradient_lead"
    assert found[0].last_clean_step == 11446


def test_gradient_norms_that_scatter_are_left_alone() -> None:
    norms = np.exp(np.random.default_rng(3).normal(0.0, 0.3, 3000))
    assert said(LossMonitor(), curve(3000), grad_norm=norms) == []


def test_a_smaller_budget_asks_for_more() -> None:
    losses = _from_place(np.full(NUM_ROWS - PLACE, 0.08))
    usual = _after(said(LossMonitor(), losses)).first_caught_step
    strict = _after(said(LossMonitor(budget=AlarmBudget(per_step=1e-7)), losses)).first_caught_step
    assert usual is not None
    assert strict is not None
    assert strict > usual


def test_every_finding_names_its_detector_and_rung() -> None:
    losses = _from_place(0.6 * np.exp(-ROWS / 10.0))
    for finding in said(LossMonitor(), losses):
        assert finding.kind in DETECTORS[finding.evidence["detector"]]
        assert finding.evidence["rung"] == "log-trend"
        assert finding.evidence["statistic"] > finding.evidence["threshold"]
        assert finding.severity == KINDS[finding.kind]
        assert finding.proof == "none"
        assert "log-trend" in finding.message


def test_registered_kinds_exist() -> None:
    assert {kind for made in DETECTORS.values() for kind in made} <= set(KINDS)
