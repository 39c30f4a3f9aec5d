"""Calls of normalisation operators that their checks must be silent about, and faults they must find."""

from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks import planted_faults
from numguard.checks.check import Example, Examples
from numguard.checks.planted_faults import at

ROWS: Final = (6, 20)
LENGTH: Final = 72

aten = torch.ops.aten


def _operands(dtype: torch.dtype, generator: torch.Generator, shift: float, scale: float) -> tuple[Tensor, ...]:
    x = (scale * torch.randn(*ROWS, LENGTH, generator=generator) + shift).to(dtype)
    weight, bias = (torch.randn(LENGTH, generator=generator) for _ in range(2))
    return x, weight + 2.0, bias


def forward_call(*, shift: float = 0.0, scale: float = 1.0, mixed: bool = False, affine: bool = True) -> Any:
    """Return a maker of ``native_layer_norm`` calls on ``scale * normal + shift``."""

    def call(dtype: torch.dtype, generator: torch.Generator) -> Any:
        x, weight, bias = _operands(dtype, generator, shift, scale)
        wide = torch.float32 if mixed and dtype is not torch.float64 else dtype
        parameters = (weight.to(wide), bias.to(wide)) if affine else (None, None)
        return aten.native_layer_norm.default, (x, [LENGTH], *parameters, 1e-5), {}

    return call


def backward_call(*, shift: float = 0.0, mixed: bool = False) -> Any:
    """Return a maker of ``native_layer_norm_backward`` calls with the statistics of the forward pass."""

    def call(dtype: torch.dtype, generator: torch.Generator) -> Any:
        x, weight, bias = _operands(dtype, generator, shift, 1.0)
        wide = torch.float32 if mixed and dtype is not torch.float64 else dtype
        parameters = weight.to(wide), bias.to(wide)
        dy = torch.randn(*ROWS, LENGTH, generator=generator).to(dtype)
        _, mean, rstd = aten.native_layer_norm(x, [LENGTH], *parameters, 1e-5)
        arguments = (dy, x, [LENGTH], mean, rstd, *parameters, [True, True, True])
        return aten.native_layer_norm_backward.default, arguments, {}

    return call


def _rms_call(dtype: torch.dtype, generator: torch.Generator) -> Any:
    x, weight, _ = _operands(dtype, generator, 0.5, 1.0)
    return aten._fused_rms_norm.default, (x, [LENGTH], weight.to(dtype), 1e-6), {}


def _without_an_eighth(output: Any, args: tuple[Any, ...]) -> Any:
    """Return the layer norm whose statistics miss the last eighth of each row."""
    x, _, weight, bias, eps = args
    part = x[..., : -(LENGTH // 8)].double()
    mean, variance = part.mean(-1, keepdim=True), part.var(-1, keepdim=True, correction=0)
    y = (x.double() - mean) / (variance + eps).sqrt()
    y = y if weight is None else y * weight + bias
    return y.to(x.dtype), output[1], output[2]


def _dropped_rows(position: int) -> Any:
    """Return dgamma or dbeta without the last eighth of the rows, summed as the operator sums."""

    def corrupt(output: Any, args: tuple[Any, ...]) -> Any:
        dy, *others = args
        fewer = dy.clone()
        fewer.view(-1, LENGTH)[-fewer[..., 0].numel() // 8 :] = 0
        results = aten.native_layer_norm_backward(fewer, *others)
        return tuple(results[part] if part == position else output[part] for part in range(3))

    return corrupt


def _dropped_row(output: Any, args: tuple[Any, ...]) -> Any:
    """Return dbeta without its first row, summed as the operator sums."""
    dy, *others = args
    fewer = dy.clone()
    fewer[0, 0] = 0
    return output[0], output[1], aten.native_layer_norm_backward(fewer, *others)[2]


def _summed_in_bfloat16(output: Any, args: tuple[Any, ...]) -> Any:
    """Return dbeta as a bfloat16 sum gives it."""
    total = torch.zeros(LENGTH, dtype=torch.bfloat16)
    for row in args[0].reshape(-1, LENGTH).to(torch.bfloat16):
        total = total + row
    return output[0], output[1], total.to(output[2].dtype)


_FORWARD = (
    Example(name="rows", call=forward_call()),
    Example(name="mean-30", call=forward_call(shift=30.0)),
    Example(name="constant", call=forward_call(shift=3.0, scale=0.0)),
    Example(name="tiny", call=forward_call(scale=1e-37)),
    Example(name="float32-parameters", call=forward_call(mixed=True)),
    Example(name="no-parameters", call=forward_call(affine=False)),
)

LAYER_NORM: Final = Examples(
    silent=_FORWARD,
    fires=(
        Example(name="dropped-eighth", call=forward_call(shift=1.0), corrupt=_without_an_eighth),
        Example(name="stale-row", call=forward_call(), corrupt=at(0, planted_faults.stale_row)),
        Example(name="doubled-block", call=forward_call(), corrupt=at(0, planted_faults.doubled_block)),
        Example(name="stale-mean", call=forward_call(), corrupt=at(1, planted_faults.stale_row)),
        Example(name="flipped-rstd", call=forward_call(mixed=True), corrupt=at(2, planted_faults.flipped_bit)),
        Example(name="nan", call=forward_call(), corrupt=at(0, planted_faults.planted_nan)),
    ),
)
LAYER_NORM_BACKWARD: Final = Examples(
    silent=(
        Example(name="rows", call=backward_call()),
        Example(name="mean-30", call=backward_call(shift=30.0)),
        Example(name="float32-parameters", call=backward_call(mixed=True)),
    ),
    fires=(
        Example(name="stale-row", call=backward_call(), corrupt=at(0, planted_faults.stale_row)),
        Example(name="doubled-block", call=backward_call(), corrupt=at(0, planted_faults.doubled_block)),
        Example(name="flipped-bit", call=backward_call(), corrupt=at(0, planted_faults.flipped_bit)),
        Example(name="dgamma-dropped-rows", call=backward_call(), corrupt=_dropped_rows(1)),
        Example(name="dbeta-dropped-rows", call=backward_call(mixed=True), corrupt=_dropped_rows(2)),
        Example(name="dbeta-dropped-row", call=backward_call(), corrupt=_dropped_row),
        Example(name="dgamma-nan", call=backward_call(), corrupt=at(1, planted_faults.planted_nan)),
        Example(
            name="dbeta-in-bfloat16",
            call=backward_call(),
            corrupt=_summed_in_bfloat16,
            dtypes=(torch.float32, torch.float64),
        ),
    ),
)
FUSED_RMS_NORM: Final = Examples(
    silent=(Example(name="rows", call=_rms_call),),
    fires=(
        Example(name="stale-row", call=_rms_call, corrupt=at(0, planted_faults.stale_row)),
        Example(name="flipped-rstd", call=_rms_call, corrupt=at(1, planted_faults.flipped_bit)),
        Example(name="nan", call=_rms_call, corrupt=at(0, planted_faults.planted_nan)),
    ),
)
