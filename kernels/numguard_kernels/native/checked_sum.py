"""A sum and the verdict on it from one read of the data."""

import ctypes
from typing import Final, NamedTuple

import torch
from torch import Tensor

from numguard_kernels.native.error_bounds import SINGLE_ROUNDOFF, plain_sum_error_bound, sum_error_bound
from numguard_kernels.native.library import DTYPES
from numguard_kernels.native.reductions import Mode

SUMMED: Final = (torch.float32, torch.bfloat16, torch.float16)


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

    Notes
    -----
    The result is added in plain float32 lanes, the shadow in blocks of sixteen flushed to float64: two sums of the
    same registers that share no addition.
    """
    x = x.contiguous()
    out = (ctypes.c_double * 5)()
    library.ng_checked_sum(x.data_ptr(), DTYPES[x.dtype], x.numel(), num_threads, ctypes.addressof(out))
    result, high, low, mass, largest = out
    shadow, n = high + low, x.numel()
    bound = plain_sum_error_bound(n, mass, num_threads)
    bound += sum_error_bound(Mode.BLOCKED, n, mass, shadow, is_double=False) + SINGLE_ROUNDOFF * abs(shadow)
    finite = largest < float("inf") and mass < torch.finfo(torch.float32).max / 2.0
    difference = abs(result - shadow)
    ratio = 0.0 if not finite or difference == 0.0 else difference / bound
    return CheckedSum(result, shadow, mass, bound, ratio)
