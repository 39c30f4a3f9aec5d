"""FSDP without sharding counts every gradient once for each rank when it clips.

Symptom
    With ``NO_SHARD`` the reported gradient norm grows with the square root of the number of ranks, and gradients are
    clipped that are below the limit.
Cause
    ``clip_grad_norm_`` adds up the squares of the ranks' norms, as is right for shards. Without sharding every rank has
    the whole gradient, so it is added once for each rank.
Fix
    Add up over ranks for sharded parameters only.
Affected
    PyTorch before 1.13.1. What is emulated: FSDP's ``clip_grad_norm_`` of that time, written again. What is real: two
    gloo ranks, the collectives, the training loop.
"""

import math

import pytest
import torch
import torch.distributed as dist

from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="88621",
    url="https://github.com/pytorch/pytorch/issues/88621",
    family="clipping-norm",
    kind="emulated",
    catalogue="E19-fsdp-clip-double",
    found_by=None,
    missing="equivalences of the whole step",
)
WIDTH, STEPS = 16, 8


def clip_grad_norm(model: torch.nn.Module, max_norm: float, sharded: bool) -> float:
    """Clip as FSDP does: the local norm, its square added up over ranks where gradients are shards."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    total = torch.stack([gradient.norm() for gradient in gradients]).norm() ** 2
    if sharded:
        dist.all_reduce(total)
    norm = float(total.sqrt())
    for gradient in gradients:
        gradient.mul_(min(1.0, max_norm / (norm + 1e-6)))
    return norm


def train(rank: int, stage: Stage) -> list[tuple[float, float]]:
    model = stage.cast(torch.nn.Linear(WIDTH, WIDTH), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    data = torch.Generator().manual_seed(rank)
    norms = []
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            x = stage.cast(torch.randn(64, WIDTH, generator=data), torch.float32)
            loss = (model(x) - x.roll(1, 1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
            right = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
            norms.append((clip_grad_norm(model, 0.1, sharded=not stage.fixed), right))
            optimizer.step()
            stage.step(loss)
    stage.keep("weight", model.weight)
    return norms


def play(stage: Stage) -> None:
    norms = run_ranks(train, 2, stage)[0]
    stage.keep("norms", [norm for norm, _ in norms])
    stage.keep("inflation", max(norm / right for norm, right in norms))


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("norm too large by a factor of", broken.number("inflation"))
    assert broken.number("inflation") == pytest.approx(math.sqrt(2), rel=1e-5)
    assert fixed.number("inflation") == pytest.approx(1.0, rel=1e-5)
    assert fixed.losses[-1] < broken.losses[-1], "clipped twice as hard, it learns more slowly"


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
