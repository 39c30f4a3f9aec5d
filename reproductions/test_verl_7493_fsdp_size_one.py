"""fsdp_size=1 on several GPUs switches the synchronisation of gradients off.

Symptom
    Reinforcement learning on several GPUs gains nothing from them; every rank trains a model of its own, and rank 0's
    is saved.
Cause
    The device mesh for ``fsdp_size=1`` has shard groups of one rank and no dimension to replicate over. FSDP reduces
    gradients over the mesh that it is given: over one rank.
Fix
    Give FSDP the mesh with both dimensions, replicate and shard.
Affected
    verl 0.8. The choice of the mesh is written again here; ``fully_shard`` is torch's own, on two gloo ranks, and does
    what it is told.
"""

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="verl",
    issue="7493",
    url="https://github.com/verl-project/verl/issues/7493",
    family="collectives",
    kind="emulated",
    catalogue="E30-fsdp1-size1-nosync",
    found_by=None,
    missing="agreement between ranks",
)
WIDTH, STEPS = 16, 10


def train(rank: int, stage: Stage) -> Tensor:
    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, WIDTH))
    model = stage.cast(model, torch.float32)
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
    fully_shard(model, mesh=mesh if stage.fixed else mesh["shard"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    data = torch.Generator().manual_seed(rank)
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            x = stage.cast(torch.randn(64, WIDTH, generator=data), torch.float32)
            loss = (model(x) - x.roll(1, 1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    return torch.cat([parameter.full_tensor().detach().flatten() for parameter in model.parameters()])


def play(stage: Stage) -> None:
    first, second = run_ranks(train, 2, stage)
    stage.keep("drift", (first - second).abs().max())
    stage.keep("weights", first)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell(f"after {STEPS} steps the replicas differ by", broken.number("drift"))
    assert broken.number("drift") > 1e-3
    assert fixed.number("drift") == 0.0


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
