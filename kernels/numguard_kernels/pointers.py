"""Many tensors in one launch: a table of addresses, and the pieces of work that programs take from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class PointerTable:
    """Addresses and sizes of lists of tensors, and how they are cut into pieces, on the device of the tensors.

    Built on the host; building it once and launching with it many times is what makes a launch cheap. It does not keep
    the tensors alive, and is stale once one of them moves.

    Parameters
    ----------
    addresses
        int64, (lists, tensors).
    sizes
        int64, (tensors,), in elements.
    pieces
        int64, (pieces, 2): the tensor, and the number of the piece within it.
    num_pieces
        Rows of ``pieces``.
    full, partial
        int64, the pieces that are full of elements, and those at the ends of tensors that are not.
    """

    addresses: Tensor
    sizes: Tensor
    pieces: Tensor
    num_pieces: int
    full: Tensor
    partial: Tensor


def pointer_table(lists: Sequence[Sequence[Tensor]], *, elements_per_piece: int) -> PointerTable:
    """Return the table of lists of equal length, whose tensors correspond by position.

    Parameters
    ----------
    lists
        Contiguous tensors of one device; corresponding ones have equal sizes.
    elements_per_piece
        Work of one program.
    """
    first = lists[0]
    device = first[0].device
    sizes = np.array([x.numel() for x in first], dtype=np.int64)
    counts = -(-sizes // elements_per_piece)
    owners = np.repeat(np.arange(len(first), dtype=np.int64), counts)
    numbers = np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
    is_full = (numbers + 1) * elements_per_piece <= sizes[owners]
    addresses = np.array([[x.data_ptr() for x in entry] for entry in lists], dtype=np.int64)

    def placed(array: np.ndarray) -> Tensor:
        host = torch.from_numpy(np.ascontiguousarray(array))
        return host.to(device) if device.type != "cuda" else host.pin_memory().to(device, non_blocking=True)

    return PointerTable(
        addresses=placed(addresses),
        sizes=placed(sizes),
        pieces=placed(np.stack([owners, numbers], axis=1)),
        num_pieces=int(counts.sum()),
        full=placed(np.flatnonzero(is_full)),
        partial=placed(np.flatnonzero(~is_full)),
    )


def is_aligned(x: Tensor) -> bool:
    """Return whether a tensor begins at a multiple of 16 bytes, so that it can be read 16 bytes at a time."""
    return x.data_ptr() % 16 == 0
