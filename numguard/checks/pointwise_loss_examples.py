"""Calls of elementwise losses that their checks must be silent about, and faults they must find."""

from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.check import Example, Examples
from numguard.checks.losses import MEAN, NONE, SUM
from numguard.checks.planted_faults import flipped_bit, planted_nan

SHAPE: Final = (12, 30)
REDUCTIONS: Final = {"none": NONE, "mean": MEAN, "sum": SUM}
PARAMETERS: Final[dict[str, tuple[float, ...]]] = {"smooth_l1_loss": (0.7,), "huber_loss": (0.7,)}
WEIGHTED: Final = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
NAMES: Final = ("mse_loss", "smooth_l1_loss", "huber_loss", *WEIGHTED, "soft_margin_loss")

aten = torch.ops.aten


def _operands(name: str, dtype: torch.dtype, generator: Generator, scale: float) -> tuple[Tensor, Tensor]:
    x = torch.randn(SHAPE, generator=generator, dtype=torch.float64) * scale
    target = torch.rand(SHAPE, generator=generator, dtype=torch.float64)
    if name == "binary_cross_entropy":
        x = x.sigmoid()
    if name == "soft_margin_loss":
        target = target.sub(0.5).sign()
    return x.to(dtype), target.to(dtype)


def _optional(name: str, dtype: torch.dtype, generator: Generator, weighted: bool) -> tuple[Any, ...]:
    if name not in WEIGHTED:
        return ()
    weight = (torch.rand(SHAPE, generator=generator) + 0.5).to(dtype) if weighted else None
    positive = ((torch.rand(SHAPE[1], generator=generator) + 0.5).to(dtype) if weighted else None,)
    return weight, *(positive if name.endswith("logits") else ())


def forward_call(name: str, reduction: int, scale: float = 1.0, weighted: bool = False) -> Any:
    """Return a maker of forward calls."""
    op = getattr(aten, name).default

    def call(dtype: torch.dtype, generator: Generator) -> Any:
        operands = _operands(name, dtype, generator, scale)
        optional = _optional(name, dtype, generator, weighted)
        return op, (*operands, *optional, reduction, *PARAMETERS.get(name, ())), {}

    return call


def backward_call(name: str, reduction: int, scale: float = 1.0, weighted: bool = False) -> Any:
    """Return a maker of backward calls."""
    op = getattr(aten, f"{name}_backward").default

    def call(dtype: torch.dtype, generator: Generator) -> Any:
        operands = _operands(name, dtype, generator, scale)
        grad = torch.randn(SHAPE if reduction == NONE else (), generator=generator).to(dtype)
        optional = _optional(name, dtype, generator, weighted)
        return op, (grad, *operands, *optional, reduction, *PARAMETERS.get(name, ())), {}

    return call


def _half(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    return output * 0.5


def _examples(name: str, make: Any) -> Examples:
    silent = [Example(name=label, call=make(name, code)) for label, code in REDUCTIONS.items()]
    silent += [
        Example(name=f"{label} of large numbers", call=make(name, code, 20.0)) for label, code in REDUCTIONS.items()
    ]
    if name in WEIGHTED:
        silent += [
            Example(name=f"{key} weighted", call=make(name, code, 1.0, True)) for key, code in REDUCTIONS.items()
        ]
    return Examples(
        silent=tuple(silent),
        fires=(
            Example(name="flipped bit", call=make(name, NONE), corrupt=flipped_bit),
            Example(name="nan", call=make(name, MEAN), corrupt=planted_nan),
            Example(name="mean over twice as many", call=make(name, MEAN), corrupt=_half),
        ),
    )


EXAMPLES: Final = {name: _examples(name, forward_call) for name in NAMES} | {
    f"{name}_backward": _examples(name, backward_call) for name in NAMES if not name.endswith("logits")
}
