"""Calls of var, std, var_mean and std_mean that their checks must be silent about, and faults they must find."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.check import Example, Examples
from numguard.checks.planted_faults import at, flipped_bit, planted_nan

aten = torch.ops.aten
OPERATORS: Final = {
    "var": aten.var.correction,
    "std": aten.std.correction,
    "var_mean": aten.var_mean.correction,
    "std_mean": aten.std_mean.correction,
}
SHAPE: Final = (12, 5, 40)


def _call(op: Any, dim: list[int] | None, shift: float = 0.0, change: Callable[[Tensor], Tensor] | None = None) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        x = (torch.randn(SHAPE, generator=generator, dtype=torch.float64) + shift).to(dtype)
        return op, (x if change is None else change(x), dim), {"correction": 1}

    return call


def _poisoned(x: Tensor) -> Tensor:
    x[0, 0, 3], x[1, 2, 5] = torch.nan, torch.inf
    return x


def _biased(output: Any, args: tuple[Any, ...]) -> Any:
    """Return the spread with the divisor of a sixteenth more elements, as if some were counted twice."""
    spread, *rest = output if isinstance(output, tuple) else (output,)
    return (spread / 1.0625**0.5, *rest) if rest else spread / 1.0625**0.5


def _negative(output: Any, args: tuple[Any, ...]) -> Any:
    """Return what a difference of two squares gives where it cancels."""
    spread, *rest = output if isinstance(output, tuple) else (output,)
    return (spread * -1.0, *rest) if rest else spread * -1.0


def _examples(name: str) -> Examples:
    op, double = OPERATORS[name], "_mean" in name
    first = at(0, flipped_bit) if double else flipped_bit
    nan = at(0, planted_nan) if double else planted_nan
    fires = [
        Example(name="flipped bit", call=_call(op, [2]), corrupt=first),
        Example(name="nan", call=_call(op, [0, 1]), corrupt=nan),
        Example(name="wrong divisor", call=_call(op, [1, 2]), corrupt=_biased),
        Example(name="negative", call=_call(op, None), corrupt=_negative),
    ]
    if double:
        fires.append(Example(name="flipped bit of the mean", call=_call(op, [2]), corrupt=at(1, flipped_bit)))
    return Examples(
        silent=(
            Example(name="rows", call=_call(op, [2])),
            Example(name="outer dimensions", call=_call(op, [0, 2])),
            Example(name="everything", call=_call(op, None)),
            Example(name="far from zero", call=_call(op, [2], 300.0)),
            Example(name="constant", call=_call(op, [2], change=lambda x: torch.full_like(x, 3.0))),
            Example(name="one element", call=_call(op, [2], change=lambda x: x[..., :1])),
            Example(name="strided", call=_call(op, [1], change=lambda x: x[::2, :, ::3].transpose(0, 2))),
            Example(name="nan and inf in some rows", call=_call(op, [2], change=_poisoned)),
        ),
        fires=tuple(fires),
    )


EXAMPLES: Final = {name: _examples(name) for name in OPERATORS}
