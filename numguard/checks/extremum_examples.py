"""Calls of max, min and their places that the checks must be silent about, and faults they must find."""

from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.check import Example, Examples
from numguard.checks.planted_faults import at, flipped_bit, planted_nan

aten = torch.ops.aten
INTEGERS: Final = (torch.int32, torch.uint8)


def rows(dtype: torch.dtype, generator: Generator, *, poisoned: bool = False, tied: bool = False) -> Tensor:
    """Return rows of numbers: with NaN and infinities in some, or with many ties."""
    if not dtype.is_floating_point:
        return torch.randint(0, 100, (6, 5, 17), generator=generator).to(dtype)
    x = torch.randn((6, 5, 17), generator=generator, dtype=torch.float64)
    if tied:
        x = x.round()
    if poisoned:
        x[0, 1, 3], x[1, 2, :], x[3, 0, 5] = torch.nan, torch.nan, torch.inf
    return x.to(dtype)


def call_of(op: Any, *arguments: Any, transposed: bool = False, **kind: Any) -> Any:
    """Return a maker of calls of an operator on :func:`rows`."""

    def call(dtype: torch.dtype, generator: Generator) -> Any:
        x = rows(dtype, generator, **kind)
        return op, (x.transpose(0, 2) if transposed else x, *arguments), {}

    return call


def next_place(output: Any, args: tuple[Any, ...]) -> Any:
    """Return the places to the right of the right ones."""
    if isinstance(output, tuple):
        return *output[:-1], output[-1] + 1
    return output + 1


def _runner_up(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    wrong = output.clone()
    wrong.view(-1)[0] = args[0].reshape(-1)[0:1].mean() - 100.0
    return wrong


EXAMPLES: Final = {
    "extreme_values": Examples(
        silent=(
            Example(name="rows", call=call_of(aten.amax.default, [2])),
            Example(name="outer dimensions", call=call_of(aten.amin.default, [0, 2])),
            Example(name="everything", call=call_of(aten.max.default)),
            Example(name="both", call=lambda dtype, g: (aten.aminmax.default, (rows(dtype, g),), {"dim": 1})),
            Example(name="nan and inf", call=call_of(aten.amax.default, [2], poisoned=True)),
            Example(name="nan and inf in the least", call=call_of(aten.amin.default, [2], poisoned=True)),
            Example(name="strided", call=call_of(aten.amax.default, [1], transposed=True)),
            Example(name="integers", call=call_of(aten.min.default), dtypes=INTEGERS),
        ),
        fires=(
            Example(name="flipped bit", call=call_of(aten.amax.default, [2]), corrupt=flipped_bit),
            Example(name="nan", call=call_of(aten.amin.default, [2]), corrupt=planted_nan),
            Example(name="not the largest", call=call_of(aten.max.default), corrupt=_runner_up),
            Example(
                name="hidden nan",
                call=call_of(aten.amax.default, [2], poisoned=True),
                corrupt=lambda output, args: output.nan_to_num(1.0),
            ),
        ),
    ),
    "extreme_places": Examples(
        silent=(
            Example(name="rows", call=call_of(aten.max.dim, 2)),
            Example(name="ties", call=call_of(aten.min.dim, 1, tied=True)),
            Example(name="nan and inf", call=call_of(aten.max.dim, 2, poisoned=True)),
            Example(name="places", call=call_of(aten.argmax.default, 1)),
            Example(name="place among all", call=call_of(aten.argmin.default, poisoned=True)),
            Example(name="strided", call=call_of(aten.argmin.default, 2, transposed=True)),
            Example(name="integers", call=call_of(aten.max.dim, 2), dtypes=INTEGERS),
        ),
        fires=(
            Example(name="flipped bit", call=call_of(aten.max.dim, 2), corrupt=at(0, flipped_bit)),
            Example(name="next place", call=call_of(aten.min.dim, 2), corrupt=next_place),
            Example(name="next place alone", call=call_of(aten.argmax.default, 1), corrupt=next_place),
        ),
    ),
}
