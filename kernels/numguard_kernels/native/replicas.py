"""A hash of the bits of a tensor, the same as the one that the Triton kernel gives."""

import ctypes

import torch
from torch import Tensor


def bit_hash(library: ctypes.CDLL, x: Tensor) -> int:
    """Return ``sum_i word_i Z(i // 1024) V(i % 1024) mod 2**64`` of the 4-byte words of a tensor, as an int64.

    Any dtype, shape and strides; the last word is filled with zeros. See ``numguard_kernels.checksum`` for the weights.
    """
    stored = x.detach().contiguous().reshape(-1).view(torch.uint8)
    rest = -stored.numel() % 4
    if rest or stored.data_ptr() % 4:
        stored = torch.cat((stored, stored.new_zeros(rest)))
    found: int = library.ng_replica_checksum(stored.data_ptr(), stored.numel() // 4)
    return found
