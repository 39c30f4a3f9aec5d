"""A ResNet-style image classifier: strided convolutions, batch norm, residual adds, global average pooling."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.models.pictures import NUM_CLASSES, discs
from tests.models.recipe import Batch, Recipe


class Residual(nn.Module):
    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, outputs, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(channels, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Three residual blocks; ``forward`` takes [batch, 3, side, side] and returns logits [batch, classes]."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        self.blocks = nn.Sequential(
            Residual(channels, channels, 1),
            Residual(channels, 2 * channels, 2),
            Residual(2 * channels, 4 * channels, 2),
        )
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(4 * channels, NUM_CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        features = self.pool(self.blocks(self.stem(pictures)))
        logits: Tensor = self.head(F.adaptive_avg_pool2d(features, 1).flatten(1))
        return logits


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.1)


def build_resnet(seed: int) -> Recipe:
    """Eight pictures of 16 x 16."""
    torch.manual_seed(seed)

    def batch(step: int) -> Batch:
        pictures, quadrant, _ = discs(seed, step, size=8, side=16)
        return pictures, quadrant

    return Recipe(ResNet(), batch, _loss)
