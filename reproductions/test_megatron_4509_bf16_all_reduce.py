"""A bf16 all_reduce drops the gradients of ranks that have little to add.

Symptom
    All replicas agree, nothing is NaN, and yet what some ranks contribute never arrives: a parameter's gradient of 256
    on one rank swallows the 1 of each other rank, in some elements and not in others, as their place in the ring has
    it. The larger the world, the more is lost.
Cause
    With gradients sent in bf16 the collective adds in bf16, and every partial sum is rounded to eight bits: 256 + 1 is
    256.
Fix
    Reduce in fp32 (reduce_dtype=torch.float32 in FSDP), and round once.
Affected
    torch 2.13 on the CPU with gloo, and every backend that adds in the format of the wire; pull request 4509 of
    Megatron-LM adds a reduce-scatter that accumulates in fp32. Live: three gloo ranks, nothing is emulated.
"""

import pytest
import torch
import torch.distributed as dist

from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="Megatron-LM",
    issue="4509",
    url="https://github.com/NVIDIA/Megatron-LM/pull/4509",
    family="collectives",
    kind="by design",
    catalogue="L32-bf16-allreduce",
    found_by=None,
    missing="collectives shadowed in float64",
)
RANKS, LONG_SHARD, SHORT_SHARD, WIDTH = 3, 256, 1, 8


def _train(rank: int, stage: Stage) -> None:
    """Take one data-parallel step on shards of ragged length; every token asks every bias for 1."""
    model = stage.cast(torch.nn.Linear(WIDTH, WIDTH), torch.float32)
    tokens = stage.cast(torch.ones(LONG_SHARD if rank == 0 else SHORT_SHARD, WIDTH), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with stage.watched(model, optimizer):
        loss = model(tokens).sum()
        loss.backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            sent = stage.cast(parameter.grad.clone(), torch.float32 if stage.fixed else torch.bfloat16)
            dist.all_reduce(sent)
            parameter.grad.copy_(sent)
        optimizer.step()
        stage.step(loss)
    assert model.bias.grad is not None
    stage.keep("gradient", model.bias.grad)


def play(stage: Stage) -> None:
    run_ranks(_train, RANKS, stage)


def test_the_bug_shows(tell):
    gradient = perform(play).kept["gradient"].tolist()
    tell("equal gradients over", RANKS, "ranks:", gradient, "of", LONG_SHARD + (RANKS - 1) * SHORT_SHARD)
    # 256 where the long shard comes first in the ring, 256 + 2 where it comes last.
    assert set(gradient) == {LONG_SHARD, LONG_SHARD + 2}


def test_the_fix_is_silent(silent):
    assert silent(play).kept["gradient"].tolist() == [LONG_SHARD + (RANKS - 1) * SHORT_SHARD] * WIDTH
