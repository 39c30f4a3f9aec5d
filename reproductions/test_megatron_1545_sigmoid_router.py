"""A sigmoid router that normalises with an epsilon of 1e-20.

Symptom
    The auxiliary loss falls below 1, which no balance can reach, and the scores vanish.
Cause
    scores / (sum + 1e-20) sums to 1 only while the scores are much larger than 1e-20. With logits below -46 the weights
    sum to less, and the loss rewards exactly that.
Fix
    No epsilon, or the smallest normal number.
Affected
    Megatron-LM (issue 1545), OLMo-core. Emulated: the router's formula. What it should return is declared by the user,
    as one would who wants normalised weights.
"""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="Megatron-LM",
    issue="1545",
    url="https://github.com/NVIDIA/Megatron-LM/issues/1545",
    family="moe",
    kind="emulated",
    catalogue="E48-moe-sigmoid-eps",
    found_by="guard",
    declared=True,
)


class Router(torch.nn.Module):
    """Scores of experts, normalised."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, logits: Tensor) -> Tensor:
        """Return weights of the last dimension's shape that should sum to 1."""
        scores = logits.sigmoid()
        return scores / (scores.sum(-1, keepdim=True) + self.eps)


def normalised(state: Mapping[str, Any], logits: Tensor) -> Tensor:
    """Return what the router is meant to return."""
    scores = logits.sigmoid()
    return scores / scores.sum(-1, keepdim=True)


def play(stage: Stage) -> None:
    model = torch.nn.ModuleDict({"router": Router(0.0 if stage.fixed else 1e-20)})
    with stage.watched(model):
        for level in (0.0, -20.0, -50.0):
            logits = stage.cast(torch.randn(16, 4) + level, torch.float32)
            weights = model["router"](logits)
            stage.step(weights.sum(-1).mean())
    stage.keep("sum", weights.sum(-1).mean())


def test_the_bug_shows(tell):
    broken = perform(play)
    tell("the weights sum to", *broken.losses)
    assert broken.number("sum") < 0.5


def test_numguard_finds_it(found):
    finding = found(play, kind="unstable_region", module="router", regions={"router": normalised})
    assert finding.first_caught_step == 2


def test_the_fix_is_silent(silent):
    assert abs(silent(play, regions={"router": normalised}).number("sum") - 1) < 1e-6
