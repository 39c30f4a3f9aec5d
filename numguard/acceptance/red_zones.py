"""Memory around and between the elements of a tensor, which nobody may write to."""

from dataclasses import dataclass

import torch
from torch import Tensor

from numguard.acceptance.trials import Tensors

_MOST_BYTES = 1 << 24  # of a storage that is copied


@dataclass(frozen=True, kw_only=True, slots=True)
class Surrounding:
    """A storage as it was, bytewise, with the tensor's own elements blanked."""

    name: str
    tensor: Tensor
    before: Tensor


def _blanked(x: Tensor) -> Tensor:
    """Return the bytes of the storage of ``x`` with its own elements zero."""
    store = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage()).clone()
    store.as_strided(x.shape, x.stride(), x.storage_offset()).zero_()
    return store.view(torch.uint8)


def surroundings(tensors: Tensors) -> list[Surrounding]:
    """Return what lies around the tensors, where anything does."""
    return [
        Surrounding(name=name, tensor=x, before=_blanked(x))
        for name, x in tensors.items()
        if x.numel() * x.element_size() < x.untyped_storage().nbytes() <= _MOST_BYTES
    ]


def overwritten(around: list[Surrounding]) -> list[str]:
    """Return the names of the tensors around which something has changed."""
    return [entry.name for entry in around if not torch.equal(_blanked(entry.tensor), entry.before)]
