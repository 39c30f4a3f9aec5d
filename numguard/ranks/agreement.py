"""Agreement on one number among all ranks without a collective: through the store that the launcher keeps anyway.

A collective of ours could hang a job or meet one of the user's in another order. The store cannot: every rank
leaves its wish some steps before it is needed, rank 0 publishes the largest, and all read it at the same step. A
rank that finds nothing keeps what it had, and says so.
"""

from datetime import timedelta
from typing import Any, Protocol

import torch

PATIENCE = timedelta(seconds=10)
IMPATIENCE = timedelta(seconds=0.2)  # once a rank was missed: one that has no guard must not stall the others again


class Agreement(Protocol):
    """Turns every rank's wish into one number that all of them use."""

    def wish(self, round_name: str, value: int) -> None:
        """Leave this rank's wish for a round."""

    def publish(self, round_name: str) -> None:
        """On rank 0: publish the largest wish of the round."""

    def agreed(self, round_name: str) -> int | None:
        """Return what was published, or None where nothing was."""


class AloneAgreement:
    """A single process agrees with itself."""

    def __init__(self) -> None:
        self._wishes: dict[str, int] = {}

    def wish(self, round_name: str, value: int) -> None:
        """Remember the wish."""
        self._wishes[round_name] = value

    def publish(self, round_name: str) -> None:
        """Do nothing: the wish is the agreement."""

    def agreed(self, round_name: str) -> int | None:
        """Return the wish."""
        return self._wishes.pop(round_name, None)


class StoreAgreement:
    """Agreement through the key-value store of the default process group.

    Parameters
    ----------
    store
        A ``torch.distributed.Store``.
    rank, world_size
        Of the run.
    prefix
        Keeps guards and attempts apart; the same on every rank.
    """

    def __init__(self, store: Any, rank: int, world_size: int, prefix: str) -> None:
        self._store, self._rank, self._world_size = store, rank, world_size
        self._prefix = prefix
        self._patience = PATIENCE

    def _key(self, round_name: str, rank: int | str) -> str:
        return f"numguard/{self._prefix}/{round_name}/{rank}"

    def wish(self, round_name: str, value: int) -> None:
        """Set this rank's key."""
        self._store.set(self._key(round_name, self._rank), str(value))

    def publish(self, round_name: str) -> None:
        """Read the wishes that have arrived and set the agreed key to the largest; 0 (never) beats any interval."""
        if self._rank != 0:
            return
        keys = [self._key(round_name, rank) for rank in range(self._world_size)]
        try:
            self._store.wait(keys, self._patience)
        except RuntimeError:
            self._patience = IMPATIENCE
            keys = [key for key in keys if self._store.check([key])]
        wishes = [int(self._store.get(key)) for key in keys]
        value = 0 if not wishes or min(wishes) == 0 else max(wishes)
        self._store.set(self._key(round_name, "agreed"), str(value))

    def agreed(self, round_name: str) -> int | None:
        """Read the agreed key, waiting at most ten seconds for it, and less once it was missed."""
        key = self._key(round_name, "agreed")
        try:
            self._store.wait([key], self._patience)
            return int(self._store.get(key))
        except RuntimeError:
            self._patience = IMPATIENCE
            return None


def agreement_for(rank: int, world_size: int, prefix: str) -> Agreement:
    """Return the agreement of this run: through the store where a process group is up, else alone.

    Every call makes a new one, which finds nothing of those before it in the store: ranks must make them in the same
    order.
    """
    distributed = torch.distributed
    if world_size > 1 and distributed.is_available() and distributed.is_initialized():
        store = distributed.distributed_c10d._get_default_store()
        # Counted in the store: a process that outlives its process group would be ahead of ranks that start afresh.
        made = store.add(f"numguard/{prefix}/made/{rank}", 1)
        return StoreAgreement(store, rank, world_size, f"{prefix}-{made}")
    return AloneAgreement()
