"""Sharded gradients are clipped by the norm of the local shard.

Symptom
    Clipping has no effect on some ranks and a strong one on others; the reported norm depends on the rank.
Cause
    ``clip_grad_norm_`` sees the local shards only, or a DTensor whose partial norm was never reduced. Every rank
    computes a coefficient of its own, and the parts of one gradient are scaled differently: its direction is wrong.
Fix
    Add up the squares of the shards' norms over the ranks, and clip all by the same coefficient.
Affected
    PyTorch, fairscale and others in several versions. What is emulated: clipping of shards without the reduction. What
    is real: two gloo ranks that each own half of the parameters, gather them for the forward, and reduce gradients.
"""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="170862",
    url="https://github.com/pytorch/pytorch/issues/170862",
    family="clipping-norm",
    kind="emulated",
    catalogue="E21-fsdp-local-norm",
    found_by=None,
    missing="agreement between ranks",
)
WIDTH, STEPS, MAX_NORM = 16, 8, 0.1


def train(rank: int, stage: Stage) -> dict[str, Tensor]:
    model = stage.cast(torch.nn.Linear(WIDTH, WIDTH, bias=False), torch.float32)
    whole = model.weight.data
    shard = torch.nn.Parameter(whole.chunk(2)[rank].clone())
    optimizer = torch.optim.SGD([shard], lr=0.5)
    data = torch.Generator().manual_seed(rank)
    coefficients, cosines = [], []
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            dist.all_gather(list(whole.chunk(2)), shard.data)
            x = stage.cast(torch.randn(64, WIDTH, generator=data), torch.float32)
            # The upper half of the outputs is ten times as large as the lower one.
            scale = torch.ones(WIDTH, dtype=x.dtype).index_fill_(0, torch.arange(WIDTH // 2, WIDTH), 10.0)
            loss = ((model(x) - x.roll(1, 1)) * scale).square().mean()
            model.zero_grad()
            loss.backward()
            dist.all_reduce(model.weight.grad)
            gradient = model.weight.grad / dist.get_world_size()
            shard.grad = gradient.chunk(2)[rank].clone()
            squares = shard.grad.norm() ** 2
            if stage.fixed:
                dist.all_reduce(squares)
            coefficients.append(min(1.0, MAX_NORM / (float(squares.sqrt()) + 1e-6)))
            shard.grad.mul_(coefficients[-1])
            clipped = [torch.empty_like(shard.grad) for _ in range(2)]
            dist.all_gather(clipped, shard.grad)
            cosines.append(torch.cosine_similarity(torch.cat(clipped).flatten(), gradient.flatten(), 0))
            optimizer.step()
            stage.step(loss)
    return {"coefficients": torch.tensor(coefficients), "cosines": torch.stack(cosines), "shard": shard.detach()}


def play(stage: Stage) -> None:
    first, second = run_ranks(train, 2, stage)
    stage.keep("coefficients", torch.stack([first["coefficients"][0], second["coefficients"][0]]))
    stage.keep("smallest cosine", first["cosines"].min())
    stage.keep("weight", torch.cat([first["shard"], second["shard"]]))


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("coefficients of the ranks:", *broken.kept["coefficients"], "| fixed:", *fixed.kept["coefficients"])
    tell("cosine of the clipped gradient and the gradient:", broken.number("smallest cosine"))
    low, high = sorted(broken.kept["coefficients"].tolist())
    assert high > 10 * low
    assert broken.number("smallest cosine") < 0.8
    assert fixed.kept["coefficients"][0] == fixed.kept["coefficients"][1]
    assert fixed.number("smallest cosine") > 0.9999


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
