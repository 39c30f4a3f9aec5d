"""Calls of group normalisation that its checks must be silent about, and faults they must find."""

from math import prod
from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.batch_norm_examples import Change, channels_last
from numguard.checks.check import Example, Examples
from numguard.checks.planted_faults import at, flipped_bit, planted_nan

SHAPE: Final = (3, 8, 5, 6)
GROUPS: Final = 2

aten = torch.ops.aten


def _same(x: Tensor) -> Tensor:
    return x


def _operands(
    dtype: torch.dtype, generator: Generator, shift: float, mixed: bool, change: Change
) -> tuple[Tensor, Tensor, Tensor]:
    x = (torch.randn(SHAPE, generator=generator, dtype=torch.float64) + shift).to(dtype)
    wide = torch.float32 if mixed and dtype is not torch.float64 else dtype
    weight, bias = (torch.randn(SHAPE[1], generator=generator, dtype=torch.float64).to(wide) for _ in range(2))
    return change(x), weight + 2.0, bias


def _sizes() -> tuple[int, int, int, int]:
    return SHAPE[0], SHAPE[1], prod(SHAPE[2:]), GROUPS


def forward_call(shift: float = 0.0, mixed: bool = False, change: Change = _same, affine: bool = True) -> Any:
    """Return a maker of forward calls."""

    def call(dtype: torch.dtype, generator: Generator) -> Any:
        x, weight, bias = _operands(dtype, generator, shift, mixed, change)
        parameters = (weight, bias) if affine else (None, None)
        return aten.native_group_norm.default, (x, *parameters, *_sizes(), 1e-5), {}

    return call


def backward_call(shift: float = 0.0, mixed: bool = False, change: Change = _same) -> Any:
    """Return a maker of backward calls with the statistics of the forward pass."""

    def call(dtype: torch.dtype, generator: Generator) -> Any:
        x, weight, bias = _operands(dtype, generator, shift, mixed, change)
        dy = change(torch.randn(SHAPE, generator=generator, dtype=torch.float64).to(dtype))
        _, mean, rstd = aten.native_group_norm(x, weight, bias, *_sizes(), 1e-5)
        return aten.native_group_norm_backward.default, (dy, x, mean, rstd, weight, *_sizes(), [True] * 3), {}

    return call


def _other_groups(output: Any, args: tuple[Any, ...]) -> Any:
    """Return the output normalised in twice as many groups."""
    x, weight, bias, *sizes, eps = args
    return aten.native_group_norm(x, weight, bias, *sizes[:3], 2 * GROUPS, eps)[0], *output[1:]


def _dropped_sample(position: int) -> Any:
    def corrupt(output: Any, args: tuple[Any, ...]) -> Any:
        dy, *others = args
        fewer = dy.clone()
        fewer[-1] = 0
        results = aten.native_group_norm_backward(fewer, *others)
        return tuple(results[part] if part == position else output[part] for part in range(3))

    return corrupt


FORWARD: Final = Examples(
    silent=(
        Example(name="plain", call=forward_call()),
        Example(name="far from zero", call=forward_call(30.0)),
        Example(name="channels_last", call=forward_call(change=channels_last)),
        Example(name="channels_last far from zero", call=forward_call(30.0, change=channels_last)),
        Example(name="wide parameters", call=forward_call(mixed=True)),
        Example(name="without weights", call=forward_call(affine=False)),
    ),
    fires=(
        Example(name="flipped bit", call=forward_call(), corrupt=at(0, flipped_bit)),
        Example(name="nan", call=forward_call(), corrupt=at(0, planted_nan)),
        Example(name="other groups", call=forward_call(), corrupt=_other_groups),
        Example(name="flipped bit of the mean", call=forward_call(3.0), corrupt=at(1, flipped_bit)),
        Example(name="flipped bit of the deviation", call=forward_call(), corrupt=at(2, flipped_bit)),
    ),
)
BACKWARD: Final = Examples(
    silent=(
        Example(name="plain", call=backward_call()),
        Example(name="far from zero", call=backward_call(30.0)),
        Example(name="channels_last", call=backward_call(change=channels_last)),
        Example(name="wide parameters", call=backward_call(mixed=True)),
    ),
    fires=(
        Example(name="flipped bit", call=backward_call(), corrupt=at(0, flipped_bit)),
        Example(name="nan in dgamma", call=backward_call(), corrupt=at(1, planted_nan)),
        Example(name="flipped bit of dbeta", call=backward_call(), corrupt=at(2, flipped_bit)),
        Example(name="dropped sample of dgamma", call=backward_call(), corrupt=_dropped_sample(1)),
        Example(name="dropped sample of dbeta", call=backward_call(), corrupt=_dropped_sample(2)),
    ),
)
