"""Logs as they are: NaN, gaps, restarts, thinned-out rows, several runs, learning rates that change."""

import json
import math

import numpy as np
import pytest

from numguard.detectors import AlarmBudget, LossMonitor
from numguard.errors import UsageError
from tests.detectors.made_curves import curve, kinds, said

NAN = float("nan")


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_a_nonfinite_loss_is_said_at_once_and_once(bad: float) -> None:
    losses = curve(1000)
    losses[500:520] = bad
    found = said(LossMonitor(), losses)
    assert [(finding.kind, finding.proof, finding.first_caught_step) for finding in found] == [
        ("nonfinite", "exact", 500)
    ]
    assert found[0].last_clean_step == 499


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_nan_never_blinds(share: float) -> None:
    losses = curve(5000)
    losses[np.random.default_rng(2).random(5000) < share] = NAN
    losses[4000:4003] = losses[3990:3993][np.isfinite(losses[3990:3993])].mean() + 5.0
    found = [finding for finding in said(LossMonitor(), losses) if finding.kind != "nonfinite"]
    assert [(finding.kind, finding.first_caught_step) for finding in found] == [("loss_spike", 4000)]


def test_a_nonfinite_gradient_norm_counts_unless_the_step_was_skipped() -> None:
    monitor = LossMonitor()
    assert monitor.update(0, 3.0, grad_norm=math.inf, skipped=True) == []
    assert kinds(monitor.update(1, 3.0, grad_norm=math.inf)) == ["nonfinite"]


def test_a_collapsing_loss_scale_is_said_once() -> None:
    scales = [65536.0, 32768.0, 32768.0, 16384.0, 8192.0, 4096.0, 8192.0, 4096.0]
    found = said(LossMonitor(), curve(8), loss_scale=scales)
    assert [(finding.kind, finding.first_caught_step) for finding in found] == [("loss_scale", 4)]
    assert "from 65536 to 8192" in found[0].message


def test_halvings_now_and_then_are_the_way_a_scaler_works() -> None:
    scales = [float(2**16) if row % 4 < 2 else float(2**15) for row in range(200)]
    assert said(LossMonitor(), curve(200), loss_scale=scales) == []


def test_skipped_steps_in_a_row_are_said() -> None:
    skipped = [row >= 10 for row in range(20)]
    found = said(LossMonitor(), curve(20), skipped=skipped)
    assert [(finding.kind, finding.first_caught_step) for finding in found] == [("loss_scale", 14)]


@pytest.mark.parametrize("every", [1, 10, 100])
def test_a_loss_logged_every_few_steps_is_understood(every: int) -> None:
    losses = curve(3000 * every)[::every]
    assert said(LossMonitor(), losses, every=every) == []
    losses[2500:] += 1.0 * np.exp(-np.arange(500) / 10.0)
    found = said(LossMonitor(), losses, every=every)
    assert [finding.kind for finding in found[:1]] == ["loss_spike"]
    assert 2500 * every <= (found[0].first_caught_step or 0) <= 2502 * every


def test_a_log_that_thins_out_and_steps_that_are_missing_are_no_fault() -> None:
    monitor, losses = LossMonitor(), curve(60_000)
    steps = [*range(200), *range(200, 20_000, 10), *range(30_000, 50_000, 10)]
    assert [finding for step in steps for finding in monitor.update(step, float(losses[step]))] == []
    assert kinds(monitor.update(50_010, 12.0)) == ["loss_spike"]


def test_a_restart_is_no_fault_and_blinds_nothing() -> None:
    monitor, losses = LossMonitor(), curve(5000)
    assert said(monitor, losses[:4000]) == []
    again = losses[3500:] + np.random.default_rng(8).normal(0.0, 0.003, 1500)
    again[3:6] += 1.0
    found = said(monitor, again, start=3500)
    assert kinds(found) == ["loss_spike"]
    assert 3503 <= (found[0].first_caught_step or 0) <= 3505


def test_the_same_step_twice_counts_once_but_nan_is_seen() -> None:
    monitor, twice = LossMonitor(), LossMonitor()
    for step, loss in enumerate(curve(300).tolist()):
        assert monitor.update(step, loss) == []
        assert twice.update(step, loss) == []
        assert twice.update(step, 50.0) == []
    assert twice.state_dict()["tracks"][""]["bank"] == monitor.state_dict()["tracks"][""]["bank"]
    assert kinds(twice.update(299, NAN)) == ["nonfinite"]


