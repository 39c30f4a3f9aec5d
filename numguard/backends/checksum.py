"""A hash of the bits of tensors, to compare replicas that must be the same: equal on every backend."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from numguard.backends.kernel_modules import kernel_module
from numguard.backends.selection import backend_for, native_library

_BLOCK: Final = 1024  # words that share a weight


def replica_checksum(tensors: Sequence[Tensor]) -> Tensor:
    """Return one int64 hash for each tensor, on the CPU or, for tensors of an accelerator, there.

    Parameters
    ----------
    tensors
        Any dtype, shape and strides, on one device. Bits count, not values: signs of zeros and payloads of NaN.

    Raises
    ------
    UsageError
        Where the forced backend cannot be on this device.
    """
    if not tensors:
        return torch.zeros(0, dtype=torch.int64)
    device = tensors[0].device
    backend = backend_for("checksum", device)
    if backend == "triton":
        hashes: Tensor = kernel_module("checksum").replica_checksum(tensors).hashes
        return hashes
    library = native_library("checksum") if backend == "native" else None
    return torch.tensor([_hash_of(x, library) for x in tensors], dtype=torch.int64)


def _hash_of(x: Tensor, library: ctypes.CDLL | None) -> int:
    if library is None or x.device.type != "cpu":
        return _by_numpy(x.cpu())
    from numguard_kernels.native import bit_hash

    return bit_hash(library, x.resolve_neg())


def _mixed(bits: Any) -> Any:
    """The finalizer of MurmurHash3 on uint32."""
    bits = (bits ^ bits >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    bits = (bits ^ bits >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return bits ^ bits >> np.uint32(16)


@cache
def _lane_weights() -> Any:
    lanes = np.arange(_BLOCK, dtype=np.uint32) * np.uint32(2)
    high = _mixed(lanes + np.uint32(0x9E3779B9)).astype(np.uint64)
    return high << np.uint64(32) | _mixed(lanes + np.uint32(1)).astype(np.uint64) | np.uint64(1)


def _by_numpy(x: Tensor) -> int:
    stored = x.detach().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy()
    size = -(-len(stored) // (4 * _BLOCK)) * _BLOCK
    words = np.zeros(4 * size, dtype=np.uint8)
    words[: len(stored)] = stored
    blocks = words.view("<u4").reshape(-1, _BLOCK).astype(np.uint64)
    sums = np.add.reduce(blocks * _lane_weights(), axis=1, dtype=np.uint64)
    weights = _mixed(np.arange(len(blocks), dtype=np.uint32)).astype(np.uint64) | np.uint64(1)
    return int(np.add.reduce(sums * weights, dtype=np.uint64).astype(np.int64))
