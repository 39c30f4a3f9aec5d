"""Calls of embedding bags that their checks must be silent about, and faults they must find."""

from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.check import Example, Examples
from numguard.checks.planted_faults import at, flipped_bit, planted_nan, stale_row

aten = torch.ops.aten
ROWS, WIDTH, TOKENS = 11, 6, 90
SUM, MEAN, MAX = range(3)


def _numbers(dtype: torch.dtype, generator: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def _bags(generator: Generator) -> tuple[Tensor, Tensor]:
    """Return indices and the offsets of four bags, one of them empty."""
    return torch.randint(0, ROWS, (TOKENS,), generator=generator), torch.tensor([0, 7, 7, 60])


def _forward(mode: int, weighted: bool = False, padding: int = -1, last: bool = False, only: bool = False) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        indices, offsets = _bags(generator)
        if last:
            offsets = torch.cat((offsets, torch.tensor([TOKENS])))
        weights = _numbers(dtype, generator, TOKENS) if weighted else None
        op = aten._embedding_bag_forward_only.default if only else aten._embedding_bag.default
        table = _numbers(dtype, generator, ROWS, WIDTH)
        return op, (table, indices, offsets, False, mode, False, weights, last, padding), {}

    return call


def _backward(mode: int, weighted: bool = False, padding: int = -1, by_frequency: bool = False) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        _, args, _ = _forward(mode, weighted, padding)(dtype, generator)
        if by_frequency:  # each as often: torch 2.13 mixes frequencies up (pytorch/pytorch issue 190063)
            args = (args[0], torch.arange(TOKENS) % (ROWS - 1), *args[2:])
        table, indices, offsets, weights = args[0], args[1], args[2], args[6]
        result, _, bag_size, places = aten._embedding_bag(*args)
        bag = torch.searchsorted(offsets, torch.arange(TOKENS), right=True) - 1
        grad = _numbers(dtype, generator, *result.shape)
        given = (grad, indices, bag, bag_size, places, len(table), by_frequency, mode, weights, padding)
        return aten._embedding_bag_dense_backward.default, given, {}

    return call


def _whole_backward(dtype: torch.dtype, generator: Generator) -> Any:
    _, args, _ = _forward(MEAN)(dtype, generator)
    result, _, bag_size, places = aten._embedding_bag(*args)
    grad = _numbers(dtype, generator, *result.shape)
    none = torch.empty(0, dtype=torch.int64)
    given = (grad, args[1], args[2], none, bag_size, places, ROWS, False, MEAN, False, None, -1)
    return aten._embedding_bag_backward.default, given, {}


def _sample_weights(padding: int = -1) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        indices, offsets = _bags(generator)
        bag = torch.searchsorted(offsets, torch.arange(TOKENS), right=True) - 1
        table, grad = _numbers(dtype, generator, ROWS, WIDTH), _numbers(dtype, generator, 4, WIDTH)
        given = (grad, table, indices, offsets, bag, SUM, padding)
        return aten._embedding_bag_per_sample_weights_backward.default, given, {}

    return call


def _by_other_frequencies(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return the gradient divided by twice the frequency."""
    return output / 2


def _lost_tokens(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return the gradient without its last tokens."""
    kept = TOKENS - 20
    shorter: Tensor = aten._embedding_bag_dense_backward(args[0], args[1][:kept], args[2][:kept], *args[3:])
    return shorter


_WIDE: Final = (torch.float32, torch.float64)  # in 16 bits, 20 of 90 tokens may be lost to rounding

EXAMPLES: Final = {
    "embedding_bag": Examples(
        silent=(
            Example(name="sums", call=_forward(SUM)),
            Example(name="weighted sums", call=_forward(SUM, weighted=True)),
            Example(name="sums beside padding", call=_forward(SUM, padding=3)),
            Example(name="means", call=_forward(MEAN)),
            Example(name="means beside padding", call=_forward(MEAN, padding=3, last=True)),
            Example(name="maxima", call=_forward(MAX)),
            Example(name="maxima beside padding", call=_forward(MAX, padding=3, only=True)),
        ),
        fires=(
            Example(name="flipped bit of a sum", call=_forward(SUM), corrupt=at(0, flipped_bit), dtypes=_WIDE),
            Example(name="nan in a mean", call=_forward(MEAN), corrupt=at(0, planted_nan)),
            Example(name="stale bag", call=_forward(SUM, weighted=True), corrupt=at(0, stale_row), dtypes=_WIDE),
            Example(name="stale maxima", call=_forward(MAX), corrupt=at(0, stale_row)),
        ),
    ),
    "embedding_bag_backward": Examples(
        silent=(
            Example(name="sums", call=_backward(SUM)),
            Example(name="weighted sums", call=_backward(SUM, weighted=True), dtypes=_WIDE),
            Example(name="by frequency", call=_backward(SUM, by_frequency=True), dtypes=_WIDE),
            Example(name="means beside padding", call=_backward(MEAN, padding=3), dtypes=_WIDE),
            Example(name="maxima", call=_backward(MAX), dtypes=_WIDE),
            Example(name="from offsets", call=_whole_backward, dtypes=_WIDE),
        ),
        fires=(
            Example(name="lost tokens", call=_backward(SUM), corrupt=_lost_tokens, dtypes=_WIDE),
            Example(name="flipped bit", call=_backward(MEAN), corrupt=flipped_bit, dtypes=_WIDE),
            Example(name="nan", call=_backward(MAX), corrupt=planted_nan, dtypes=_WIDE),
            Example(
                name="other frequencies",
                call=_backward(SUM, by_frequency=True),
                corrupt=_by_other_frequencies,
                dtypes=_WIDE,
            ),
        ),
    ),
    "sample_weight_backward": Examples(
        silent=(
            Example(name="plain", call=_sample_weights()),
            Example(name="beside padding", call=_sample_weights(3)),
        ),
        fires=(
            Example(name="flipped bit", call=_sample_weights(), corrupt=flipped_bit),
            Example(name="nan", call=_sample_weights(), corrupt=planted_nan),
        ),
    ),
}
