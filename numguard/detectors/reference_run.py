"""An earlier run's log, to compare this run with, step by step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from numguard.errors import UsageError

#: Half the width of the running mean that takes level and trend out of a proxy's curve.
HALF_WIDTH: Final = 256
#: Rows that must lie on either side of a step for its deviation to be known.
LEAST_HALF_WIDTH: Final = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceRun:
    """Losses of another run by step.

    Parameters
    ----------
    losses
        Loss of each step; nonfinite ones are left out.
    batches
        Name of each step's batch (:func:`numguard.detectors.batch_order_hash`), where known.
    deviations
        Loss of each step less the mean of up to :data:`HALF_WIDTH` rows on either side.
    name
        What findings call it.
    """

    losses: Mapping[int, float]
    batches: Mapping[int, str] = field(default_factory=dict)
    deviations: Mapping[int, float] = field(default_factory=dict)
    name: str = "the reference run"

    @classmethod
    def of(
        cls,
        steps: Sequence[float],
        losses: Sequence[float | None],
        batch_ids: Sequence[str | None] | None = None,
        *,
        name: str = "the reference run",
    ) -> "ReferenceRun":
        """Return a reference from columns.

        Parameters
        ----------
        steps, losses
            One entry per logged row, of the same length. A step that occurs twice counts with its last row: that is
            what a run kept which went back to a checkpoint.
        batch_ids
            Names of the batches; None where unknown.
        name
            What findings call this run.

        Raises
        ------
        UsageError
            Where the columns differ in length or hold no finite loss.
        """
        if len(steps) != len(losses) or (batch_ids is not None and len(batch_ids) != len(steps)):
            raise UsageError(
                f"{len(steps)} steps, {len(losses)} losses and "
                f"{'no' if batch_ids is None else len(batch_ids)} batch ids do not belong to the same rows"
            )
        known = {
            int(step): float(loss)
            for step, loss in zip(steps, losses, strict=True)
            if loss is not None and math.isfinite(loss)
        }
        if not known:
            raise UsageError(f"{name} holds no finite loss; hand in the log of a run that trained")
        named = {} if batch_ids is None else dict(zip(map(int, steps), batch_ids, strict=True))
        return cls(
            losses=known,
            batches={step: str(id_) for step, id_ in named.items() if id_ is not None},
            deviations=_deviations(known),
            name=name,
        )

    def slope(self, step: int) -> float:
        """Return the change of the loss per step around a step, from 256 rows on either side; 0 where unknown."""
        before = [self.losses[at] for at in range(step - 256, step) if at in self.losses]
        after = [self.losses[at] for at in range(step, step + 256) if at in self.losses]
        if len(before) < 64 or len(after) < 64:
            return 0.0
        return (sum(after) / len(after) - sum(before) / len(before)) / ((len(before) + len(after)) / 2.0)


def _deviations(losses: Mapping[int, float]) -> dict[int, float]:
    steps = sorted(losses)
    sums = [0.0, *accumulate(losses[step] for step in steps)]
    found = {}
    for row, step in enumerate(steps):
        width = min(HALF_WIDTH, row, len(steps) - 1 - row)
        if width >= LEAST_HALF_WIDTH:
            mean = (sums[row + width + 1] - sums[row - width]) / (2 * width + 1)
            found[step] = losses[step] - mean
    return found
