"""Pictures drawn by formula: bright discs on a noisy ground, with their class and their mask."""

import torch
from torch import Tensor

from tests.models.recipe import generator

NUM_CLASSES = 4


def discs(seed: int, step: int, *, size: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return pictures [size, 3, side, side], the quadrant of each disc [size] and its mask [size, side, side].

    The mask is 1 on the disc, 0 off it, and -100 (ignored) on the outermost pixels.
    """
    random = generator(seed, step)
    quadrant = torch.randint(NUM_CLASSES, (size,), generator=random)
    half = side / 2
    centre = torch.stack((quadrant // 2, quadrant % 2), dim=1) * half + half / 2
    grid = torch.arange(side, dtype=torch.float32)
    rows, columns = grid[None, :, None], grid[None, None, :]
    distance = ((rows - centre[:, 0, None, None]) ** 2 + (columns - centre[:, 1, None, None]) ** 2).sqrt()
    mask = (distance < side / 5).long()
    pictures = mask[:, None] * 1.5 + 0.5 * torch.randn(size, 3, side, side, generator=random)
    mask[:, 0, :], mask[:, :, 0] = -100, -100
    return pictures, quadrant, mask
