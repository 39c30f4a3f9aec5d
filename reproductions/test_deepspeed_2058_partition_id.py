"""ZeRO-2 copies updated weights to the wrong partition: half of an expert never trains.

Symptom
    A mixture of experts trains worse than its dense twin. Nothing is raised, every loss is finite.
Cause
    Each rank updates its partition of the fp32 master weights and copies it to the half-precision weights. For experts
    the number of the partition was taken from another process group than the one the partitions were made for: two
    ranks write to the same partition, and the other one is gathered as it was.
Fix
    Take the rank in the group that the parameters are partitioned over.
Affected
    DeepSpeed before pull request 2058; Megatron-LM's pull request 6048 is of the same class. What is emulated: the
    optimizer's partitions, written again, for one expert of a run with 4 ranks and 2 experts. The two ranks are its
    copies, ranks 0 and 2 of the four, each the first of its expert-parallel group. What is real: the collectives, bf16
    weights with fp32 masters, the training loop.
"""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="DeepSpeed",
    issue="2058",
    url="https://github.com/deepspeedai/DeepSpeed/pull/2058",
    family="update-health",
    kind="emulated",
    catalogue="E28-zero2-partition-id",
    found_by=None,
    missing="equivalences of the whole step",
)
WIDTH, STEPS = 16, 15


def train(rank: int, stage: Stage) -> dict[str, Tensor]:
    expert = stage.cast(torch.nn.Linear(WIDTH, WIDTH, bias=False), torch.bfloat16)
    partitions = list(expert.weight.data.chunk(2))
    start = expert.weight.detach().clone()
    master = torch.nn.Parameter(stage.cast(partitions[rank].clone(), torch.float32))
    optimizer = torch.optim.AdamW([master], lr=1e-2, weight_decay=0.0)
    rank_of_expert_group = 0  # of global ranks 0 and 2 in (0, 1) and (2, 3)
    data = torch.Generator().manual_seed(rank)
    with stage.watched(expert, optimizer):
        for _ in range(STEPS):
            x = stage.cast(torch.randn(64, WIDTH, generator=data), torch.bfloat16)
            loss = (expert(x) - x.roll(1, 1)).float().square().mean()
            expert.zero_grad()
            loss.backward()
            gradient = expert.weight.grad.to(master.dtype)
            dist.all_reduce(gradient)
            master.grad = gradient.chunk(2)[rank] / dist.get_world_size()
            optimizer.step()
            partition = rank if stage.fixed else rank_of_expert_group
            partitions[partition].copy_(master.detach())
            gathered = [torch.empty_like(part) for part in partitions]
            dist.all_gather(gathered, partitions[rank].contiguous())
            for part, values in zip(partitions, gathered, strict=True):
                part.copy_(values)
            stage.step(loss)
    return {"moved": (expert.weight.detach() - start).float().abs().amax(1), "master": master.detach()}


def play(stage: Stage) -> None:
    results = run_ranks(train, 2, stage)
    stage.keep("moved", results[0]["moved"])
    stage.keep("losses", stage.losses)


def _still(stage: Stage) -> float:
    return float((stage.kept["moved"] == 0).float().mean())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("share of the expert that never moved:", _still(broken), "| last loss", broken.losses[-1], fixed.losses[-1])
    assert _still(broken) == 0.5
    assert _still(fixed) == 0.0
    assert broken.losses[-1] > 1.2 * fixed.losses[-1]


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
