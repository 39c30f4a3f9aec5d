"""Calls of reductions by slot that their checks must be silent about, and faults they must find."""

from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.check import Example, Examples
from numguard.checks.planted_faults import flipped_bit, planted_nan, stale_row

aten = torch.ops.aten
ROWS, SLOTS, WIDTH = 24, 6, 5
_WIDE: Final = (torch.float32, torch.float64)


def _numbers(dtype: torch.dtype, generator: Generator, rows: int, poisoned: bool = False) -> Tensor:
    x = torch.randn((rows, WIDTH), generator=generator, dtype=torch.float64) + 0.5
    if poisoned:
        x[1, 2], x[3, 0] = torch.nan, torch.inf
    return x.to(dtype)


def scatter_call(reduce: str, include_self: bool = True, poisoned: bool = False) -> Any:
    """Return a maker of scatter_reduce calls."""

    def call(dtype: torch.dtype, generator: Generator) -> Any:
        base, source = _numbers(dtype, generator, SLOTS), _numbers(dtype, generator, ROWS, poisoned)
        index = torch.randint(0, SLOTS - 1, (ROWS, WIDTH), generator=generator)
        return aten.scatter_reduce.two, (base, 0, index, source, reduce), {"include_self": include_self}

    return call


def index_call(reduce: str, include_self: bool = True) -> Any:
    """Return a maker of index_reduce calls."""

    def call(dtype: torch.dtype, generator: Generator) -> Any:
        base, source = _numbers(dtype, generator, SLOTS), _numbers(dtype, generator, ROWS)
        index = torch.randint(0, SLOTS - 1, (ROWS,), generator=generator)
        return aten.index_reduce.default, (base, 0, index, source, reduce), {"include_self": include_self}

    return call


def _counts(dtype: torch.dtype, generator: Generator) -> Any:
    return aten.bincount.default, (torch.randint(0, 9, (200,), generator=generator),), {}


def _weighted(dtype: torch.dtype, generator: Generator) -> Any:
    index = torch.randint(0, 9, (200,), generator=generator)
    return aten.bincount.default, (index, torch.randn(200, generator=generator).to(dtype)), {}


def _histogram(*limits: float) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        return aten.histc.default, (torch.randn(300, generator=generator).to(dtype), 12, *limits), {}

    return call


def _one_more(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    wrong = output.clone()
    wrong[1] += 1
    return wrong


EXAMPLES: Final = {
    "slot_reduction": Examples(
        silent=(
            *(
                Example(name=f"scatter {reduce}", call=scatter_call(reduce))
                for reduce in ("amax", "amin", "mean", "prod")
            ),
            *(
                Example(name=f"scatter {reduce} alone", call=scatter_call(reduce, include_self=False))
                for reduce in ("amax", "mean", "prod")
            ),
            *(Example(name=f"index {reduce}", call=index_call(reduce)) for reduce in ("amax", "amin", "mean", "prod")),
            Example(name="nan and inf", call=scatter_call("amax", poisoned=True)),
        ),
        fires=(
            Example(name="flipped bit of a maximum", call=scatter_call("amax"), corrupt=flipped_bit),
            Example(name="stale mean", call=scatter_call("mean"), corrupt=stale_row),
            Example(name="nan in a product", call=index_call("prod"), corrupt=planted_nan),
            Example(name="flipped bit of a mean", call=index_call("mean"), corrupt=flipped_bit),
        ),
    ),
    "bincount": Examples(
        silent=(
            Example(name="counts", call=_counts, dtypes=(torch.int64,)),
            Example(name="weighted", call=_weighted, dtypes=_WIDE),
        ),
        fires=(
            Example(name="one more", call=_counts, corrupt=_one_more, dtypes=(torch.int64,)),
            Example(name="one more weighted", call=_weighted, corrupt=_one_more, dtypes=_WIDE),
        ),
    ),
    "histc": Examples(
        silent=(
            Example(name="own range", call=_histogram(), dtypes=_WIDE),
            Example(name="given range", call=_histogram(-1.0, 0.5), dtypes=_WIDE),
        ),
        fires=(
            Example(name="one more", call=_histogram(), corrupt=_one_more, dtypes=_WIDE),
            Example(
                name="shares",
                call=_histogram(),
                corrupt=lambda output, args: output + torch.tensor([0.5, -0.5] + [0.0] * 10).to(output.dtype),
                dtypes=_WIDE,
            ),
        ),
    ),
}
