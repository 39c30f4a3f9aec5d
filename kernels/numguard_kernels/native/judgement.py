"""The verdict on one comparison in one pass over it."""

import ctypes
from typing import Any, Final

import torch
from torch import Tensor

from numguard_kernels.native.library import DTYPES

NUM_NUMBERS: Final = 13


def judged_elements(
    library: ctypes.CDLL,
    computed: Tensor,
    exact: Tensor,
    strict: Tensor | float,
    permissive: Tensor | float | None,
    shadow_error: Tensor | float,
    *,
    unit_roundoff: float,
    smallest_rounding: float,
    largest: float,
    rounds_output: bool,
    propagates_nonfinite: bool,
) -> Tensor:
    """Return the thirteen numbers of a verdict, float64, in the caller's order.

    Parameters
    ----------
    computed
        Results, contiguous, any known dtype, at least one element.
    exact, strict, permissive, shadow_error
        float64, contiguous, each with as many elements as ``computed`` or with one; or a number.
    unit_roundoff, smallest_rounding, largest
        Of the dtype of the results.
    rounds_output, propagates_nonfinite
        As the caller's comparison says.
    """
    out = torch.empty(NUM_NUMBERS, dtype=torch.float64)
    alone = (ctypes.c_double * 3)()
    places = [_place(values, alone, number) for number, values in enumerate((strict, permissive, shadow_error))]
    library.ng_judge(
        computed.numel(),
        computed.data_ptr(),
        DTYPES[computed.dtype],
        exact.data_ptr(),
        int(exact.numel() != 1),
        *places[0],
        *places[1],
        *places[2],
        unit_roundoff,
        smallest_rounding,
        largest,
        rounds_output,
        propagates_nonfinite,
        out.data_ptr(),
    )
    return out


def _place(values: Tensor | float | None, alone: Any, number: int) -> tuple[int, int]:
    """Return where numbers lie and their step; a lone number is put into ``alone``."""
    if values is None:
        return 0, 0
    if isinstance(values, Tensor):
        return values.data_ptr(), int(values.numel() != 1)
    alone[number] = values
    return ctypes.addressof(alone) + 8 * number, 0
