"""Examples of the elementwise operators of an optimizer step, and the faults that each can have."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Example

Call = tuple[torch._ops.OpOverload, tuple[Any, ...], dict[str, Any]]
SHAPES: Final = ((7, 33), (64,), (), (0, 3), (2, 5, 3))
LISTS: Final = 4  # self, two more operands, and a positive one


def _draw(dtype: torch.dtype, generator: torch.Generator) -> list[list[Tensor]]:
    lists = [
        [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]
        for _ in range(LISTS)
    ]
    return [*lists[:-1], [tensor.square() + 0.5 for tensor in lists[-1]]]


def joined(
    overload: torch._ops.OpOverload, operands: tuple[int, ...], *scalars: Any, **settings: Any
) -> Callable[[torch.dtype, torch.Generator], Call]:
    """Return a call on lists of tensors; ``operands`` numbers the drawn lists (3 is positive), scalars follow."""

    def call(dtype: torch.dtype, generator: torch.Generator) -> Call:
        lists = _draw(dtype, generator)
        return overload, (*(lists[number] for number in operands), *scalars), settings

    return call


def single(
    overload: torch._ops.OpOverload, operands: tuple[int, ...], *scalars: Any, **settings: Any
) -> Callable[[torch.dtype, torch.Generator], Call]:
    """Return a call on one tensor each."""

    def call(dtype: torch.dtype, generator: torch.Generator) -> Call:
        lists = _draw(dtype, generator)
        return overload, (*(lists[number][0] for number in operands), *scalars), settings

    return call


def flip_bit(output: Any, args: tuple[Any, ...]) -> Any:
    """Double one element of what the operator wrote or returned: the flip of the lowest exponent bit."""
    target = args[0] if output is None or output is args[0] else output
    if isinstance(target, list | tuple):
        target[0].view(-1)[5].mul_(2.0)
        return output
    target.view(-1)[5].mul_(2.0)
    return output


def skip_tail(output: Any, args: tuple[Any, ...]) -> Any:
    """Leave the last elements of a tensor as the second operand has them, as a kernel with a wrong bound does."""
    target = args[0] if output is None or output is args[0] else output
    (target[1] if isinstance(target, list | tuple) else target).view(-1)[-3:].fill_(0.0)
    return output


def store_in_bfloat16(output: Any, args: tuple[Any, ...]) -> Any:
    """Round what was written to bfloat16."""
    target = args[0] if output is None or output is args[0] else output
    for tensor in target if isinstance(target, list | tuple) else [target]:
        tensor.copy_(tensor.bfloat16())
    return output


WIDER_THAN_BFLOAT16: Final = (torch.float32, torch.float16, torch.float64)
PER_TENSOR: Final = (-0.5, -0.25, -0.125, -1.0, -0.0625)


def faults(call: Callable[[torch.dtype, torch.Generator], Call], name: str) -> tuple[Example, ...]:
    """Return the faults that every elementwise operator can have, planted in one call."""
    return (
        Example(name=f"{name}_flipped_bit", call=call, corrupt=flip_bit),
        Example(name=f"{name}_skipped_tail", call=call, corrupt=skip_tail),
        Example(name=f"{name}_in_bfloat16", call=call, corrupt=store_in_bfloat16, dtypes=WIDER_THAN_BFLOAT16),
    )
