"""Examples of fused optimizer steps: correct ones, and ones with the faults that an optimizer kernel can have."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Example, Examples

Call = tuple[torch._ops.OpOverload, tuple[Any, ...], dict[str, Any]]
SHAPES: Final = ((7, 33), (64,), (), (0, 3), (2, 5, 3))
BETAS: Final = (0.9, 0.99)
LR: Final = 0.125
STEP: Final = 3.0
EPS: Final = 1e-3


def _draw(dtype: torch.dtype, generator: torch.Generator, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> list[Tensor]:
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def _adam(overload: torch._ops.OpOverload, **changed: Any) -> Callable[[torch.dtype, torch.Generator], Call]:
    def call(dtype: torch.dtype, generator: torch.Generator) -> Call:
        params, grads, means = (_draw(dtype, generator) for _ in range(3))
        squares = [tensor.square() + 0.1 for tensor in _draw(dtype, generator)]
        settings: dict[str, Any] = {"weight_decay": 0.0, "eps": EPS, "amsgrad": False, "maximize": False, **changed}
        largest = [tensor * 1.01 for tensor in squares] if settings["amsgrad"] else []
        steps = [torch.tensor(STEP) for _ in params]
        settings = {"lr": LR, "beta1": BETAS[0], "beta2": BETAS[1], **settings}
        return overload, (params, grads, means, squares, largest, steps), settings

    return call


def _sgd(
    overload: torch._ops.OpOverload, shapes: tuple[tuple[int, ...], ...] = SHAPES, **changed: Any
) -> Callable[[torch.dtype, torch.Generator], Call]:
    def call(dtype: torch.dtype, generator: torch.Generator) -> Call:
        params, grads, buffers = (_draw(dtype, generator, shapes) for _ in range(3))
        settings = {
            "weight_decay": 0.0,
            "momentum": 0.9,
            "lr": LR,
            "dampening": 0.0,
            "nesterov": False,
            "maximize": False,
            "is_first_step": False,
            **changed,
        }
        return overload, (params, grads, buffers if settings["momentum"] else []), settings

    return call


def _direction(args: tuple[Any, ...], number: int) -> Tensor:
    """Return the update of one tensor of an Adam call, from its new moments, without the learning rate."""
    root = args[3][number].double().sqrt() / (1.0 - BETAS[1] ** STEP) ** 0.5
    return torch.as_tensor(args[2][number].double() / (root + EPS) / (1.0 - BETAS[0] ** STEP))


def _missing_bias_correction(output: Any, args: tuple[Any, ...]) -> Any:
    moved = LR * _direction(args, 0) * (1.0 - (1.0 - BETAS[0] ** STEP))
    args[0][0].copy_(args[0][0].double() + moved)
    return output


def _stale_moment(output: Any, args: tuple[Any, ...]) -> Any:
    args[2][1].copy_((args[2][1].double() - (1.0 - BETAS[0]) * args[1][1].double()) / BETAS[0])
    return output


def _dropped_decay(output: Any, args: tuple[Any, ...]) -> Any:
    before = (args[0][0].double() + LR * _direction(args, 0)) / (1.0 - LR * 0.5)
    args[0][0].copy_(args[0][0].double() + LR * 0.5 * before)
    return output


def _skipped_tensor(output: Any, args: tuple[Any, ...]) -> Any:
    args[0][4].copy_(args[0][4].double() + LR * _direction(args, 4))
    return output


def _flipped_bit(list_number: int) -> Callable[[Any, tuple[Any, ...]], Any]:
    """Change one stored element as the flip of its lowest exponent bit does: by a factor of two."""

    def corrupt(output: Any, args: tuple[Any, ...]) -> Any:
        args[list_number][0].view(-1)[17].mul_(2.0)
        return output

    return corrupt


def _moment_in_bfloat16(output: Any, args: tuple[Any, ...]) -> Any:
    args[3][0].copy_(args[3][0].bfloat16())
    return output


def _dropped_momentum(output: Any, args: tuple[Any, ...]) -> Any:
    args[0][0].copy_(args[0][0].double() + LR * (args[2][0].double() - args[1][0].double()))
    return output


def _skipped_sgd_tensor(output: Any, args: tuple[Any, ...]) -> Any:
    args[0][1].copy_(args[0][1].double() + LR * args[2][1].double())
    return output


_ADAMW = torch.ops.aten._fused_adamw_.default
_ADAM = torch.ops.aten._fused_adam_.default
_SGD = torch.ops.aten._fused_sgd_.default
_SCALED: Final[dict[str, Any]] = {"grad_scale": torch.tensor(4.0), "found_inf": torch.tensor(0.0)}
_OVERFLOWED: Final[dict[str, Any]] = {"grad_scale": torch.tensor(4.0), "found_inf": torch.tensor(1.0)}
# The 16-bit CPU kernel of SGD skips whole vectors in torch 2.13.0 (pytorch#191763): silence is right below one vector.
_BELOW_ONE_VECTOR: Final = ((7,), (), (2, 3))
_WIDE: Final = (torch.float32, torch.float64)
_WIDER_THAN_BFLOAT16: Final = (torch.float32, torch.float16, torch.float64)

EXAMPLES: Final = {
    "fused_adam": Examples(
        silent=(
            Example(name="adamw", call=_adam(_ADAMW, weight_decay=0.5)),
            Example(name="adam_coupled_decay", call=_adam(_ADAM, weight_decay=0.5, amsgrad=True, maximize=True)),
            Example(name="tensor_lr", call=_adam(torch.ops.aten._fused_adamw_.tensor_lr, lr=torch.tensor(LR))),
            Example(name="scaled_gradients", call=_adam(_ADAMW, **_SCALED)),
            Example(name="skipped_step", call=_adam(_ADAMW, **_OVERFLOWED)),
            Example(name="no_memory", call=_adam(_ADAM, beta1=0.0, beta2=0.0, eps=0.0)),
            Example(name="no_learning", call=_adam(_ADAMW, lr=0.0)),
        ),
        fires=(
            Example(name="missing_bias_correction", call=_adam(_ADAMW), corrupt=_missing_bias_correction),
            Example(name="stale_moment", call=_adam(_ADAMW), corrupt=_stale_moment),
            Example(name="dropped_decay", call=_adam(_ADAMW, weight_decay=0.5), corrupt=_dropped_decay),
            Example(name="skipped_tensor", call=_adam(_ADAM), corrupt=_skipped_tensor),
            Example(name="flipped_bit_in_param", call=_adam(_ADAM), corrupt=_flipped_bit(0)),
            Example(name="flipped_bit_in_square", call=_adam(_ADAMW), corrupt=_flipped_bit(3)),
            Example(
                name="moment_in_bfloat16", call=_adam(_ADAMW), corrupt=_moment_in_bfloat16, dtypes=_WIDER_THAN_BFLOAT16
            ),
            Example(name="moved_in_skipped_step", call=_adam(_ADAMW, **_OVERFLOWED), corrupt=_flipped_bit(2)),
        ),
    ),
    "fused_sgd": Examples(
        silent=(
            Example(name="momentum", call=_sgd(_SGD, weight_decay=0.5, dampening=0.25), dtypes=_WIDE),
            Example(name="nesterov", call=_sgd(_SGD, weight_decay=0.5, nesterov=True, maximize=True), dtypes=_WIDE),
            Example(name="plain", call=_sgd(_SGD, momentum=0.0), dtypes=_WIDE),
            Example(name="first_step", call=_sgd(_SGD, is_first_step=True), dtypes=_WIDE),
            Example(
                name="tensor_lr", call=_sgd(torch.ops.aten._fused_sgd_.tensor_lr, lr=torch.tensor(LR)), dtypes=_WIDE
            ),
            Example(name="scaled_gradients", call=_sgd(_SGD, **_SCALED), dtypes=_WIDE),
            Example(name="skipped_step", call=_sgd(_SGD, **_OVERFLOWED), dtypes=_WIDE),
            Example(name="narrow", call=_sgd(_SGD, _BELOW_ONE_VECTOR, weight_decay=0.5, nesterov=True)),
            Example(name="narrow_plain", call=_sgd(_SGD, _BELOW_ONE_VECTOR, momentum=0.0, maximize=True)),
        ),
        fires=(
            Example(name="dropped_momentum", call=_sgd(_SGD), corrupt=_dropped_momentum),
            Example(name="skipped_tensor", call=_sgd(_SGD), corrupt=_skipped_sgd_tensor),
            Example(name="flipped_bit_in_buffer", call=_sgd(_SGD), corrupt=_flipped_bit(2)),
        ),
    ),
}
