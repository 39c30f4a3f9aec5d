"""Wrong results for the examples of the checks: what kernels, memory and chips have been seen to do."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Corruption = Callable[[Any, tuple[Any, ...]], Any]


def _largest(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return a flat copy and the place of its largest absolute value."""
    flat = tensor.detach().clone().reshape(-1)
    return flat, flat.double().abs().argmax()


def planted_nan(tensor: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return the result with its largest element NaN."""
    flat, place = _largest(tensor)
    flat[place] = torch.nan
    return flat.reshape(tensor.shape)


def flipped_bit(tensor: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return the result with the lowest exponent bit of its largest element flipped: twice or half the value."""
    bits = {torch.float64: (torch.int64, 52), torch.float32: (torch.int32, 23)}
    bits |= {torch.float16: (torch.int16, 10), torch.bfloat16: (torch.int16, 7)}
    flat, place = _largest(tensor)
    integer, exponent = bits[tensor.dtype]
    flat.view(integer)[place] ^= 1 << exponent
    return flat.reshape(tensor.shape)


def stale_row(tensor: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return the result with its first row replaced by the second, as if it had not been written."""
    stale = tensor.detach().clone()
    stale[0] = stale[1]
    return stale


def doubled_block(tensor: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return the result with the first half of the last dimension written twice, as if an offset was lost."""
    doubled = tensor.detach().clone()
    half = doubled.shape[-1] // 2
    doubled[..., half : 2 * half] = doubled[..., :half]
    return doubled


def leaking_zero(tensor: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return the result with its zeros replaced by an eighth of the largest value, as if a mask was lost."""
    return torch.where(tensor == 0, tensor.abs().max() / 8, tensor)


def at(position: int, corruption: Corruption) -> Corruption:
    """Return a corruption of one result among several."""

    def corrupt(output: Any, args: tuple[Any, ...]) -> Any:
        return tuple(corruption(part, args) if place == position else part for place, part in enumerate(output))

    return corrupt
