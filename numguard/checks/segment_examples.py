"""Calls of segment reductions that their checks must be silent about, and faults they must find."""

from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.check import Example, Examples
from numguard.checks.planted_faults import flipped_bit, planted_nan, stale_row

aten = torch.ops.aten
ROWS, WIDTH = 24, 5
LENGTHS: Final = (3, 1, 9, 11)
REDUCTIONS: Final = ("sum", "mean", "max", "min", "prod")


def _rows(dtype: torch.dtype, generator: Generator, *shape: int) -> Tensor:
    return (torch.randn(shape or (ROWS, WIDTH), generator=generator, dtype=torch.float64) + 0.5).to(dtype)


def _forward(reduce: str, **options: Any) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        return aten.segment_reduce.default, (_rows(dtype, generator), reduce), _ends(**options)

    return call


def _ends(offsets: bool = False, **options: Any) -> dict[str, Any]:
    if offsets:
        return {"offsets": torch.tensor([0, 3, 4, 13, ROWS]), **options}
    return {"lengths": torch.tensor(LENGTHS), **options}


def _of_two(dtype: torch.dtype, generator: Generator) -> Any:
    lengths = torch.tensor([LENGTHS, LENGTHS[::-1]])
    return (
        aten.segment_reduce.default,
        (_rows(dtype, generator, 2, ROWS, WIDTH), "sum"),
        {"lengths": lengths, "axis": 1},
    )


def _backward(reduce: str, offsets: bool = False, tied: bool = False) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        data = _rows(dtype, generator)
        if tied:
            data = data.round()
        ends = _ends(offsets)
        result = aten.segment_reduce(data, reduce, **ends)
        grad = torch.randn(result.shape, generator=generator, dtype=torch.float64).to(dtype)
        if reduce in ("max", "min"):
            grad = grad.abs()  # torch 2.13 does not share a negative gradient among equal extrema
        return aten._segment_reduce_backward.default, (grad, result, data, reduce), ends

    return call


def _unshared(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return the gradient of maxima that goes to every one of equal elements as a whole."""
    grad, result, data = args[:3]
    lengths = torch.tensor(LENGTHS)
    back, held = (part.repeat_interleave(lengths, 0) for part in (grad, result))
    return torch.where(data == held, back, 0)


EXAMPLES: Final = {
    "segment_reduce": Examples(
        silent=(
            *(Example(name=reduce, call=_forward(reduce)) for reduce in REDUCTIONS),
            Example(name="by offsets", call=_forward("mean", offsets=True)),
            Example(name="from an initial value", call=_forward("max", initial=0.75)),
            Example(name="along the second axis", call=_of_two),
        ),
        fires=(
            Example(name="stale segment", call=_forward("sum"), corrupt=stale_row),
            Example(name="flipped bit of a maximum", call=_forward("max"), corrupt=flipped_bit),
            Example(name="nan in a product", call=_forward("prod"), corrupt=planted_nan),
            Example(name="stale segment of two", call=_of_two, corrupt=stale_row),
        ),
    ),
    "segment_reduce_backward": Examples(
        silent=(
            *(Example(name=reduce, call=_backward(reduce)) for reduce in REDUCTIONS),
            Example(name="by offsets", call=_backward("sum", offsets=True)),
            Example(name="ties", call=_backward("max", tied=True)),
        ),
        fires=(
            *(
                Example(name=f"flipped bit of {reduce}", call=_backward(reduce), corrupt=flipped_bit)
                for reduce in ("sum", "mean", "max")
            ),
            Example(name="nan", call=_backward("prod"), corrupt=planted_nan),
            Example(name="unshared ties", call=_backward("max", tied=True), corrupt=_unshared),
        ),
    ),
}
