"""Numbers as mantissa and exponent, so that products of many of them do not overflow on the way."""

from typing import Final, NamedTuple

import torch
from torch import Tensor

_LARGEST_EXPONENT: Final = 1023
_VANISHED: Final = -2200.0  # a mantissa of this exponent is zero in float64


class Scaled(NamedTuple):
    """``mantissa * 2**exponent``, both float64; a mantissa of a finite number lies in ``+-[1/2, 1)`` or is zero."""

    mantissa: Tensor
    exponent: Tensor

    def rounded(self) -> Tensor:
        """Return the numbers as float64; beyond its range the largest number, with their sign."""
        mantissa, exponent = self
        bounded = exponent.clamp(_VANISHED, _LARGEST_EXPONENT).to(torch.int32)
        half = torch.div(bounded, 2, rounding_mode="floor")  # 2**bounded itself may leave the range
        value = torch.ldexp(torch.ldexp(mantissa, half), bounded - half)
        beyond = (exponent > _LARGEST_EXPONENT) & mantissa.isfinite() & (mantissa != 0.0)
        return torch.where(beyond, torch.sign(mantissa) * torch.finfo(torch.float64).max, value)


def scaled(x: Tensor) -> Scaled:
    """Return mantissas and exponents of float64 numbers; NaN and infinities have exponent zero."""
    mantissa, exponent = torch.frexp(x)
    return Scaled(mantissa, torch.where(x.isfinite(), exponent.to(torch.float64), 0.0))
