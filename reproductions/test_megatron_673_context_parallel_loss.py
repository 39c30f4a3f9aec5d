"""Context parallelism multiplies the loss by the number of context ranks once too often.

Symptom
    Changing the context-parallel size changes the gradient norm and the effective learning rate.
Cause
    The loss is multiplied by ``cp_size`` so that the mean over the data-parallel group, which had been the data ranks
    only, comes out right. The group includes the context ranks by now, and the mean over tokens is taken already.
Fix
    Scale once.
Affected
    Megatron-LM, issue 673. What is emulated: the scaling of the loss, written again. What is real: two gloo ranks with
    half of each sequence, and the mean of gradients over both.
"""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="Megatron-LM",
    issue="673",
    url="https://github.com/NVIDIA/Megatron-LM/issues/673",
    family="gradient-accumulation",
    kind="emulated",
    catalogue="E25-cp-loss-scale",
    found_by=None,
    missing="equivalences of the whole step",
)
WIDTH, LENGTH, STEPS, CONTEXT_RANKS = 16, 32, 6, 2


def train(rank: int, stage: Stage) -> tuple[list[float], Tensor]:
    model = stage.cast(torch.nn.Linear(WIDTH, WIDTH), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    ratios = []
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            sequence = stage.cast(torch.randn(8, LENGTH, WIDTH), torch.float32)
            whole = (model(sequence) - sequence.roll(1, 2)).square().mean()
            alone = torch.autograd.grad(whole, model.weight)[0]
            x = sequence.chunk(CONTEXT_RANKS, 1)[rank]
            loss = (model(x) - x.roll(1, 2)).square().mean()
            optimizer.zero_grad()
            (loss if stage.fixed else loss * CONTEXT_RANKS).backward()
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
            ratios.append(float(model.weight.grad.norm() / alone.norm()))
            optimizer.step()
            stage.step(loss)
    return ratios, model.weight.detach()


def play(stage: Stage) -> None:
    (ratios, weight), _ = run_ranks(train, CONTEXT_RANKS, stage)
    stage.keep("gradient over that of one rank", ratios)
    stage.keep("weight", weight)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("gradient over that of one rank:", broken.kept["gradient over that of one rank"][0])
    torch.testing.assert_close(broken.kept["gradient over that of one rank"], torch.full((STEPS,), 2.0).double())
    torch.testing.assert_close(fixed.kept["gradient over that of one rank"], torch.ones(STEPS).double())


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
