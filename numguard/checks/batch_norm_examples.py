"""Calls of batch normalisation that its checks must be silent about, and faults they must find."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.check import Example, Examples
from numguard.checks.planted_faults import at, flipped_bit, planted_nan

CHANNELS: Final = 6
SHAPE: Final = (5, CHANNELS, 4, 7)

aten = torch.ops.aten
Change = Callable[[Tensor], Tensor]


def _normal(dtype: torch.dtype, generator: Generator, *shape: int, shift: float = 0.0) -> Tensor:
    return (torch.randn(shape, generator=generator, dtype=torch.float64) + shift).to(dtype)


def channels_last(x: Tensor) -> Tensor:
    """Return the same numbers with the channels of a pixel side by side."""
    return x.contiguous(memory_format=torch.channels_last)


def _same(x: Tensor) -> Tensor:
    return x


def _parameters(dtype: torch.dtype, generator: Generator, mixed: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wide = torch.float32 if mixed and dtype is not torch.float64 else dtype
    weight, bias, mean, variance = (_normal(wide, generator, CHANNELS) for _ in range(4))
    return weight + 2.0, bias, mean, variance.abs() + 0.5


def training_call(shift: float = 0.0, mixed: bool = False, change: Change = _same) -> Any:
    """Return a maker of training calls without running statistics."""

    def call(dtype: torch.dtype, generator: Generator) -> Any:
        x = change(_normal(dtype, generator, *SHAPE, shift=shift))
        weight, bias, _, _ = _parameters(dtype, generator, mixed)
        return aten._native_batch_norm_legit.no_stats, (x, weight, bias, True, 0.1, 1e-5), {}

    return call


def _tracked_call(mixed: bool = False, change: Change = _same) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        x = change(_normal(dtype, generator, *SHAPE, shift=0.5))
        return aten.native_batch_norm.default, (x, *_parameters(dtype, generator, mixed), True, 0.1, 1e-5), {}

    return call


def _evaluating_call(mixed: bool = False, change: Change = _same) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        x = change(_normal(dtype, generator, *SHAPE))
        parameters = _parameters(dtype, generator, mixed)
        return aten._native_batch_norm_legit_no_training.default, (x, *parameters, 0.1, 1e-5), {}

    return call


def _bare_call(dtype: torch.dtype, generator: Generator) -> Any:
    x = _normal(dtype, generator, 9, CHANNELS, shift=30.0)
    return aten._native_batch_norm_legit.no_stats, (x, None, None, True, 0.1, 1e-5), {}


def backward_call(shift: float = 0.0, mixed: bool = False, change: Change = _same, training: bool = True) -> Any:
    """Return a maker of backward calls with the statistics of the forward pass."""

    def call(dtype: torch.dtype, generator: Generator) -> Any:
        x, dy = (change(_normal(dtype, generator, *SHAPE, shift=s)) for s in (shift, 0.1))
        weight, bias, mean, variance = _parameters(dtype, generator, mixed)
        saved = aten._native_batch_norm_legit.no_stats(x, weight, bias, True, 0.1, 1e-5)[1:]
        arguments = (dy, x, weight, mean, variance, *saved, training, 1e-5, [True] * 3)
        return aten.native_batch_norm_backward.default, arguments, {}

    return call


def _without_a_sample(output: Any, args: tuple[Any, ...]) -> Any:
    """Return the normalisation whose statistics miss the last sample."""
    x, weight, bias, *_ = args
    part = x[:-1].double()
    mean, variance = part.mean((0, 2, 3), keepdim=True), part.var((0, 2, 3), keepdim=True, correction=0)
    y = (x.double() - mean) / (variance + 1e-5).sqrt()
    y = y * weight.double().reshape(-1, 1, 1) + bias.double().reshape(-1, 1, 1)
    return y.to(x.dtype), *output[1:]


def _next_channel(output: Any, args: tuple[Any, ...]) -> Any:
    """Return the output with the statistics of each channel taken from the next."""
    return output[0].roll(1, 1), *output[1:]


def _forgotten_momentum(output: Any, args: tuple[Any, ...]) -> Any:
    """Leave the running mean as if the momentum was twice what it is."""
    args[3].add_(1.0)
    return output


def _dropped_sample(position: int) -> Any:
    def corrupt(output: Any, args: tuple[Any, ...]) -> Any:
        dy, *others = args
        fewer = dy.clone()
        fewer[-1] = 0
        results = aten.native_batch_norm_backward(fewer, *others)
        return tuple(results[part] if part == position else output[part] for part in range(3))

    return corrupt


_WIDE: Final = (torch.float32, torch.float64)

FORWARD: Final = Examples(
    silent=(
        Example(name="training", call=training_call()),
        Example(name="training far from zero", call=training_call(30.0)),
        Example(name="training in channels_last", call=training_call(3.0, change=channels_last)),
        Example(name="training with wide parameters", call=training_call(mixed=True)),
        Example(name="training with wide parameters in channels_last", call=training_call(3.0, True, channels_last)),
        Example(name="running statistics", call=_tracked_call()),
        Example(name="running statistics with wide parameters", call=_tracked_call(True, channels_last)),
        Example(name="evaluation", call=_evaluating_call()),
        Example(name="evaluation in channels_last", call=_evaluating_call(True, channels_last)),
        Example(name="one pixel without weights", call=_bare_call),
    ),
    fires=(
        Example(name="flipped bit", call=training_call(), corrupt=at(0, flipped_bit)),
        Example(name="nan", call=training_call(), corrupt=at(0, planted_nan)),
        Example(name="statistics without a sample", call=training_call(), corrupt=_without_a_sample, dtypes=_WIDE),
        Example(name="flipped bit of the mean", call=training_call(3.0), corrupt=at(1, flipped_bit)),
        Example(name="flipped bit of the deviation", call=training_call(), corrupt=at(2, flipped_bit)),
        Example(name="next channel", call=_evaluating_call(), corrupt=_next_channel),
        Example(name="running mean", call=_tracked_call(), corrupt=_forgotten_momentum),
    ),
)
BACKWARD: Final = Examples(
    silent=(
        Example(name="training", call=backward_call()),
        Example(name="far from zero", call=backward_call(30.0)),
        Example(name="channels_last", call=backward_call(1.0, change=channels_last)),
        Example(name="wide parameters", call=backward_call(mixed=True)),
        Example(name="wide parameters in channels_last", call=backward_call(1.0, True, channels_last)),
        Example(name="evaluation", call=backward_call(training=False)),
    ),
    fires=(
        Example(name="flipped bit", call=backward_call(), corrupt=at(0, flipped_bit)),
        Example(name="nan in dgamma", call=backward_call(), corrupt=at(1, planted_nan)),
        Example(name="flipped bit of dbeta", call=backward_call(), corrupt=at(2, flipped_bit)),
        Example(name="dropped sample", call=backward_call(), corrupt=_dropped_sample(1), dtypes=_WIDE),
        Example(name="dropped sample of dx", call=backward_call(), corrupt=_dropped_sample(0), dtypes=_WIDE),
    ),
)
