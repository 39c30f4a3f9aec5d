"""Sums over the bits of a tensor's memory: whatever single element changes, one of them changes with it."""

import ctypes
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_WORDS: Final = 512  # 64-bit words that share a sum
CHUNK_BYTES: Final = 1 << 18  # of a tensor that are looked at at once
_PLAIN: Final = (Tensor, torch.nn.Parameter)


def can_be_summed(tensor: Tensor) -> bool:
    """Return whether a tensor lies in host memory in one piece, so that its bits can be read past every mode."""
    return (
        type(tensor) in _PLAIN
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_inference()
        and tensor.numel() > 0
        and tensor.data_ptr() != 0
        and _is_dense(tensor)
    )


def _is_dense(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def bit_sums(tensor: Tensor, first: int, last: int) -> NDArray[np.uint64]:
    """Return the sums of the 64-bit words of a tensor's memory, modulo ``2**64``, for each block of 512 words.

    Parameters
    ----------
    tensor
        One that :func:`can_be_summed`.
    first, last
        Bytes, ``last`` excluded; ``first`` a multiple of 8. A last word that is not full is filled up with zeros.

    Notes
    -----
    Exact. A change of one word by ``d`` changes its block's sum by ``d``, which is not zero modulo ``2**64``: no change
    within one word is missed. Changes of several words of a block are missed only where they add up to zero; of random
    ones that is one in ``2**64``.
    """
    buffer: Any = (ctypes.c_ubyte * (last - first)).from_address(tensor.data_ptr() + first)
    num_words = (last - first) // 8
    words = np.frombuffer(buffer, dtype=np.uint64, count=num_words)
    num_blocks = num_words // BLOCK_WORDS
    whole = words[: num_blocks * BLOCK_WORDS].reshape(num_blocks, BLOCK_WORDS)
    rest = words[num_blocks * BLOCK_WORDS :].sum(dtype=np.uint64)
    tail = bytes(buffer[num_words * 8 :]) if (last - first) % 8 else b""
    with np.errstate(over="ignore"):
        rest = rest + np.uint64(int.from_bytes(tail, "little"))
    return np.append(np.add.reduce(whole, axis=1, dtype=np.uint64), rest)


def single_bit(before: NDArray[np.uint64], after: NDArray[np.uint64]) -> tuple[int, int] | None:
    """Return block and bit where two lists of sums differ as one flipped bit makes them differ, else None.

    Parameters
    ----------
    before, after
        Of the same memory.

    Returns
    -------
    tuple or None
        Number of the block, and of the bit in its 64-bit word, counted from the lowest.
    """
    changed = np.flatnonzero(before != after)
    if len(changed) != 1:
        return None
    block = int(changed[0])
    difference = (int(after[block]) - int(before[block])) % (1 << 64)
    for signed in (difference, (1 << 64) - difference):
        if signed & (signed - 1) == 0:
            return block, signed.bit_length() - 1
    return None
