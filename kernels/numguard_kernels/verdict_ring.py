"""A ring of verdicts in device memory, which the host reads when it likes and never waits for."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

#: What a verdict consists of, in the order of its numbers.
FIELDS: Final = (
    "site",
    "flags",
    "num_elements",
    "num_wrong",
    "num_suspected",
    "num_indeterminate",
    "worst_ratio",
    "worst_index",
    "worst_computed",
    "worst_shadow",
    "worst_second",
    "worst_bound",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RingSnapshot:
    """A copy of a ring on its way to the host.

    Parameters
    ----------
    rows, sequences
        In host memory; to be read once :meth:`is_ready` says so.
    event
        What the copy waits for; None where it has been made.
    """

    rows: Tensor
    sequences: Tensor
    event: torch.cuda.Event | None

    def is_ready(self) -> bool:
        """Return whether the copy has arrived, without waiting."""
        return self.event is None or self.event.query()

    def since(self, sequence: int) -> tuple[list[dict[str, float]], int, int]:
        """Return the verdicts after a sequence number, the newest number, and how many were overwritten unread.

        Parameters
        ----------
        sequence
            The newest number of the snapshot before; 0 at first.
        """
        numbers = [int(number) for number in self.sequences.tolist()]
        newest = max(numbers)
        order = sorted((number, slot) for slot, number in enumerate(numbers) if number > sequence)
        found = [dict(zip(FIELDS, self.rows[slot].tolist(), strict=True)) for _, slot in order]
        return found, max(newest, sequence), max(0, newest - sequence - len(found))


class VerdictRing:
    """The newest verdicts of a device.

    Parameters
    ----------
    capacity
        Verdicts that are kept.
    device
        Where they are written.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        if capacity < 1:
            raise ValueError(f"a ring of {capacity} verdicts holds nothing: give a capacity of at least 1")
        self.capacity = capacity
        self.rows = torch.zeros((capacity, len(FIELDS)), dtype=torch.float64, device=device)
        self.sequences = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.cursor = torch.zeros(1, dtype=torch.int64, device=device)

    def snapshot(self) -> RingSnapshot:
        """Begin to copy the ring to the host on the current stream, and return at once."""
        if self.rows.device.type == "cpu":
            return RingSnapshot(rows=self.rows.clone(), sequences=self.sequences.clone(), event=None)
        rows = torch.empty(self.rows.shape, dtype=torch.float64, pin_memory=True)
        sequences = torch.empty(self.sequences.shape, dtype=torch.int64, pin_memory=True)
        with torch.cuda.device(self.rows.device):
            rows.copy_(self.rows, non_blocking=True)
            sequences.copy_(self.sequences, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        return RingSnapshot(rows=rows, sequences=sequences, event=event)
