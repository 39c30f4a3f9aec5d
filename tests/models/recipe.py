"""What a training loop needs of a model."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, ...]


class Recipe(NamedTuple):
    """A model with its data and its objective.

    ``batch(step)`` is a pure function of the step; ``loss(model, batch)`` returns a scalar with a graph behind it.
    """

    model: nn.Module
    batch: Callable[[int], Batch]
    loss: Callable[[nn.Module, Batch], Tensor]


def generator(seed: int, step: int) -> torch.Generator:
    """Return the random generator of one step, apart from the global one."""
    return torch.Generator().manual_seed(1_000_003 * (seed + 1) + step)
