"""Calls of cumulative products that their check must be silent about, and faults it must find."""

from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Example, Examples
from numguard.checks.planted_faults import flipped_bit, planted_nan
from numguard.checks.product_examples import near_one, with_zero
from numguard.checks.sum_examples import calling, constant, laid_out, nonfinite, normal, off_by_one

aten = torch.ops.aten


def _restarted(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return products that forget the first half, as if a block had not been handed on."""
    half = output.shape[1] // 2
    rest = args[0][:, half:].double().cumprod(1).to(output.dtype)
    return torch.cat((output[:, :half], rest), dim=1)


_ROWS: Final = calling(aten.cumprod.default, near_one(6, 60), 1)
_LARGE: Final = calling(aten.cumprod.default, laid_out(normal(6, 9), lambda x: x * 2.0), 1)
_INTEGERS: Final = calling(aten.cumprod.default, normal(6, 90), 1)

CUMPROD: Final = Examples(
    silent=(
        Example(name="rows", call=_ROWS),
        Example(name="columns", call=calling(aten.cumprod.default, near_one(60, 5), 0)),
        Example(name="in place", call=calling(aten.cumprod_.default, near_one(6, 60), 1)),
        Example(name="long", call=calling(aten.cumprod.default, near_one(2, 1300), 1)),
        Example(name="zeros", call=calling(aten.cumprod.default, laid_out(normal(4, 9), with_zero), 1)),
        Example(name="underflow", call=calling(aten.cumprod.default, constant(0.25, 2, 700), 1)),
        Example(name="overflow", call=calling(aten.cumprod.default, constant(4.0, 2, 700), 1)),
        Example(name="nan and inf", call=calling(aten.cumprod.default, nonfinite(torch.nan, torch.inf, 0.0), 1)),
        Example(name="integers", call=_INTEGERS, dtypes=(torch.int64, torch.int32, torch.uint8)),
    ),
    fires=(
        Example(name="flipped bit", call=_LARGE, corrupt=flipped_bit),
        Example(name="nan", call=_ROWS, corrupt=planted_nan),
        Example(name="restarted", call=_LARGE, corrupt=_restarted, dtypes=(torch.float32, torch.float64)),
        Example(name="off by one", call=_INTEGERS, corrupt=off_by_one, dtypes=(torch.int64,)),
    ),
)
