"""A jump of the loss that the data explain: the same batch was as hard in another run, or in an earlier epoch."""

from dataclasses import dataclass, field
from typing import Final

#: Names that are kept; older ones are forgotten.
MOST_BATCHES: Final = 4096
#: Standard deviations within which the difference from the reference has to stay.
CALM: Final = 5.0


@dataclass(slots=True, kw_only=True)
class HardBatches:
    """Names of batches on which the loss jumped.

    Parameters
    ----------
    known
        Names, oldest first.
    """

    known: dict[str, bool] = field(default_factory=dict)

    def learn(self, batch: str) -> None:
        """Note a batch on which the loss jumped."""
        self.known[batch] = True
        while len(self.known) > MOST_BATCHES:
            del self.known[next(iter(self.known))]

    def explain(self, batch: str | None, reference_score: float | None, reference: str) -> str:
        """Return why a jump is the batch's and not a fault's; an empty text where nothing says so.

        Parameters
        ----------
        batch
            Name of the step's batch, where known.
        reference_score
            Standardised difference from a reference on the same batches, None without one.
        reference
            Name of that run.
        """
        if reference_score is not None and -CALM <= reference_score <= CALM:
            return f"{reference} jumped on the same batch, the difference stays within {CALM:g} standard deviations"
        if batch is not None and batch in self.known:
            return f"the loss jumped on batch {batch} before"
        return ""
