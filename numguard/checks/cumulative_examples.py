"""Calls of cumulative sums that their check must be silent about, and faults it must find."""

from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks import planted_faults
from numguard.checks.check import Example, Examples
from numguard.checks.sum_examples import (
    INTEGERS,
    calling,
    constant,
    hidden,
    laid_out,
    nonfinite,
    normal,
    off_by_one,
    swamping,
)

aten = torch.ops.aten


def _dropped_term(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return prefix sums that lack the eleventh addend from there on."""
    wrong = output.double()
    wrong[..., 10:] -= args[0][..., 10:11].double()
    return wrong.to(output.dtype)


def _stopped(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    return output.clamp(max=256.0)


def _in_place_nan(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    output.view(-1)[0] = torch.nan
    return output


_ROWS: Final = calling(aten.cumsum.default, normal(6, 300), 1)
_COLUMNS: Final = calling(aten.cumsum.default, normal(90, 6), 0)

CUMSUM: Final = Examples(
    silent=(
        Example(name="rows", call=_ROWS),
        Example(name="columns", call=_COLUMNS),
        Example(name="middle", call=calling(aten.cumsum.default, normal(4, 50, 3), -2)),
        Example(name="strided", call=calling(aten.cumsum.default, laid_out(normal(8, 90), lambda x: x[::2, ::3]), 1)),
        Example(
            name="expanded", call=calling(aten.cumsum.default, laid_out(normal(1, 7), lambda x: x.expand(9, 7)), 0)
        ),
        Example(name="more than a block", call=calling(aten.cumsum.default, normal(2, 2500), 1)),
        Example(name="swamping", call=calling(aten.cumsum.default, swamping(3000), 1)),
        Example(name="constant", call=calling(aten.cumsum.default, constant(1.0, 2, 2048), 1)),
        Example(name="number", call=calling(aten.cumsum.default, normal(), 0)),
        Example(name="no terms", call=calling(aten.cumsum.default, normal(3, 0), 1)),
        Example(name="no rows", call=calling(aten.cumsum.default, normal(0, 3), 1)),
        Example(name="nan", call=calling(aten.cumsum.default, nonfinite(torch.nan), 1)),
        Example(name="opposite infinities", call=calling(aten.cumsum.default, nonfinite(torch.inf, -torch.inf), 1)),
        Example(
            name="overflow", call=calling(aten.cumsum.default, constant(60000.0, 2, 9), 1), dtypes=(torch.float16,)
        ),
        Example(
            name="cast",
            call=calling(aten.cumsum.default, normal(6, 300), 1, dtype=torch.float32),
            dtypes=(torch.bfloat16, torch.int64),
        ),
        Example(name="in place", call=calling(aten.cumsum_.default, normal(6, 300), 1)),
        Example(name="integers", call=calling(aten.cumsum.default, normal(7, 9), 1), dtypes=INTEGERS),
        Example(
            name="wrapped around",
            call=calling(aten.cumsum.default, constant(2.0**62, 3, 7), 1),
            dtypes=(torch.int64,),
        ),
    ),
    fires=(
        Example(name="dropped term", call=_ROWS, corrupt=_dropped_term),
        Example(name="stale row", call=_COLUMNS, corrupt=planted_faults.stale_row),
        Example(name="doubled block", call=_ROWS, corrupt=planted_faults.doubled_block),
        Example(name="flipped bit", call=_ROWS, corrupt=planted_faults.flipped_bit),
        Example(name="nan", call=_ROWS, corrupt=planted_faults.planted_nan),
        Example(name="nan in place", call=calling(aten.cumsum_.default, normal(6, 30), 1), corrupt=_in_place_nan),
        Example(name="hidden nan", call=calling(aten.cumsum.default, nonfinite(torch.nan), 1), corrupt=hidden),
        Example(name="stops at 256", call=calling(aten.cumsum.default, constant(1.0, 2, 2048), 1), corrupt=_stopped),
        Example(
            name="off by one",
            call=calling(aten.cumsum.default, normal(7, 9), 1),
            corrupt=off_by_one,
            dtypes=(torch.int64,),
        ),
    ),
)
