"""PyTorch's own normalisations and losses are silent on ordinary and on hard data."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import numguard
from tests.regions.hand_written import Holder

N, C = 6, 8


def _random(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LayerNorm": (lambda: nn.LayerNorm(32), (N, C, 32)),
    "RMSNorm": (lambda: nn.RMSNorm(32), (N, C, 32)),
    "GroupNorm": (lambda: nn.GroupNorm(4, C), (N, C, 5, 5)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(C), (N, C)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(C), (N, C, 5, 5)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(C, affine=True), (N, C, 5, 5)),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(3), (N, C, 5, 5)),
    "Softmax": (lambda: nn.Softmax(-1), (N, C)),
    "LogSoftmax": (lambda: nn.LogSoftmax(-1), (N, C)),
    "CosineSimilarity": (lambda: nn.CosineSimilarity(-1), (N, C)),
    "PairwiseDistance": (lambda: nn.PairwiseDistance(), (N, C)),
}
TWO_INPUTS = ("CosineSimilarity", "PairwiseDistance")
SCALES = {"ordinary": (1.0, 0.0), "shifted": (1.0, 30.0), "large": (300.0, 0.0), "small": (1e-3, 0.0)}
CLASSES = ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss")
LOSSES = (
    *CLASSES, "L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss", "KLDivLoss", "BCELoss", "BCEWithLogitsLoss",
    "SoftMarginLoss", "HingeEmbeddingLoss", "PoissonNLLLoss", "MultiLabelSoftMarginLoss", "CosineEmbeddingLoss",
    "TripletMarginLoss", "GaussianNLLLoss", "MarginRankingLoss",
)  # fmt: skip


def unstable(model: nn.Module, batches: list[tuple[Tensor, ...]]) -> list[str]:
    with numguard.guard(model, budget=None) as g:
        for batch in batches:
            result = model(*batch)
            g.step(result.float().mean())
    assert [f.message for f in g.findings if f.kind == "degraded"] == []
    return [finding.message for finding in g.findings if finding.kind == "unstable_region"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NORMS)
def test_normalisations_are_silent(name: str, dtype: torch.dtype) -> None:
    if name == "LocalResponseNorm" and dtype is torch.bfloat16:
        pytest.skip("PyTorch has no bf16 kernel for its pooling on CPU")
    make, shape = NORMS[name]
    count = 2 if name in TWO_INPUTS else 1
    batches = [
        tuple((_random(*shape, seed=place, dtype=torch.float32) * scale + shift).to(dtype) for place in range(count))
        for scale, shift in SCALES.values()
    ]
    assert unstable(Holder(make().to(dtype)), batches) == []


def loss_inputs(name: str, scale: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    x = (_random(N, C, seed=0, dtype=torch.float32) * scale).to(dtype)
    y = (_random(N, C, seed=1, dtype=torch.float32) * scale).to(dtype)
    signs = torch.sign(_random(N, seed=2, dtype=dtype))
    if name in CLASSES:
        return (torch.log_softmax(x, -1) if name == "NLLLoss" else x), torch.arange(N) % C
    special: dict[str, tuple[Tensor, ...]] = {
        "KLDivLoss": (torch.log_softmax(x, -1), torch.softmax(y, -1)),
        "BCELoss": (torch.sigmoid(x), torch.sigmoid(y)),
        "BCEWithLogitsLoss": (x, torch.sigmoid(y)),
        "SoftMarginLoss": (x, torch.sign(y)),
        "HingeEmbeddingLoss": (x, torch.sign(y)),
        "MultiLabelSoftMarginLoss": (x, (y > 0).to(dtype)),
        "CosineEmbeddingLoss": (x, y, signs),
        "TripletMarginLoss": (x, y, x.flip(0)),
        "GaussianNLLLoss": (x, y, torch.nn.functional.softplus(x)),
        "MarginRankingLoss": (x[:, 0], y[:, 0], signs),
        "PoissonNLLLoss": (x.clamp(max=5.0), y.abs()),
    }
    return special.get(name, (x, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_silent(name: str, dtype: torch.dtype) -> None:
    if name == "MultiMarginLoss" and dtype is torch.bfloat16:
        pytest.skip("PyTorch has no bf16 kernel for it on CPU")
    kind = getattr(nn, name)
    reduction = "batchmean" if name == "KLDivLoss" else "none"
    batches = [loss_inputs(name, scale, dtype) for scale in (0.1, 1.0, 10.0)]
    assert unstable(Holder(kind(reduction=reduction)), batches) == []
