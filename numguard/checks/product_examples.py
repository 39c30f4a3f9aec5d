"""Calls of products that their check must be silent about, and faults it must find."""

from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks import planted_faults
from numguard.checks.check import Example, Examples
from numguard.checks.sum_examples import INTEGERS, calling, constant, hidden, laid_out, nonfinite, normal, off_by_one

aten = torch.ops.aten


def near_one(*shape: int) -> Any:
    """Return what draws factors within 10 % of plus or minus one."""

    def make(dtype: torch.dtype, generator: Generator) -> Tensor:
        x = 1.0 + 0.1 * (torch.rand(shape, generator=generator, dtype=torch.float64) * 2.0 - 1.0)
        sign = torch.randint(0, 2, shape, generator=generator) * 2 - 1
        return (x * sign).to(dtype)

    return make


def with_zero(x: Tensor) -> Tensor:
    """Return the same matrix with a column of zeros."""
    x[:, 1] = 0
    return x


def _dropped_factor(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    wrong: Tensor = args[0][:, 1:].double().prod(1).to(output.dtype)
    return wrong


_ROWS: Final = calling(aten.prod.dim_int, near_one(6, 60), 1)
_FEW: Final = calling(aten.prod.dim_int, laid_out(normal(6, 5), lambda x: x * 2.0), 1)
_ZEROS: Final = calling(aten.prod.dim_int, laid_out(normal(4, 9), with_zero), 1)

PROD: Final = Examples(
    silent=(
        Example(name="rows", call=_ROWS),
        Example(name="few", call=_FEW),
        Example(name="columns", call=calling(aten.prod.dim_int, near_one(60, 5), 0, True)),
        Example(name="all", call=calling(aten.prod.default, near_one(5, 7, 3))),
        Example(name="longer than a block", call=calling(aten.prod.dim_int, near_one(2, 1300), 1)),
        Example(name="strided", call=calling(aten.prod.dim_int, laid_out(near_one(8, 90), lambda x: x[::2, ::3]), 1)),
        Example(name="underflow", call=calling(aten.prod.dim_int, constant(0.25, 2, 700), 1)),
        Example(name="overflow", call=calling(aten.prod.dim_int, constant(4.0, 2, 700), 1)),
        Example(
            name="back from underflow",
            call=calling(aten.prod.dim_int, laid_out(constant(0.01, 2, 30), lambda x: torch.cat([x, 1.0 / x], 1)), 1),
        ),
        Example(name="zeros", call=_ZEROS),
        Example(name="number", call=calling(aten.prod.default, normal())),
        Example(name="no factors", call=calling(aten.prod.dim_int, normal(3, 0), 1)),
        Example(name="no rows", call=calling(aten.prod.dim_int, normal(0, 3), 1)),
        Example(name="nan", call=calling(aten.prod.dim_int, nonfinite(torch.nan), 1)),
        Example(name="infinity", call=calling(aten.prod.dim_int, nonfinite(torch.inf), 1)),
        Example(name="infinity times zero", call=calling(aten.prod.dim_int, nonfinite(torch.inf, 0.0), 1)),
        Example(
            name="cast",
            call=calling(aten.prod.dim_int, near_one(6, 60), 1, dtype=torch.float32),
            dtypes=(torch.bfloat16,),
        ),
        Example(name="integers", call=calling(aten.prod.dim_int, normal(7, 90), 1), dtypes=INTEGERS),
    ),
    fires=(
        Example(name="dropped factor", call=_FEW, corrupt=_dropped_factor, dtypes=(torch.float32, torch.float64)),
        Example(name="stale row", call=_ROWS, corrupt=planted_faults.stale_row, dtypes=(torch.float32, torch.float64)),
        Example(name="flipped bit", call=_FEW, corrupt=planted_faults.flipped_bit),
        Example(name="nan", call=_ROWS, corrupt=planted_faults.planted_nan),
        Example(name="leaking zero", call=_ZEROS, corrupt=lambda output, args: output + 0.5),
        Example(name="hidden nan", call=calling(aten.prod.dim_int, nonfinite(torch.nan), 1), corrupt=hidden),
        Example(
            name="off by one",
            call=calling(aten.prod.dim_int, normal(7, 9), 1),
            corrupt=off_by_one,
            dtypes=(torch.int64,),
        ),
    ),
)
