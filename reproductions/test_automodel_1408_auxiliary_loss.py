"""The load-balancing loss of a mixture of experts never reaches the router.

Symptom
    The auxiliary loss is logged and does not fall; experts collapse.
Cause
    The auxiliary loss enters the graph through an autograd function that returns its first argument and adds a gradient
    for the second. Its result was thrown away, and the weights from before it went on.
Fix
    weights = Scaler.apply(weights, auxiliary).
Affected
    NeMo Automodel (issue 1408). Emulated: the function and the line that drops its result, in a small router.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="NeMo Automodel",
    issue="1408",
    url="https://github.com/NVIDIA-NeMo/Automodel/issues/1408",
    family="moe",
    kind="emulated",
    catalogue="E46-moe-aux-discarded",
    found_by=None,
    missing="equivalences of the whole step",
)
STEPS, EXPERTS, WIDTH = 60, 4, 8


class AddedLoss(torch.autograd.Function):
    """Hand the weights on; send a gradient of 1 into the auxiliary loss."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, auxiliary: Tensor) -> Tensor:
        ctx.save_for_backward(auxiliary)
        return weights.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (auxiliary,) = ctx.saved_tensors
        return gradient, torch.ones_like(auxiliary)


def play(stage: Stage) -> None:
    router = stage.cast(torch.nn.Linear(WIDTH, EXPERTS), torch.float32)
    with torch.no_grad():
        router.bias[0] += 2.0  # a favourite that the auxiliary loss is to cure
    optimizer = torch.optim.SGD(router.parameters(), lr=0.5)
    with stage.watched(router, optimizer):
        for _ in range(STEPS):
            x = stage.cast(torch.randn(64, WIDTH), torch.float32)
            weights = router(x).softmax(-1)
            load = weights.mean(0)
            balanced = AddedLoss.apply(weights, EXPERTS * (load * load).sum())
            used = balanced if stage.fixed else weights
            optimizer.zero_grad()
            (used.sum() * 0.0).backward()  # the task gives the router no reason to move: only the auxiliary loss does
            optimizer.step()
            stage.step(EXPERTS * (load.detach() ** 2).sum())
    stage.keep("load", load)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("auxiliary loss", broken.losses[0], "->", broken.losses[-1], "| wired", fixed.losses[-1], "(1 is balanced)")
    assert broken.losses[-1] > 1.5
    assert fixed.losses[-1] < 1.05


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
