"""Calls of convolutions that their checks must be silent about, and faults they must find."""

from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.batch_norm_examples import channels_last
from numguard.checks.check import Example, Examples
from numguard.checks.planted_faults import at, flipped_bit, planted_nan, stale_row

aten = torch.ops.aten


def _normal(dtype: torch.dtype, generator: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def _operands(dtype: torch.dtype, generator: Generator, **form: Any) -> tuple[Tensor, Tensor, Tensor, tuple[Any, ...]]:
    """Return input, weight, bias and the other arguments; ``form`` names what is not the default."""
    count, groups, transposed = form.get("dims", 2), form.get("groups", 1), form.get("transposed", False)
    channels, out = 2 * groups, 3 * groups
    x = _normal(dtype, generator, 2, channels, *(7, 6, 3)[:count])
    shape = (channels, out // groups) if transposed else (out, channels // groups)
    weight = _normal(dtype, generator, *shape, *(form.get("kernel", 3),) * count)
    if form.get("last"):
        x, weight = channels_last(x), channels_last(weight)
    numbers = (form.get(name, fallback) for name, fallback in (("stride", 1), ("padding", 1), ("dilation", 1)))
    steps = [[number] * count for number in numbers]
    rest = (*steps, transposed, [form.get("output_padding", 0)] * count, groups)
    return x, weight, _normal(dtype, generator, out), rest


def forward_call(**form: Any) -> Any:
    """Return a maker of forward calls."""

    def call(dtype: torch.dtype, generator: Generator) -> Any:
        x, weight, bias, rest = _operands(dtype, generator, **form)
        return aten.convolution.default, (x, weight, bias if form.get("bias", True) else None, *rest), {}

    return call


def backward_call(**form: Any) -> Any:
    """Return a maker of backward calls."""

    def call(dtype: torch.dtype, generator: Generator) -> Any:
        x, weight, bias, rest = _operands(dtype, generator, **form)
        grad = aten.convolution(x, weight, bias, *rest)
        grad = torch.empty_like(grad).copy_(_normal(dtype, generator, *grad.shape))
        return aten.convolution_backward.default, (grad, x, weight, list(bias.shape), *rest, [True] * 3), {}

    return call


def _lost_border(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return the result of a kernel that reads its last column one place too early."""
    wrong = output.clone()
    wrong[..., -1] = output[..., -2]
    return wrong


def _without_a_sample(output: Any, args: tuple[Any, ...]) -> Any:
    grad, *others = args
    fewer = grad.clone()
    fewer[-1] = 0
    return (output[0], *aten.convolution_backward(fewer, *others)[1:])


_FORMS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "strided": {"stride": 2},
    "dilated": {"dilation": 2, "padding": 2},
    "groups": {"groups": 3},
    "one by one": {"kernel": 1, "padding": 0},
    "one dimension": {"dims": 1, "stride": 2},
    "three dimensions": {"dims": 3},
    "channels_last": {"last": True, "stride": 2},
    "transposed": {"transposed": True, "stride": 2, "output_padding": 1},
    "transposed in groups": {"transposed": True, "groups": 2, "stride": 2, "dilation": 2},
}

FORWARD: Final = Examples(
    silent=(
        *(Example(name=name, call=forward_call(**form)) for name, form in _FORMS.items()),
        Example(name="without bias", call=forward_call(bias=False)),
    ),
    fires=(
        Example(name="flipped bit", call=forward_call(), corrupt=flipped_bit),
        Example(name="nan", call=forward_call(stride=2), corrupt=planted_nan),
        Example(name="stale sample", call=forward_call(groups=3), corrupt=stale_row),
        Example(name="lost border", call=forward_call(), corrupt=_lost_border),
        Example(name="flipped bit where transposed", call=forward_call(transposed=True), corrupt=flipped_bit),
    ),
)
BACKWARD: Final = Examples(
    silent=tuple(Example(name=name, call=backward_call(**form)) for name, form in _FORMS.items()),
    fires=(
        Example(name="flipped bit", call=backward_call(), corrupt=at(0, flipped_bit)),
        Example(name="flipped bit of the weight's", call=backward_call(stride=2), corrupt=at(1, flipped_bit)),
        Example(name="nan in the bias's", call=backward_call(), corrupt=at(2, planted_nan)),
        Example(name="without a sample", call=backward_call(), corrupt=_without_a_sample),
        Example(name="flipped bit where transposed", call=backward_call(transposed=True), corrupt=at(1, flipped_bit)),
    ),
)
