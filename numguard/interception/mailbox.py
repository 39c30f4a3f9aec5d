"""Verdicts on their way from the device to the host, read when they are ready and never waited for.

On the CPU a verdict can be read at once. On an accelerator it is written into a ring on the device; at the end of
a step the new part of the ring is sent to the host without waiting, and read when the copy has arrived.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import torch
from torch import Tensor

Deliver = Callable[[list[float]], None]
MOST_PARCELS: Final = 64  # on their way: with the ring's capacity, 8 MiB of pinned memory


class Mailbox(Protocol):
    """Carries small float64 vectors from where they are computed to the host."""

    num_dropped: int

    def post(self, vector: Tensor, deliver: Deliver) -> None:
        """Hand over a vector; ``deliver`` is called with its numbers when they can be read."""

    def flush(self) -> None:
        """Send what was posted since the last flush on its way."""

    def collect(self) -> None:
        """Deliver what has arrived, in the order in which it was posted."""

    def close(self) -> None:
        """Wait for everything that is on its way and deliver it: only at the end of a run."""


class ImmediateMailbox:
    """The CPU's mailbox: a vector is delivered when it is posted."""

    def __init__(self) -> None:
        self.num_dropped = 0

    def post(self, vector: Tensor, deliver: Deliver) -> None:
        """Deliver at once."""
        deliver(vector.tolist())

    def flush(self) -> None:
        """Do nothing: nothing is on its way."""

    def collect(self) -> None:
        """Do nothing: nothing is on its way."""

    def close(self) -> None:
        """Do nothing: nothing is on its way."""


class Parcel(Protocol):
    """A copy from device to host that is on its way."""

    def ready(self) -> bool:
        """Return whether the copy has arrived, without waiting."""

    def numbers(self) -> list[float]:
        """Return what was copied, waiting if it has not arrived."""


class CudaParcel:
    """A copy into pinned memory with an event behind it."""

    def __init__(self, batch: Tensor) -> None:
        self._host = torch.empty(batch.shape, dtype=batch.dtype, pin_memory=True)
        self._host.copy_(batch, non_blocking=True)
        self._event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record()

    def ready(self) -> bool:
        """Ask the event."""
        return bool(self._event.query())

    def numbers(self) -> list[float]:
        """Wait for the event and read the pinned memory."""
        self._event.synchronize()
        numbers: list[float] = self._host.tolist()
        return numbers


class RingMailbox:
    """An accelerator's mailbox: a ring of numbers on the device.

    Parameters
    ----------
    device
        Where vectors are posted from.
    send
        Starts a copy to the host and returns it; :class:`CudaParcel` on CUDA.
    capacity
        Numbers that the ring holds. When it is full it is sent on its way and written from the start again; what is
        posted while too many such parcels have not arrived is dropped and counted.
    """

    def __init__(self, device: torch.device, send: Callable[[Tensor], Parcel] = CudaParcel, capacity: int = 1 << 14):
        self.num_dropped = 0
        self._ring = torch.zeros(capacity, dtype=torch.float64, device=device)
        self._send = send
        self._used = 0
        self._posted: list[tuple[int, Deliver]] = []
        self._parcels: deque[tuple[Parcel, list[tuple[int, Deliver]]]] = deque()

    def post(self, vector: Tensor, deliver: Deliver) -> None:
        """Write the vector into the ring on its own stream."""
        size = vector.numel()
        if self._used + size > self._ring.numel():
            self.flush()
        if self._used + size > self._ring.numel():
            self.num_dropped += 1
            return
        self._ring[self._used : self._used + size].copy_(vector.reshape(-1))
        self._used += size
        self._posted.append((size, deliver))

    def flush(self) -> None:
        """Start the copy of everything posted since the last flush; the stream orders it before later writes."""
        if self._posted and len(self._parcels) < MOST_PARCELS:
            self._start()

    def _start(self) -> None:
        if self._posted:
            self._parcels.append((self._send(self._ring[: self._used]), self._posted))
            self._posted, self._used = [], 0

    def collect(self) -> None:
        """Deliver the parcels that have arrived, oldest first, and stop at the first that has not."""
        while self._parcels and self._parcels[0][0].ready():
            self._deliver(*self._parcels.popleft())

    def close(self) -> None:
        """Send the rest and wait for all of it."""
        self._start()
        while self._parcels:
            self._deliver(*self._parcels.popleft())

    @staticmethod
    def _deliver(parcel: Parcel, posted: list[tuple[int, Deliver]]) -> None:
        numbers, first = parcel.numbers(), 0
        for size, deliver in posted:
            deliver(numbers[first : first + size])
            first += size
