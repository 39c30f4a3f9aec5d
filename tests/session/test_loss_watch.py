"""The loss of a live run: alarms, the registered trend, an earlier run, resuming, devices that answer late."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import numguard
from numguard import scaling
from numguard.detectors import ReferenceRun
from numguard.errors import InputError, UsageError
from numguard.interception.mailbox import RingMailbox
from numguard.records import read_run
from numguard.session.guarded_loop import Guard
from numguard.session.loss_watch import LossWatch
from numguard.session.options import make_options
from numguard.session.registered_trend import RegisteredTrend, trend_of
from tests.detectors.made_curves import Array, curve
from tests.session.late_courier import Courier, NoWaiting

NUM_STEPS = 2000
LOSS_KINDS = {"loss_spike", "loss_shift", "loss_drift", "loss_noise", "loss_plateau", "off_trend", "hard_batch"}


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let every loss be looked at, though steps that train nothing are too short for it; return what thins out."""
    original = LossWatch.set_pace
    monkeypatch.setattr(LossWatch, "set_pace", lambda watch, budget, seconds: None)
    return original


def watched(losses: Array, *, first: int = 0, **options: Any) -> Any:
    """Return a guard after a run with these losses."""
    with numguard.guard(**options) as guard:
        for step, loss in enumerate(losses.tolist(), first):
            guard.step(torch.tensor(loss, dtype=torch.float64), step=step if step == first else None)
    return guard


def alarms(guard: Any) -> list[tuple[str, int]]:
    return [(item.kind, item.first_caught_step) for item in guard.findings if item.kind in LOSS_KINDS]


def trend_near(losses: Array, *, shift: float = 0.0, path: Path, axis: str = "step", unit: float = 1.0) -> Any:
    """Register a band around a curve: fits of runs of every size, at marks along the largest."""
    compute = [10.0**power for power in range(15, 22)]
    marks = [10, 100, 500, 1000, 1500, 2000]
    fits = []
    for mark in marks:
        level = 2.5 + 8.0 * (mark + 30.0) ** -0.35 + shift
        values = [level + 3.0 * (c / 1e21) ** -0.1 - 3.0 for c in compute]
        noisy = [value * (1 + 0.002 * (-1) ** row) for row, value in enumerate(values)]
        fits.append(scaling.fit(scaling.PowerLaw(), noisy, C=compute, num_bootstraps=20))
    places = [unit * mark for mark in marks]
    return scaling.register(path, fits, name="large", C=[1e21] * len(marks), also={axis: places})


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("registry") / "predictions.json"
    trend_near(curve(NUM_STEPS), path=path)
    return path


def test_a_healthy_loss_is_silent() -> None:
    assert alarms(watched(curve(NUM_STEPS))) == []


def test_a_spike_is_found_at_its_step_and_bursts() -> None:
    losses = curve(NUM_STEPS)
    losses[1700:1720] += 1.5
    guard = watched(losses)
    assert ("loss_spike", 1700) in alarms(guard)
    finding = next(item for item in guard.findings if item.kind == "loss_spike")
    assert (finding.severity, finding.proof, finding.last_clean_step) == ("warning", "none", 1699)
    assert "Exhaustive burst of 2 steps: loss_spike" in guard.report()


def test_each_spike_is_a_finding_and_the_accept_file_knows_them_all(tmp_path: Path) -> None:
    losses = curve(NUM_STEPS)
    for step in (700, 1100, 1500):
        losses[step] += 2.0
    guard = watched(losses)
    spikes = [item for item in guard.findings if item.kind == "loss_spike"]
    assert [item.first_caught_step for item in spikes] == [700, 1100, 1500]
    (name,) = {item.fingerprint for item in spikes}
    assert len({item.id for item in spikes}) == 3
    accept = tmp_path / "accepted.toml"
    accept.write_text(f'[[accepted]]\nfingerprint = "{name}"\nreason = "known"\n')
    assert alarms(watched(losses, accept=accept)) == []


