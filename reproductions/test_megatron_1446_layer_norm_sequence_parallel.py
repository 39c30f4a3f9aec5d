"""Sequence parallelism: the gradients of layer norms are not added up, and replicas drift.

Symptom
    With tensor and sequence parallelism the loss is slightly worse than without, and a checkpoint's layer norm weights
    differ from rank to rank.
Cause
    Each rank normalises its part of the sequence with a copy of the weights, so its gradient covers that part only.
    The all-reduce of those gradients was missing.
Fix
    Add them up over the tensor-parallel group before the optimizer's step.
Affected
    Megatron-LM, GPT-NeoX and TransformerEngine in several versions. What is emulated: the missing all-reduce. What is
    real: two gloo ranks with half of the sequence each, a replicated layer norm, the training loop.
"""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="Megatron-LM",
    issue="1446",
    url="https://github.com/NVIDIA/Megatron-LM/issues/1446",
    family="collectives",
    kind="emulated",
    catalogue="E23-sp-layernorm-allreduce",
    found_by=None,
    missing="agreement between ranks",
)
WIDTH, LENGTH, STEPS = 16, 32, 8


def train(rank: int, stage: Stage) -> tuple[Tensor, Tensor]:
    norm, linear = torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, WIDTH)
    model = stage.cast(torch.nn.Sequential(norm, linear), torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reduced = model if stage.fixed else linear
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            sequence = stage.cast(torch.randn(8, LENGTH, WIDTH), torch.float32)
            x = sequence.chunk(2, 1)[rank]
            loss = (model(x) - x.roll(1, 2)).square().sum() / sequence.numel()
            optimizer.zero_grad()
            loss.backward()
            for parameter in reduced.parameters():
                dist.all_reduce(parameter.grad)
            optimizer.step()
            stage.step(loss)
    return norm.weight.detach(), linear.weight.detach()


def play(stage: Stage) -> None:
    (norm, linear), (other_norm, other_linear) = run_ranks(train, 2, stage)
    stage.keep("norm weight", norm)
    stage.keep("drift of the norm", (norm - other_norm).abs().max())
    stage.keep("drift of the linear", (linear - other_linear).abs().max())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell(f"after {STEPS} steps the copies of the layer norm's weight differ by", broken.number("drift of the norm"))
    assert broken.number("drift of the norm") > 1e-3
    assert broken.number("drift of the linear") == 0.0
    assert fixed.number("drift of the norm") == 0.0


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
