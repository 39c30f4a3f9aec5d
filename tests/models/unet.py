"""A UNet that segments pictures: group norm, transposed convolutions, skip connections by concatenation."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.models.pictures import discs
from tests.models.recipe import Batch, Recipe


def _double(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.SiLU(),
    )  # fmt: skip


class UNet(nn.Module):
    """Two levels; ``forward`` takes [batch, 3, side, side] and returns logits [batch, 2, side, side]."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.down = _double(3, channels)
        self.bottom = _double(channels, 2 * channels)
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.merge = _double(2 * channels, channels)
        self.head = nn.Conv2d(channels, 2, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        skip = self.down(pictures)
        bottom = self.bottom(F.avg_pool2d(skip, 2))
        smooth = F.interpolate(bottom, scale_factor=2, mode="bilinear", align_corners=False)
        raised = self.up(bottom) + smooth[:, : skip.shape[1]]
        logits: Tensor = self.head(self.merge(torch.cat((skip, raised), dim=1)))
        return logits


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def build_unet(seed: int) -> Recipe:
    """Four pictures of 16 x 16; the outermost pixels are ignored targets."""
    torch.manual_seed(seed)

    def batch(step: int) -> Batch:
        pictures, _, mask = discs(seed, step, size=4, side=16)
        return pictures, mask

    return Recipe(UNet(), batch, _loss)