def test_a_nonfinite_loss_is_said_once() -> None:
    losses = curve(600)
    losses[500] = math.nan
    kinds = [item.kind for item in watched(losses).findings]
    assert kinds.count("nonfinite") == 1


# -- the registered trend ------------------------------------------------------------------------------------------


def test_inside_the_band_nothing_is_said(registry: Path) -> None:
    assert alarms(watched(curve(NUM_STEPS), trend=registry)) == []
    assert alarms(watched(curve(NUM_STEPS), trend=scaling.registered(registry))) == []


@pytest.mark.parametrize("size", [0.8, -0.8])
def test_a_loss_that_leaves_the_band_is_off_trend(registry: Path, tmp_path: Path, size: float) -> None:
    losses = curve(NUM_STEPS)
    losses[1000:] += size
    guard = watched(losses, trend=registry, run_dir=tmp_path)
    steps = [step for kind, step in alarms(guard) if kind == "off_trend"]
    assert len(steps) == 1
    assert 1000 < steps[0] <= 1000 + 3 * 16
    (band,) = read_run(tmp_path).trends
    assert (band.name, band.axis, band.level) == ("large", "step", 0.9)
    assert band.rows[0][0] == 10.0
    assert band.rows[-1][0] == 2000.0
    assert "Trend" in guard.report()


def test_a_trend_along_tokens_is_followed_by_tokens(tmp_path: Path) -> None:
    losses = curve(NUM_STEPS)
    known = trend_near(losses, path=tmp_path / "p.json", axis="tokens", unit=1e4)
    losses[1000:] += 0.8
    with numguard.guard(trend=known) as guard:
        for step, loss in enumerate(losses.tolist()):
            guard.step(loss, tokens=10_000 * step)
    steps = [step for kind, step in alarms(guard) if kind == "off_trend"]
    assert len(steps) == 1
    assert 1000 < steps[0] <= 1048
    with numguard.guard(trend=known) as guard:
        for loss in losses.tolist():
            guard.step(loss)
    assert "off_trend" not in [kind for kind, _ in alarms(guard)]


def test_the_band_is_the_registered_one(registry: Path) -> None:
    known = scaling.registered(registry)
    trend = RegisteredTrend(known)
    for step in (9, 10, 11, 99, 100, 321, 1500, 1999, 2000, 2001):
        band = known.band(step=step)
        assert trend(step) == (None if band is None else pytest.approx((band.value, band.low, band.high)))


def test_a_prediction_that_says_nothing_along_a_run_is_refused(tmp_path: Path) -> None:
    compute = [10.0**power for power in range(15, 22)]
    fit = scaling.fit(scaling.PowerLaw(), [2 + 30 * c**-0.09 for c in compute], C=compute, num_bootstraps=20)
    known = scaling.register(tmp_path / "p.json", fit, name="end", C=1e22)
    with pytest.raises(UsageError, match=r"trend=.*'end'.*also="):
        numguard.guard(trend=known)
    with pytest.raises(UsageError, match=r"trend=.*Fit.*PowerLaw says where runs.*register"):
        numguard.guard(trend=fit)
    with pytest.raises(InputError, match=r"missing\.json"):
        numguard.guard(trend=tmp_path / "missing.json")


PLACES = np.arange(10.0, NUM_STEPS + 1.0, 10.0)


def schedule_fit(*, ahead: bool = True) -> tuple[scaling.Fit, Array, Array]:
    """Fit the annealing law to a run in two stages, given the steps and rates of a cosine; return its rates, losses."""
    law, stages = scaling.AnnealingLaw(), np.where(PLACES < NUM_STEPS / 2, 1e-3, 3e-4)
    cosine = 1e-4 + 4.5e-4 * (1.0 + np.cos(np.pi * PLACES / NUM_STEPS))
    columns: dict[str, Any] = {
        "step": np.concatenate([PLACES, PLACES]),
        "lr": np.concatenate([stages, cosine]),
        "curve": np.repeat([0.0, 1.0], len(PLACES)),
    }
    constants = {"L0": 2.5, "A": 0.6, "alpha": 0.5, "K": 0.3}
    losses = np.exp(law.log_value(law.theta(constants)[None], law.design(columns))[0])
    noisy, half = losses * (1.0 + 0.002 * np.random.default_rng(0).standard_normal(len(losses))), len(PLACES)
    seen = np.concatenate([noisy[:half], np.full(half, np.nan)]) if ahead else noisy
    return scaling.fit(law, seen, num_bootstraps=20, **columns), cosine, losses[half:]


