"""Where the findings of a single examined call go: to the run of a guard, or outside one to an inquiry."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from numguard.inquiry import Inquiry, active_guard
from numguard.interception.attribution import Origin
from numguard.interception.observation import Observation
from numguard.session.demand import follow
from numguard.session.run import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Venue:
    """Where the findings of one call go.

    Parameters
    ----------
    run, step
        The guard's, where one is present; None and 0 elsewhere.
    inquiry
        Takes what is found where no guard is present.
    """

    run: Run | None
    step: int
    inquiry: Inquiry

    def clock(self) -> AbstractContextManager[object]:
        """Return what counts the time inside as numguard's own."""
        return self.run.clock if self.run is not None else nullcontext()

    def origin(self) -> Origin:
        """Return where the present call comes from."""
        return (self.inquiry.attribution if self.run is None else self.run.inspector.attribution).origin()

    def post(self, vector: Tensor, deliver: Callable[[list[float]], None]) -> None:
        """Hand over numbers that are read when they have arrived; outside a guard at once."""
        if self.run is None:
            deliver(vector.tolist())
        else:
            self.run.mailbox.post(vector, deliver)

    def observe(self, observation: Observation) -> None:
        """Enter what a check found."""
        (self.inquiry if self.run is None else self.run).observe(observation)

    def enter(self, kind: str, key: tuple[object, ...], **fields: Any) -> None:
        """Enter a finding that no check of an operator made; one with the same key only counts."""
        (self.inquiry if self.run is None else self.run).enter(kind, key, **fields)

    def degrade(self, stage: str, what: str, advice: str) -> None:
        """Enter a ``degraded`` finding, once for each stage and reason."""
        if self.run is None:
            self.inquiry.degrade(stage, what, advice)
        else:
            self.run.health.degrade(self.step, stage, what, advice)


def present_venue(inquiry: Inquiry) -> Venue | None:
    """Return where findings go now, or None where a guard looks away.

    Parameters
    ----------
    inquiry
        Takes them outside every guard.
    """
    guard = active_guard()
    if guard is None:
        return Venue(run=None, step=0, inquiry=inquiry)
    present = guard.present()
    if present is None:
        return None
    follow(*present)
    run, step = present
    return Venue(run=run, step=step, inquiry=inquiry)