def test_several_runs_in_one_log_do_not_mix() -> None:
    one_after_the_other = LossMonitor()
    assert said(one_after_the_other, curve(2500)) == []
    assert said(one_after_the_other, 4.0 + curve(2500, seed=9)) == []
    side_by_side = LossMonitor()
    for step, (first, second) in enumerate(zip(curve(2500).tolist(), (9.0 + curve(2500)).tolist(), strict=True)):
        assert side_by_side.update(step, first, run="a") == []
        assert side_by_side.update(step, second, run="b") == []
    found = side_by_side.update(2500, 20.0, run="b")
    assert [(finding.kind, finding.evidence["run"]) for finding in found] == [("loss_spike", "b")]


def test_a_learning_rate_that_falls_or_rises_explains_the_level() -> None:
    num_rows = 6000
    rate = np.interp(np.arange(num_rows), [0, 4000, 5500, num_rows], [1.0, 1.0, 0.05, 0.05]) * 1e-3
    losses = curve(num_rows) - 0.5 * (1.0 - rate / 1e-3)
    assert kinds(said(LossMonitor(), losses)) != []
    assert said(LossMonitor(), losses, lr=rate) == []


def test_a_new_learning_rate_starts_the_level_anew() -> None:
    rate = np.where(np.arange(5000) < 3000, 1e-3, 1e-4)
    losses = curve(5000) - 0.15 * (1.0 - np.exp(-np.maximum(0.0, np.arange(5000) - 3000) / 30.0))
    assert said(LossMonitor(), losses, lr=rate) == []


def test_rows_without_a_loss_pass_the_exact_rules() -> None:
    monitor = LossMonitor()
    assert monitor.update(0, None, loss_scale=65536.0) == []
    assert kinds(monitor.update(1, None, loss_scale=1024.0)) == ["loss_scale"]


def test_negative_steps_and_losses_are_taken() -> None:
    assert said(LossMonitor(), curve(800) - 9.0, start=-5) == []


@pytest.mark.parametrize(
    ("step", "loss", "channels", "reason"),
    [
        (0, 1.0, {"gradnorm": 1.0}, "unknown channel 'gradnorm'"),
        (0, 1.0, {"lr": "fast"}, "lr='fast' is no number"),
        ("x", 1.0, {}, "step='x'"),
        (0, "low", {}, "loss='low'"),
        (math.inf, 1.0, {}, "step=inf"),
    ],
)
def test_mistakes_are_explained(step: object, loss: object, channels: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        LossMonitor().update(step, loss, **channels)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"per_step": 0.0}, "no rate"),
        ({"shares": {"loss_spike": 1.0}}, "positive share"),
        ({"shares": {"loss_spike": 0.5, "loss_shift": 0.4, "loss_noise": 0.2, "gradient_lead": 0.1}}, "add up"),
        ({"levels": {"quick": 3.0}}, "names no threshold"),
    ],
)
def test_impossible_budgets_are_explained(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        AlarmBudget(**settings)  # type: ignore[arg-type]


def test_state_is_json_and_goes_on_where_it_stopped() -> None:
    losses = curve(4000)
    losses[3000:] += 0.1
    whole, first = LossMonitor(), LossMonitor()
    expected = said(whole, losses)
    found = said(first, losses[:2990])
    second = LossMonitor()
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    assert found + said(second, losses[2990:], start=2990) == expected
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize("state", [{}, {"schema": 99, "tracks": {}}, {"schema": 1, "tracks": {"": {"bank": {}}}}])
def test_a_foreign_state_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="state"):
        LossMonitor().load_state_dict(state)


@pytest.mark.parametrize("level", [0.0, 5e-324, 1e-200, 1e300, -3.0])
def test_a_loss_that_never_moves_is_no_fault_and_one_that_leaves_zero_is_a_spike(level: float) -> None:
    losses = np.full(2500, level)
    assert said(LossMonitor(), losses) == []
    losses[2400:] = level + max(1.0, abs(level))
    assert [finding.first_caught_step for finding in said(LossMonitor(), losses)][:1] == [2400]


def test_rows_may_be_pairs_and_what_is_none_is_refused() -> None:
    losses = curve(600)
    losses[500] += 3.0
    pairs = list(enumerate(losses.tolist()))
    found = LossMonitor().scan(pairs)
    assert kinds(found) == ["loss_spike"]
    assert found == LossMonitor().scan({"step": np.arange(600), "loss": losses})
    for rows in (None, 3, ["a"], [(1,)], [(1, 2.0, 3.0)], [3]):
        with pytest.raises(UsageError, match=r"row"):
            LossMonitor().scan(rows)  # type: ignore[arg-type]
