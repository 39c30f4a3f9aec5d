"""What the rounding of a result to its dtype adds to a bound, as constants of a kernel."""

from collections.abc import Mapping

import torch
from torch import Tensor


def output_constants(dtype: torch.dtype) -> dict[str, float]:
    """Return unit roundoff, largest error of rounding below the normal numbers, and largest finite number."""
    info = torch.finfo(dtype)
    smallest = info.tiny * info.eps
    wide = dtype in (torch.float32, torch.float64)
    return {"UNIT": info.eps / 2, "SMALLEST": smallest if wide else smallest / 2, "LARGEST": float(info.max)}


def rounding_constants(dtype: torch.dtype, *, underflow: float = 2.0**-126) -> dict[str, float]:
    """Return unit roundoff and largest error of small results, with what is lost below ``underflow`` on their way."""
    constants = output_constants(dtype)
    return {"UNIT": constants["UNIT"], "SMALLEST": constants["SMALLEST"] + underflow}


def rounded_bound(shadow: Tensor, grown: Tensor, own: Tensor, constants: Mapping[str, float]) -> Tensor:
    """Return the bound on a result that was off by ``grown`` before its rounding, against a shadow off by ``own``."""
    return grown + constants["UNIT"] * (shadow.abs() + grown + own) + constants["SMALLEST"] + own
