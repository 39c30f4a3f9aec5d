"""Calls of the negative log likelihood that its checks must be silent about, and faults they must find."""

from math import prod
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks import planted_faults
from numguard.checks.check import Example, Examples

NONE, MEAN, SUM = 0, 1, 2  # the operator's codes of ``reduction``

aten = torch.ops.aten


SPATIAL: Final = {False: (), True: (3, 5)}


def _operands(dtype: torch.dtype, generator: torch.Generator, *, planar: bool, weighted: bool) -> Any:
    classes, shape = 7, (40, *SPATIAL[planar])
    source = torch.randn(40, classes, *SPATIAL[planar], generator=generator).log_softmax(1).to(dtype)
    target = torch.randint(0, classes, shape, generator=generator)
    target.view(-1)[::5] = -100
    weight = (torch.rand(classes, generator=generator) + 0.5).to(dtype) if weighted else None
    return source, target, weight


def _forward_call(reduction: int, *, planar: bool = False, weighted: bool = False) -> Any:
    op = aten.nll_loss2d_forward.default if planar else aten.nll_loss_forward.default

    def call(dtype: torch.dtype, generator: torch.Generator) -> Any:
        return op, (*_operands(dtype, generator, planar=planar, weighted=weighted), reduction, -100), {}

    return call


def _backward_call(reduction: int, *, planar: bool = False, weighted: bool = False) -> Any:
    op = aten.nll_loss2d_backward.default if planar else aten.nll_loss_backward.default

    def call(dtype: torch.dtype, generator: torch.Generator) -> Any:
        source, target, weight = _operands(dtype, generator, planar=planar, weighted=weighted)
        grad = torch.randn(target.shape if reduction == NONE else (), generator=generator).to(dtype)
        total_weight = torch.tensor(float(prod(target.shape))).to(dtype)
        return op, (grad, source, target, weight, reduction, -100, total_weight), {}

    return call


def _dropped_target(output: tuple[Tensor, Tensor], args: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Return the loss of all targets but an eighth of them."""
    source, target, weight, reduction, ignored = args
    kept = target.clone()
    kept[: len(kept) // 8] = ignored
    fewer = aten.nll_loss2d_forward if target.dim() == 3 else aten.nll_loss_forward
    return fewer(source, kept, weight, SUM, ignored)[0] / (output[1] if reduction == MEAN else 1), output[1]


def _counted_ignored(output: tuple[Tensor, Tensor], args: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Return the total weight with the ignored targets counted."""
    return output[0], output[1] * 1.25


def _unmasked_target(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return a gradient at the ignored targets too."""
    return output + (output == 0).all(1, keepdim=True) * output.abs().max()


def _forward_examples(*, planar: bool) -> Examples:
    calls = {
        (reduction, weighted): _forward_call(reduction, planar=planar, weighted=weighted)
        for reduction in (NONE, MEAN, SUM)
        for weighted in (False, True)
    }
    names = {NONE: "none", MEAN: "mean", SUM: "sum"}
    reduced = {key: call for key, call in calls.items() if key[0] != NONE}
    fault = planted_faults.at
    return Examples(
        silent=tuple(Example(name=f"{names[key[0]]}{'-weighted' * key[1]}", call=call) for key, call in calls.items()),
        fires=(
            *(
                Example(name=f"dropped-{names[key[0]]}{'-weighted' * key[1]}", call=call, corrupt=_dropped_target)
                for key, call in reduced.items()
            ),
            Example(name="ignored-counted", call=calls[MEAN, False], corrupt=_counted_ignored),
            Example(name="stale-row", call=calls[NONE, False], corrupt=fault(0, planted_faults.stale_row)),
            Example(name="flipped-bit", call=calls[NONE, True], corrupt=fault(0, planted_faults.flipped_bit)),
            Example(name="nan", call=calls[MEAN, True], corrupt=fault(0, planted_faults.planted_nan)),
        ),
    )


def _backward_examples(*, planar: bool) -> Examples:
    plain, mean = (_backward_call(reduction, planar=planar) for reduction in (NONE, MEAN))
    weighted = _backward_call(SUM, planar=planar, weighted=True)
    return Examples(
        silent=(
            Example(name="none", call=plain),
            Example(name="mean", call=mean),
            Example(name="sum-weighted", call=weighted),
        ),
        fires=(
            Example(name="ignored-target", call=mean, corrupt=_unmasked_target),
            Example(name="stale-row", call=plain, corrupt=planted_faults.stale_row),
            Example(name="flipped-bit", call=weighted, corrupt=planted_faults.flipped_bit),
            Example(name="nan", call=mean, corrupt=planted_faults.planted_nan),
        ),
    )


EXAMPLES: Final = {
    "nll_loss": _forward_examples(planar=False),
    "nll_loss2d": _forward_examples(planar=True),
    "nll_loss_backward": _backward_examples(planar=False),
    "nll_loss2d_backward": _backward_examples(planar=True),
}
