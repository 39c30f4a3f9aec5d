"""Additions repeated in the order in which PyTorch's CPU kernels were observed to make them.

A bound on sums that are kept in 16 bits soon exceeds the sum itself. Where the order is known, the same additions give
the same bits, and one dropped term shows. Each replay is proved on private data by the check that uses it before a
difference counts (:func:`numguard.checks.losses.replays`, :func:`numguard.checks.normalisation_replay.replays`).
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from numguard.numerics.error_free import two_sum

Flags = npt.NDArray[np.bool_]

LEVELS: Final = 8  # partial sums of the negative log likelihood
_LARGEST: Final = 1 << 22  # padded elements that one level of a replay may take
_SMALLEST_NORMAL: Final = 2.0**-126


def _step(num_terms: int) -> int:
    """Return how many terms the lowest partial sum takes before it is moved up."""
    return 1 << max(4, max(0, num_terms - 1).bit_length() // LEVELS)


def cascade_height(counted: Flags) -> int:
    """Return the most additions that a term passes through in a cascade of eight partial sums.

    Parameters
    ----------
    counted
        Whether each target counts, in memory order, shape ``[n]``.

    Notes
    -----
    The kernel adds to the lowest partial sum and moves it up at every 2^k-th target, but only if the target at that
    place is not ignored: where padding sits there, the lower sum goes on growing, in the worst case to all n terms. So
    the height depends on the data and is counted.
    """
    step, height, events = _step(counted.size), LEVELS, counted
    for _ in range(LEVELS - 1):
        if not events.any():
            return height
        sums, moves = np.cumsum(events), events[::step]
        ends = np.concatenate([[0], sums[::step][moves], sums[-1:]])
        height, events = height + int(np.diff(ends).max()), moves
    return height + int(np.count_nonzero(events))


def cascade_total(terms: Tensor, counted: Flags) -> Tensor | None:
    """Return the sum of the counted terms as the cascade forms it in their own dtype.

    Parameters
    ----------
    terms
        Shape ``[n]``, in the dtype of the partial sums, on the CPU.
    counted
        Shape ``[n]``.

    Returns
    -------
    Tensor or None
        A number in the dtype of ``terms``; None where padding makes the replay too large.
    """
    places = np.flatnonzero(counted)
    values, partial_sums = terms.float().numpy()[places], []
    for level in range(1, LEVELS):
        moves = places % _step(counted.size) ** level == 0
        part = np.cumsum(moves) - moves  # a term that triggers a move is still part of the sum that moves
        length = np.bincount(part, minlength=int(moves.sum()) + 1)
        if length.size * length.max() > _LARGEST:
            return None
        padded = np.zeros((length.max(), length.size), dtype=np.float32)
        padded[np.arange(places.size) - (np.cumsum(length) - length)[part], part] = values
        sums = torch.zeros(length.size, dtype=terms.dtype)
        for addends in torch.from_numpy(padded).to(terms.dtype):
            sums = sums + addends
        partial_sums.append(sums[-1])
        places, values = places[moves], sums[:-1].float().numpy()
    total = torch.zeros((), dtype=terms.dtype)
    for value in torch.from_numpy(values).to(terms.dtype):
        total = total + value
    partial_sums.append(total)
    total = torch.zeros((), dtype=terms.dtype)
    for value in partial_sums:
        total = total + value
    return total


def narrowed(wide: Tensor, residue: Tensor) -> tuple[Tensor, Tensor]:
    """Return float64 sums rounded to float32, and where this may differ from rounding the exact sums once.

    Parameters
    ----------
    wide, residue
        Sums rounded to float64 and what that rounding left over, float64.

    Notes
    -----
    Rounding twice goes wrong only if the first rounding ends halfway between two float32 numbers. Values near the
    subnormal range are called doubtful as well, because the processor may flush them.
    """
    single = wide.float()
    halfway = (wide.view(torch.int64) & 0x1FFFFFFF) == 0x10000000
    small = (wide.abs() < 2.0 * _SMALLEST_NORMAL) & (wide != 0)
    return single, (halfway & (residue != 0)) | small


def fused_sum(product: Tensor, addend: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``product + addend`` rounded once to float32 as a fused multiply-add does, and where this is in doubt.

    ``product`` must be exact in float64.
    """
    return narrowed(*two_sum(product, addend))


def row_totals(terms: Tensor, storage: torch.dtype, num_threads: int) -> Tensor:
    """Return column sums as layer norm's backward forms them: rows one by one, each thread's rows in one buffer.

    Parameters
    ----------
    terms
        Shape ``[rows, columns]``, float64, exact.
    storage
        Dtype of the buffers, to which every sum is rounded by way of float32.
    num_threads
        Threads among which the rows are divided evenly.

    Returns
    -------
    Tensor
        Float32 sums of the buffers, shape ``[columns]``; NaN where rounding twice could have misled the replay.
    """
    rows, columns = terms.shape
    length = -(-rows // min(rows, num_threads))
    buffers = -(-rows // length)
    padded = terms.new_zeros((buffers * length, columns))
    padded[:rows] = terms
    addends = padded.reshape(buffers, length, columns).transpose(0, 1).contiguous()
    before = torch.empty_like(addends)
    buffer = terms.new_zeros((buffers, columns))
    for addend, old in zip(addends.unbind(), before.unbind(), strict=True):
        old.copy_(buffer)
        buffer = (buffer + addend).to(torch.float32).to(storage).to(torch.float64)
    doubtful = narrowed(*two_sum(before, addends))[1]
    result = torch.zeros(columns, dtype=torch.float32)
    for part in buffer.to(torch.float32):
        result = result + part
    return torch.where(doubtful.any(0).any(0), torch.nan, result)
