"""The loss of a live run and its detectors: fed in the order of steps, within a part of the budget."""

import math
from collections.abc import Callable, Mapping
from time import process_time
from typing import Any, Final

from torch import Tensor

from numguard.detectors import LossMonitor
from numguard.errors import UsageError
from numguard.finding import Finding
from numguard.interception.mailbox import Mailbox
from numguard.session.options import GuardOptions

PART: Final = 0.1  # of the budget that the detectors may cost
_SLOWEST: Final = 8  # steps of which one is looked at, at least: steps that are shorter pay for no check either
_MOST_WAITING: Final = 4_096  # steps whose loss is on its way from the device
_NUMBERS: Final = ("lr", "tokens", "loss_scale", "grad_norm")
#: Kinds after which the next steps are checked exhaustively.
ALARMS: Final = frozenset({"loss_spike", "loss_shift", "loss_drift", "loss_noise", "loss_plateau", "off_trend"})


class LossWatch:
    """Feeds a monitor with the losses of a guard, as they become known.

    Parameters
    ----------
    options
        Trend and earlier run.
    mailbox, immediate
        Brings numbers to the host, and whether it does so at once.
    found
        Takes each finding.
    fault
        Takes an exception; the watch ends with it.
    rank
        Rank 0 watches. One is enough: a loss that is averaged over the ranks is the same everywhere, and the alarms of
        one that is not would come from some rank all the time.
    """

    def __init__(
        self,
        options: GuardOptions,
        mailbox: Mailbox,
        *,
        immediate: bool,
        found: Callable[[Finding], None],
        fault: Callable[[str, BaseException], None],
        rank: int,
    ) -> None:
        self._trend, self._found, self._fault = options.trend, found, fault
        self._monitor = LossMonitor(reference=options.reference, trend=options.trend) if rank == 0 else None
        self._mailbox, self._immediate = mailbox, immediate
        self._beside: dict[int, dict[str, Any]] = {}
        self._row_seconds = 0.0
        self.every = 1

    @property
    def is_on(self) -> bool:
        """Whether the loss is watched here."""
        return self._monitor is not None

    def expect(self, step: int, extra: Mapping[str, Any]) -> None:
        """Remember what was given beside the loss of a step until the loss is known.

        A gradient norm on the device is sent ahead of the loss; other tensors are read where that is no waiting.
        """
        if self._monitor is None:
            return
        beside = {
            name: value
            for name, value in extra.items()
            if value is not None and (self._immediate or not isinstance(value, Tensor))
        }
        norm = extra.get("grad_norm")
        if isinstance(norm, Tensor) and not self._immediate and norm.numel() == 1 and not norm.is_complex():
            self._mailbox.post(
                norm.detach().reshape(1).double(), lambda numbers: beside.__setitem__("grad_norm", numbers[0])
            )
        elif not beside:
            return
        self._beside[step] = beside
        while len(self._beside) > _MOST_WAITING:
            del self._beside[next(iter(self._beside))]

    def take(self, step: int, loss: float) -> float:
        """Look at the loss of a step; return the seconds that it took."""
        beside = self._beside.pop(step, None) if self._beside else None
        if self._monitor is None or step % self.every:
            return 0.0
        began = process_time()
        try:
            row = _row(beside) if beside else {}
            if self._trend is not None:
                self._trend.tokens = row.get("tokens")
            for finding in self._monitor.update(step, loss, **row):
                # Whether the loss is finite is looked at in every step, on every rank, and with the place of its birth.
                if finding.kind != "nonfinite":
                    self._found(finding)
        except Exception as error:
            self._monitor = None
            self._fault("losses", error)
        seconds = process_time() - began
        self._row_seconds += 0.05 * (seconds - self._row_seconds) if self._row_seconds else seconds
        return seconds

    def set_pace(self, budget: float | None, step_seconds: float) -> None:
        """Look at one step of several where steps are too short for their part of the budget."""
        if budget is None or step_seconds <= 0.0:
            return
        wanted = self._row_seconds / (PART * budget * step_seconds)
        if wanted > self.every or wanted < self.every / 4:
            self.every = min(_SLOWEST, 2 ** max(0, math.ceil(math.log2(max(wanted, 1.0)))))

    def uncovered(self, num_steps: int) -> dict[str, int]:
        """Return which losses no detector looks at."""
        if self.every == 1:
            return {}
        reason = f"loss alarms: steps are too short for the budget, so one loss of {self.every} is looked at"
        return {reason: num_steps - num_steps // self.every}

    def state(self) -> dict[str, Any] | None:
        """Return what is known so far, as plain JSON values."""
        return None if self._monitor is None else {"monitor": self._monitor.state_dict(), "every": self.every}

    def go_on(self, state: Any, step: int, degrade: Callable[[int, str, str, str], None]) -> None:
        """Go on from :meth:`state`; where it does not fit, start anew and say so."""
        if self._monitor is None or state is None:
            return
        try:
            self._monitor.load_state_dict(state["monitor"])
            self.every = max(1, min(_SLOWEST, int(state["every"])))
        except (UsageError, KeyError, TypeError, ValueError, AttributeError) as reason:
            what = f"what it knew of the losses does not fit, so it starts anew ({reason})"
            degrade(step, "loss watch", what, "Hand in the same trend= and reference= as before.")


def _row(beside: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name in _NUMBERS:
        try:
            value = float(beside[name])
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError):
            continue
        if math.isfinite(value):  # an infinite norm is a scaler at work, or follows from what the loss will show
            row[name] = value
    batch = beside.get("batch_id")
    if batch is not None:
        row["batch_id"] = str(batch)
    return row