def test_a_fit_that_knows_the_schedule_of_the_run_is_followed() -> None:
    fit, cosine, coming = schedule_fit()
    steps, expected = fit.along_run()
    assert steps == pytest.approx(PLACES)
    alone = fit.predict(step=PLACES, lr=cosine)
    assert expected.value == pytest.approx(alone.value)
    trend = trend_of(fit)
    assert trend is not None
    assert trend(700) == pytest.approx((alone.value[69], alone.low[69], alone.high[69]))
    assert trend(NUM_STEPS + 1) is None
    losses = np.interp(np.arange(NUM_STEPS + 1.0), PLACES, coming)
    losses += 0.005 * np.random.default_rng(1).standard_normal(len(losses))
    assert alarms(watched(losses, trend=fit)) == []
    losses[1400:] += 2.0 * (alone.high - alone.value).max()
    assert "off_trend" in [kind for kind, _ in alarms(watched(losses, trend=fit))]


def test_a_fit_that_knows_no_run_ahead_is_refused() -> None:
    fit, _, _ = schedule_fit(ahead=False)
    with pytest.raises(UsageError, match=r"trend=.*0 of the 2 curves.*NaN.*register"):
        numguard.guard(trend=fit)


# -- an earlier run ------------------------------------------------------------------------------------------------


def test_a_small_drift_is_found_against_an_earlier_run_and_not_without(tmp_path: Path) -> None:
    watched(curve(NUM_STEPS, seed=1), run_dir=tmp_path / "earlier")
    losses = curve(NUM_STEPS, seed=2)
    assert alarms(watched(losses, reference=tmp_path / "earlier")) == []
    losses[1400:] += 0.01 / 100 * torch.arange(600).double().numpy()
    found = alarms(watched(losses, reference=tmp_path / "earlier"))
    # This curve falls by 0.015 in 100 steps there: with the drift it keeps a third of that, which counts as a plateau.
    assert found[0][0] in ("loss_drift", "loss_shift", "loss_plateau")
    assert 1400 < found[0][1] <= 1500
    assert all(step > 1800 for _, step in alarms(watched(losses))), "without it, hundreds of steps later"


def test_an_earlier_run_on_other_batches_is_left_alone_and_said(tmp_path: Path) -> None:
    watched(curve(NUM_STEPS, batches=7), run_dir=tmp_path / "earlier")
    guard = watched(curve(NUM_STEPS, batches=8), reference=tmp_path / "earlier")
    assert alarms(guard) == []
    assert [item.kind for item in guard.findings] == ["degraded"]
    assert "no longer compared" in guard.findings[0].message


def test_a_reference_is_a_log_of_any_format_or_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n0,3\n1,2\n")
    known = make_options({**_DEFAULTS, "reference": str(path)}).reference
    assert known is not None
    assert known.losses == {0: 3.0, 1: 2.0}
    assert make_options({**_DEFAULTS, "reference": known}).reference is known
    path.write_text("run,step,loss\na,0,3\nb,0,2\n")
    with pytest.raises(UsageError, match="holds 2 runs"):
        numguard.guard(reference=path)
    with pytest.raises(UsageError, match="reference="):
        numguard.guard(reference=5)


_DEFAULTS = {
    "run_dir": None,
    "budget": 0.01,
    "checks": None,
    "modules": None,
    "skip": None,
    "regions": None,
    "on_finding": "log",
    "trend": None,
    "reference": None,
    "accept": None,
    "capture": "summary",
    "seed": 0,
}


# -- resuming ------------------------------------------------------------------------------------------------------


