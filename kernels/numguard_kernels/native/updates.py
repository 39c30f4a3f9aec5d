"""Health of one tensor's optimizer step: updates that rounding swallowed, non-finite values, norms."""

import ctypes
import math
from typing import NamedTuple

from torch import Tensor

from numguard_kernels.native.library import DTYPES


class StepHealth(NamedTuple):
    """Elements with an update, those that did not move, and the masses of the updates and of what was lost of them."""

    num_updated: int
    num_stagnant: int
    update_mass: float
    lost_mass: float


def step_health(library: ctypes.CDLL, parameter: Tensor, update: Tensor) -> StepHealth:
    """Return the health of ``parameter + update``, rounded to the dtype of the parameter, in one pass over both."""
    parameter, update = parameter.detach().contiguous(), update.detach().contiguous()
    out = (ctypes.c_double * 4)()
    library.ng_update_health(
        parameter.data_ptr(),
        DTYPES[parameter.dtype],
        update.data_ptr(),
        DTYPES[update.dtype],
        parameter.numel(),
        ctypes.addressof(out),
    )
    return StepHealth(int(out[0]), int(out[1]), out[2], out[3])


def values_health(library: ctypes.CDLL, x: Tensor) -> tuple[int, float]:
    """Return how many elements are not finite, and the 2-norm, right over the whole range of float64."""
    x = x.detach().contiguous()
    for scale in (1.0, 2.0**-520, 2.0**520):
        out = (ctypes.c_double * 2)()
        library.ng_list_health(x.data_ptr(), DTYPES[x.dtype], x.numel(), scale, ctypes.addressof(out))
        if out[0] or 1e-250 < out[1] < math.inf:
            break
    return int(out[0]), math.sqrt(out[1]) / scale
