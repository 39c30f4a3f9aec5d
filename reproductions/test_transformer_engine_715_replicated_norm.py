"""Replicated weights count once for each tensor-parallel rank in the gradient norm.

Symptom
    With multi-head latent attention on 8 tensor-parallel ranks the gradient norm is 1.36 to 1.52 times what it is on
    one rank; clipping bites earlier, and curves depend on the layout.
Cause
    TransformerEngine marked every linear's weight as tensor-parallel, also those of duplicated linears. The norm adds
    up marked weights over all ranks: a duplicated one enters once for each.
Fix
    Set the mark on weights that are really split.
Affected
    TransformerEngine before ROCm's pull request 715. What is emulated: the mark, and Megatron's norm that goes by it.
    What is real: two gloo ranks, a duplicated linear before a column-parallel one, and the training loop.
"""

import math

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="TransformerEngine",
    issue="715",
    url="https://github.com/ROCm/TransformerEngine/pull/715",
    family="clipping-norm",
    kind="emulated",
    catalogue="E22-te-replicated-norm",
    found_by=None,
    missing="equivalences of the whole step",
)
WIDTH, STEPS, MAX_NORM = 16, 8, 0.2


def _norm(parameters: list[torch.nn.Parameter], marked: set[int], rank: int) -> Tensor:
    """Return the norm as Megatron computes it: what is not marked as split counts on rank 0 only."""
    counted = [p.grad.square().sum() for p in parameters if id(p) in marked or rank == 0]
    total = torch.stack(counted).sum()
    dist.all_reduce(total)
    return total.sqrt()


def train(rank: int, stage: Stage) -> dict[str, Tensor]:
    duplicated = torch.nn.Linear(WIDTH, WIDTH, bias=False)
    whole = torch.nn.Linear(WIDTH, 2 * WIDTH, bias=False)
    split = torch.nn.Linear(WIDTH, WIDTH, bias=False)
    split.weight.data.copy_(whole.weight.data.chunk(2)[rank])
    model = stage.cast(torch.nn.Sequential(duplicated, split), torch.float32)
    parameters = list(model.parameters())
    marked = {id(split.weight)} if stage.fixed else {id(parameter) for parameter in parameters}
    optimizer = torch.optim.SGD(parameters, lr=0.5)
    inflation = []
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            x = stage.cast(torch.randn(64, WIDTH), torch.float32)
            y = torch.cat([x.roll(1, 1), x.flip(1)], 1).chunk(2, 1)[rank]
            loss = (model(x) - y).square().sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            dist.all_reduce(duplicated.weight.grad)  # every rank's columns depend on it
            norm = _norm(parameters, marked, rank)
            inflation.append(norm / _norm(parameters, {id(split.weight)}, rank))
            for parameter in parameters:
                parameter.grad.mul_(min(1.0, MAX_NORM / (float(norm) + 1e-6)))
            optimizer.step()
            stage.step(loss)
    return {"inflation": torch.stack(inflation), "duplicated": duplicated.weight.detach()}


def play(stage: Stage) -> None:
    first, second = run_ranks(train, 2, stage)
    stage.keep("inflation", first["inflation"])
    stage.keep("duplicated weight", first["duplicated"])
    stage.keep("drift", (first["duplicated"] - second["duplicated"]).abs().max())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("norm too large by a factor of", broken.kept["inflation"].max())
    assert broken.kept["inflation"].min() > 1.05
    assert broken.kept["inflation"].max() < math.sqrt(2)
    assert bool((fixed.kept["inflation"] == 1.0).all())
    assert broken.number("drift") == fixed.number("drift") == 0.0, "the ranks agree on the wrong norm"


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
