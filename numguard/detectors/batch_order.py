"""Which samples a step saw, as a short name: only runs on the same batches may be subtracted from each other."""

import hashlib
from collections.abc import Iterable


def batch_order_hash(sample_ids: Iterable[int | str]) -> str:
    """Return a 16-digit name of a batch.

    Parameters
    ----------
    sample_ids
        Identifiers of the samples (indices into the data set, or names) in the order in which the batch holds them.
        With several ranks: of all of them, rank after rank.

    Notes
    -----
    The first 64 bits of SHA-256: two of 10^8 different batches bear the same name with probability 3e-4.
    """
    digest = hashlib.sha256()
    for sample in sample_ids:
        digest.update(str(sample).encode())
        digest.update(b"\x1f")
    return digest.hexdigest()[:16]
