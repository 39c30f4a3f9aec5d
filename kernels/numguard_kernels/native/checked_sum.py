"""A sum and the verdict on it from one read of the data."""

import ctypes
import struct
from functools import lru_cache
from typing import Final, NamedTuple

import torch
from torch import Tensor

from numguard_kernels.native.error_bounds import checked_sum_relative_error
from numguard_kernels.native.library import DTYPES

SUMMED: Final = (torch.float32, torch.bfloat16, torch.float16)
# torch sums 1e5 numbers in 3 us. Passing five arguments one by one, and reading five results so, would cost one more.
_unpacked: Final = struct.Struct("5d").unpack
_Five: Final = ctypes.c_double * 5
_address: Final = ctypes.addressof
_made: Final = tuple.__new__


class CheckedSum(NamedTuple):
    """A float32 sum, its shadow, and the bound between the two.

    ``ratio`` is ``|result - shadow| / error_bound``: more than one is an error of the machine or the compiler. It is
    zero where a number that is not finite went in or the sum may overflow.
    """

    result: float
    shadow: float
    mass: float
    error_bound: float
    ratio: float


def checked_total(library: ctypes.CDLL, x: Tensor, num_threads: int = 1) -> CheckedSum:
    """Return the sum of a tensor of one of :data:`SUMMED`, in float32 as the operator forms it, with its verdict.

    Raises
    ------
    TypeError
        For another dtype.

    Notes
    -----
    The result is added in plain float32 lanes, the shadow in blocks of float32 numbers flushed to float64: two sums of
    the same registers that share no addition.
    """
    x = x.contiguous()
    out = _Five()
    library.ng_checked_sum(x.data_ptr(), _checking(x.dtype, x.numel(), num_threads), _address(out))
    return _made(CheckedSum, _unpacked(out))


@lru_cache(maxsize=1024)
def _checking(dtype: torch.dtype, num_terms: int, num_threads: int) -> bytes:
    """Return what does not depend on the numbers, as the library takes it."""
    if dtype not in SUMMED:
        raise TypeError(f"a checked sum is of {', '.join(map(str, SUMMED))}, not of {dtype}: convert the tensor first")
    return struct.pack("3qd", DTYPES[dtype], num_terms, num_threads, checked_sum_relative_error(num_terms, num_threads))
