"""From an alarm to a finding: figures, rung, calibrated rate, and what to do."""

from typing import Any, Final

from numguard.detectors.alarm import Alarm
from numguard.detectors.alarm_budget import CALIBRATIONS, Rung
from numguard.finding import KINDS, Finding, fingerprint

_AGAINST: Final = {
    "reference": "against {name}, on the same batches",
    "proxy": "with the batch noise of {name} taken out, against its own log-trend",
    "log-trend": "against its own log-trend",
}
_ADVICE: Final = {
    "loss_spike": "Look at the gradient norm and the batch of this step; go back to the last checkpoint before it if "
    "the loss has not returned within some tens of steps.",
    "loss_shift": "Compare what changed at the onset: data, code, machines, learning rate. A level that stays away "
    "was not noise.",
    "loss_drift": "Run the recorded steps again from a checkpoint before the onset on another machine; a drift against "
    "the same recipe on the same batches is not the data's.",
    "loss_plateau": "The reference went on learning on the same batches: check that every parameter still moves "
    "(lost updates, learning rate, frozen modules).",
    "loss_noise": "Check batch size, loss averaging over ranks, and dropout: the noise of the loss changed, not its "
    "level.",
    "gradient_lead": "Keep the checkpoint before this step: on real logs the loss followed one step later.",
    "off_trend": "Compare with the registered prediction before spending more compute: numguard scaling verify.",
    "hard_batch": "Nothing to do; look at the batch if it comes again.",
    "loss_scale": "Look for the first overflow; with skipped steps the learning rate schedule runs ahead of training.",
    "nonfinite": "If the losses after it are not finite either, the weights are not: stop, and go back to the last "
    "checkpoint before this step. If they are, look at the batch of this step, and whether the step was skipped.",
}


def describe(alarm: Alarm) -> str:
    """Return what happened, in one clause."""
    size = abs(alarm.size)
    rose = "rose" if alarm.direction == "up" else "fell"
    if alarm.detector == "loss_spike":
        return f"the loss {rose} by {size:.3g} from one row to the next"
    if alarm.detector == "loss_noise":
        grew = "grew" if alarm.direction == "up" else "shrank"
        return f"the step-to-step noise of the loss {grew} to {size:.2g} times what it was"
    if alarm.detector == "gradient_lead":
        return f"the gradient norm jumped to {size:.3g} times its usual value"
    if alarm.kind == "loss_drift":
        return f"the loss {rose} away by {size * 100:.2g} per 100 rows over {alarm.onset_rows} rows"
    if alarm.kind == "loss_plateau":
        return f"the loss stopped falling about {alarm.onset_rows} rows ago"
    return f"the level of the loss {rose} by {size:.3g} about {alarm.onset_rows} rows ago"


def finding_of_alarm(
    alarm: Alarm, *, step: int, clean: int | None, rung: Rung, name: str, row: dict[str, Any]
) -> Finding:
    """Return the finding for a statistical alarm.

    Parameters
    ----------
    alarm
        What crossed.
    step, clean
        This step, and the last one before the onset, where known.
    rung, name
        What the loss was compared with.
    row
        What else was logged in this row, and the run's name.
    """
    rate = CALIBRATIONS[rung]
    against = _AGAINST[rung].format(name=name)
    if alarm.detector == "gradient_lead":
        against = "against its own recent past"
    measured = f"; measured at this threshold: {rate}" if rate is not None else ""
    return _finding(
        kind=alarm.kind,
        step=step,
        clean=clean,
        message=(
            f"{describe(alarm)}, {against} (statistic {alarm.statistic:.3g}, threshold {alarm.threshold:.3g}{measured})"
        ),
        advice=_ADVICE[alarm.detector if alarm.detector == "gradient_lead" else alarm.kind],
        evidence={
            **row,
            "detector": alarm.detector,
            "test": alarm.test,
            "rung": rung,
            "direction": alarm.direction,
            "statistic": alarm.statistic,
            "threshold": alarm.threshold,
            "onset_rows": alarm.onset_rows,
            "size": alarm.size,
            "false_alarms_per_10k": None if rate is None else [rate.per_10k, rate.low, rate.high],
        },
        same=(alarm.kind, alarm.detector, alarm.direction, rung),
    )


def finding_off_trend(alarm: Alarm, *, step: int, clean: int | None, row: dict[str, Any]) -> Finding:
    """Return the finding for a loss outside the band of a registered prediction."""
    side, end = ("above", "high") if alarm.direction == "up" else ("below", "low")
    return _finding(
        kind="off_trend",
        step=step,
        clean=clean,
        message=(
            f"the mean loss of the last {alarm.onset_rows // 2} rows, {alarm.statistic:.5g}, is {side} the {end} end "
            f"{alarm.threshold:.5g} of the predicted band, {abs(alarm.size):.3g} from the predicted value; so "
            f"were the {alarm.onset_rows // 2} rows before"
        ),
        advice=_ADVICE["off_trend"],
        evidence={
            **row,
            "detector": "off_trend",
            "rung": "trend",
            "direction": alarm.direction,
            "mean": alarm.statistic,
            "band_end": alarm.threshold,
            "onset_rows": alarm.onset_rows,
            "size": alarm.size,
        },
        same=("off_trend", alarm.direction),
    )


def finding_hard_batch(alarm: Alarm, reason: str, *, step: int, row: dict[str, Any]) -> Finding:
    """Return the notice for a jump that the batch explains."""
    return _finding(
        kind="hard_batch",
        step=step,
        clean=None,
        message=f"{describe(alarm)}, but {reason}",
        advice=_ADVICE["hard_batch"],
        evidence={**row, "detector": "hard_batch", "size": alarm.size, "statistic": alarm.statistic},
        same=("hard_batch", step),
    )


def finding_exact(kind: str, what: str, *, step: int, clean: int | None, row: dict[str, Any]) -> Finding:
    """Return the finding for an exact rule: a nonfinite value, a collapsing loss scale, steps that are skipped."""
    return _finding(
        kind=kind,
        step=step,
        clean=clean,
        message=f"{what} at step {step}",
        advice=_ADVICE[kind],
        evidence={**row, "detector": kind},
        same=(kind, what.partition(" from ")[0]),
        exact=True,
    )


def finding_refused(what: str, reason: str, *, step: int, row: dict[str, Any]) -> Finding:
    """Return the warning that a comparison with another run was given up."""
    return _finding(
        kind="degraded",
        step=step,
        clean=None,
        message=f"{what} is no longer compared with: {reason}; from here on the next lower reference is used",
        advice="Hand in a run on the same batches, or leave the argument out.",
        evidence={**row, "detector": "same_order"},
        same=("degraded", "reference", what),
    )


def _finding(
    *,
    kind: str,
    step: int,
    clean: int | None,
    message: str,
    advice: str,
    evidence: dict[str, Any],
    same: tuple[object, ...],
    exact: bool = False,
) -> Finding:
    run = evidence.get("run", "")
    return Finding(
        id=f"{kind}-{run}-{step}" if run else f"{kind}-{step}",
        fingerprint=fingerprint(*same),
        kind=kind,
        severity=KINDS[kind],
        proof="exact" if exact else "none",
        confirmed="exact" if exact else "no",
        first_caught_step=step,
        last_clean_step=clean,
        message=message,
        advice=advice,
        evidence=evidence,
    )
