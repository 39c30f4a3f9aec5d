"""Whether two runs really saw the same batches: by the names of the batches, else by what the losses do."""

import math
from dataclasses import dataclass
from typing import Final

#: Pairs of differences before the correlation is believed.
LEAST_ROWS: Final = 128
#: Least correlation of the step-to-step differences. Measured: 0.998 and more for the same recipe on the same
#: batches, 0.976 for a smaller model on them, 0.00 for other batches.
LEAST_CORRELATION: Final = 0.5


@dataclass(slots=True, kw_only=True)
class SameOrder:
    """Correlation of step-to-step differences, summed up once over the first rows.

    Parameters
    ----------
    previous, previous_other
        Last losses of the two runs.
    product, square, square_other, num_rows
        Sums over the differences.
    refused
        Why the other run is no longer compared with; empty while it is.
    """

    previous: float | None = None
    previous_other: float = 0.0
    product: float = 0.0
    square: float = 0.0
    square_other: float = 0.0
    num_rows: int = 0
    refused: str = ""

    @property
    def proved(self) -> bool:
        """Whether enough rows say that the batches are the same, and none says otherwise."""
        return not self.refused and self.num_rows >= LEAST_ROWS

    @property
    def correlation(self) -> float:
        """Correlation of the step-to-step differences, around zero; 1 where nothing changes."""
        norm = math.sqrt(self.square * self.square_other)
        return self.product / norm if norm > 0.0 else 1.0

    @property
    def factor(self) -> float:
        """Least-squares factor from the other run's differences to this run's."""
        return self.product / self.square_other if self.square_other > 0.0 else 1.0

    def add(self, loss: float, other: float) -> None:
        """Take the losses of the same step; does nothing once enough are known."""
        if self.num_rows >= LEAST_ROWS:
            return
        if self.previous is not None:
            change, change_other = loss - self.previous, other - self.previous_other
            self.product += change * change_other
            self.square += change * change
            self.square_other += change_other * change_other
            self.num_rows += 1
            if self.num_rows == LEAST_ROWS and self.correlation < LEAST_CORRELATION:
                self.refused = (
                    f"step-to-step changes correlate by {self.correlation:.2f} only, {LEAST_CORRELATION} is the least "
                    "for runs on the same batches"
                )
        self.previous, self.previous_other = loss, other

    def compare_batches(self, step: int, batch: str, other: str) -> None:
        """Refuse the other run where a step saw different batches."""
        if batch != other and not self.refused:
            self.refused = f"at step {step} this run saw batch {batch}, the other one {other}"