def test_a_resumed_run_knows_what_is_normal() -> None:
    losses = curve(NUM_STEPS)
    losses[1010:1030] += 1.5
    first = numguard.guard()
    with first:
        for loss in losses[:1000].tolist():
            first.step(torch.tensor(loss, dtype=torch.float64))
        state = json.loads(json.dumps(first.state_dict(), allow_nan=False))
    second, forgetful = numguard.guard(), numguard.guard()
    second.load_state_dict(state)
    for guard in (second, forgetful):
        with guard:
            for loss in losses[1000:1012].tolist():
                guard.step(torch.tensor(loss, dtype=torch.float64))
    assert alarms(second)[0] == ("loss_spike", 1010)
    assert alarms(forgetful) == []


def test_a_state_that_does_not_fit_is_said_and_stops_nothing() -> None:
    guard = watched(curve(100))
    other = numguard.guard(reference=ReferenceRun.of([0, 1], [3.0, 2.0]))
    for state in (guard.state_dict(), {**guard.state_dict(), "losses": {"monitor": 5}}):
        other.load_state_dict(state)
        with other:
            other.step(1.0)
        assert "starts anew" in other.findings[0].message
    older = guard.state_dict()
    del older["losses"]
    other.load_state_dict(older)
    with other:
        other.step(1.0)
    assert other.findings == ()


# -- devices -------------------------------------------------------------------------------------------------------


def test_losses_that_arrive_late_are_watched_and_never_waited_for() -> None:
    losses = curve(1200)
    losses[1100:1110] += 1.5
    courier = Courier(delay=3)
    guard = Guard(make_options(_DEFAULTS), model=nn.Linear(2, 2), optimizers=(), send=courier)
    with NoWaiting(lambda operator: False) as mode, guard:
        for loss in losses.tolist():
            courier.now += 1
            guard.step(torch.full((), loss, dtype=torch.float64), grad_norm=torch.ones(()))
        num_waits = courier.num_waits
    assert num_waits == 0
    assert mode.violations == []
    assert ("loss_spike", 1100) in alarms(guard)
    assert guard._run is not None
    assert isinstance(guard._run.mailbox, RingMailbox)


def test_a_gradient_norm_on_a_late_device_leads() -> None:
    losses, courier = curve(900), Courier(delay=2)
    guard = Guard(make_options(_DEFAULTS), model=nn.Linear(2, 2), optimizers=(), send=courier)
    generator = torch.Generator().manual_seed(0)
    with guard:
        for step, loss in enumerate(losses.tolist()):
            courier.now += 1
            norm: Tensor = 1.0 + 0.1 * torch.rand((), generator=generator)
            guard.step(torch.tensor(loss), grad_norm=1000.0 * norm if step == 850 else norm)
    assert ("loss_spike", 850) in alarms(guard)


def test_a_loss_scale_that_collapses_is_said() -> None:
    with numguard.guard() as guard:
        for step in range(30):
            guard.step(2.0, loss_scale=2.0 ** (16 - step) if step < 10 else 1.0)
    assert [item.kind for item in guard.findings] == ["loss_scale"]


def test_steps_that_are_too_short_for_the_budget_are_thinned_and_that_is_said(unhurried: Callable[..., None]) -> None:
    guard = numguard.guard()
    with guard:
        for loss in curve(300).tolist():
            guard.step(torch.tensor(loss))
        assert guard._run is not None
        watch = guard._run.losses
        unhurried(watch, 0.01, 1e-4)
        assert watch.every > 1
        assert any("loss alarms" in reason for reason in guard.coverage.uncovered)
        unhurried(watch, 0.01, 10.0)
        assert watch.every == 1


def test_a_fault_of_the_detectors_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any, **named: Any) -> list[Any]:
        raise RuntimeError("broken detector")

    monkeypatch.setattr("numguard.detectors.LossMonitor.update", fails)
    guard = watched(curve(100))
    assert [item.kind for item in guard.findings] == ["degraded"]
    assert "broken detector" in guard.findings[0].message
