"""The loss is multiplied by the number of ranks, and DDP averages anyway.

Symptom
    The learning rate that works on one GPU diverges on many; clipping acts in steps that it is not meant for. With Adam
    nobody notices.
Cause
    The loss is multiplied by the world size as if DDP added gradients. It takes their mean, so they are world size
    times too large.
Fix
    Leave the loss as it is.
Affected
    sparseml before pull request 135. Emulated: the factor; two gloo ranks and torch's own DDP are real.
"""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="sparseml",
    issue="135",
    url="https://github.com/neuralmagic/sparseml/pull/135",
    family="gradient-accumulation",
    kind="emulated",
    catalogue="E64-deepspeed-ga-loss",
    found_by=None,
    missing="equivalences of the whole step",
)
WIDTH, STEPS, MAX_NORM = 16, 12, 1.0


def train(rank: int, stage: Stage) -> dict[str, Tensor]:
    net = stage.cast(torch.nn.Linear(WIDTH, WIDTH), torch.float32)
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    with stage.watched(model, optimizer):
        for step in range(STEPS):
            x = stage.cast(torch.randn(2, 32, WIDTH), torch.float32)
            if step == 0:
                whole = (net(x) - x).square().mean()
                alone = torch.autograd.grad(whole, net.weight)[0]
            loss = (model(x[rank]) - x[rank]).square().mean()
            optimizer.zero_grad()
            (loss if stage.fixed else loss * dist.get_world_size()).backward()
            assert net.weight.grad is not None
            if step == 0:
                together = net.weight.grad.clone()
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM))
            optimizer.step()
            stage.step(loss)
    return {"on one rank": alone, "on two": together, "norms": torch.stack(norms)}


def play(stage: Stage) -> None:
    kept, _ = run_ranks(train, 2, stage)
    stage.keep("gradient, two ranks over one", kept["on two"].norm() / kept["on one rank"].norm())
    stage.keep("steps that are clipped", (kept["norms"] > MAX_NORM).double().sum())
    stage.keep("gradient", kept["on two"])


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("gradient on two ranks over that on one:", broken.number("gradient, two ranks over one"))
    tell("steps of", STEPS, "that are clipped:", broken.number("steps that are clipped"))
    assert broken.number("gradient, two ranks over one") == pytest.approx(2.0, rel=1e-5)
    assert fixed.number("gradient, two ranks over one") == pytest.approx(1.0, rel=1e-5)
    assert broken.number("steps that are clipped") > fixed.number("steps that are clipped")


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
