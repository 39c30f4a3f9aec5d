"""Calls of distances and their gradients that the checks must be silent about, and faults they must find."""

from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.check import Example, Examples
from numguard.checks.planted_faults import flipped_bit, planted_nan, stale_row

aten = torch.ops.aten


def _points(dtype: torch.dtype, generator: Generator, rows: int, shift: float) -> tuple[Tensor, Tensor]:
    """Return two matrices a batch, whose first rows are the same."""
    shapes = ((2, rows, 7), (2, rows + 3, 7))
    first, second = (torch.randn(s, generator=generator, dtype=torch.float64) + shift for s in shapes)
    second[:, 0] = first[:, 0]
    return first.to(dtype), second.to(dtype)


def _forward(power: float, shift: float = 0.0) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        return aten._cdist_forward.default, (*_points(dtype, generator, 5, shift), power, 2), {}

    return call


def _by_products(shift: float) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        return aten._euclidean_dist.default, _points(dtype, generator, 30, shift), {}

    return call


def _backward(power: float, shift: float = 0.0) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        first, second = _points(dtype, generator, 6, shift)
        distance = aten._cdist_forward(first, second, power, 2)
        grad = torch.randn(distance.shape, generator=generator, dtype=torch.float64).to(dtype)
        return aten._cdist_backward.default, (grad, first, second, power, distance), {}

    return call


_WIDE: Final = (torch.float32, torch.float64)  # the CPU has no 16-bit kernels but that by products
_POWERS: Final = {"Euclidean": 2.0, "sums": 1.0, "cubes": 3.0, "largest": float("inf"), "count": 0.0}


def _of_every_power(call: Any) -> tuple[Example, ...]:
    powers = tuple(Example(name=name, call=call(power), dtypes=_WIDE) for name, power in _POWERS.items())
    return (*powers, Example(name="far from zero", call=call(2.0, 100.0), dtypes=_WIDE))


def _faults(call: Any) -> tuple[Example, ...]:
    return (
        Example(name="flipped bit", call=call(2.0), corrupt=flipped_bit, dtypes=_WIDE),
        Example(name="nan", call=call(1.0), corrupt=planted_nan, dtypes=_WIDE),
    )


EXAMPLES: Final = {
    "cdist": Examples(
        silent=(
            *_of_every_power(_forward),
            Example(name="by products", call=_by_products(0.0)),
            Example(name="by products far from zero", call=_by_products(30.0)),
        ),
        fires=(
            *_faults(_forward),
            Example(name="stale batch", call=_by_products(0.0), corrupt=stale_row, dtypes=_WIDE),
        ),
    ),
    "cdist_backward": Examples(
        silent=(*_of_every_power(_backward), Example(name="between", call=_backward(1.5), dtypes=_WIDE)),
        fires=(
            *_faults(_backward),
            Example(name="stale batch", call=_backward(3.0), corrupt=stale_row, dtypes=_WIDE),
        ),
    ),
}
