"""One tensor in many memory layouts: equal values at other strides and offsets, where kernels take other paths."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor


def _contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def _transposed(x: Tensor) -> Tensor:
    order = [*range(x.dim())][::-1]
    return x.permute(order).contiguous().permute(order)


def _gapped(x: Tensor) -> Tensor:
    if x.dim() == 0:
        return _offset(x)
    wide = x.new_full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan if x.is_floating_point() else 1)
    view = wide[..., ::2]
    view.copy_(x)
    return view


def _offset(x: Tensor) -> Tensor:
    store = x.new_full((x.numel() + 1,), torch.nan if x.is_floating_point() else 1)
    view = store[1:].view(x.shape)
    view.copy_(x)
    return view


#: Functions ``(x) -> Tensor`` that return the same values, shape and dtype in another layout, by name: row-major,
#: column-major, with a NaN between any two elements of a row, and one element off the start of the storage.
LAYOUTS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = MappingProxyType(
    {"contiguous": _contiguous, "transposed": _transposed, "gapped": _gapped, "offset": _offset}
)
