"""A fused dropout takes the address of its seed for the seed.

Symptom
    Two runs with the same seed differ from the first step on; nothing else is wrong with either.
Cause
    The kernel is given a pointer to the seeds and adds the program's number to it, without loading what it points at:
    the mask depends on where the allocator has put the seeds.
Fix
    Load the seed.
Affected
    xformers 0.0.8. Emulated: the kernel, as an autograd function whose masks come from a generator with that seed; the
    addresses are the real ones of this process. The training runs are real.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="xformers",
    issue="173",
    url="https://github.com/facebookresearch/xformers/issues/173",
    family="determinism",
    kind="emulated",
    catalogue="E57-seed-is-address",
    found_by=None,
    missing="equivalences of the whole step",
)
WIDTH, STEPS, P = 32, 8, 0.25


def _mask(like: Tensor, seeds: Tensor, loads: bool) -> Tensor:
    """Decide by row, one program each."""
    generator = torch.Generator()
    rows = []
    for program in range(len(like)):
        seed = int(seeds[program]) if loads else seeds.data_ptr() + program
        rows.append(torch.rand(like.shape[1], generator=generator.manual_seed(seed)) >= P)
    return torch.stack(rows)


class FusedDropout(torch.autograd.Function):
    """Dropout that keeps seeds instead of masks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seeds: Tensor, loads: bool) -> Tensor:
        ctx.save_for_backward(seeds)
        ctx.loads = loads
        return x * _mask(x, seeds, loads) / (1 - P)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        (seeds,) = ctx.saved_tensors
        return dy * _mask(dy, seeds, ctx.loads) / (1 - P), None, None


def _run(stage: Stage, held: list[Tensor]) -> Tensor:
    torch.manual_seed(0)
    first, second = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
    model = stage.cast(torch.nn.ModuleList([first, second]), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            x = stage.cast(torch.randn(8, WIDTH), torch.float32)
            seeds = torch.randint(2**31, (len(x),))
            held.append(seeds)  # a large model leaves the allocator no chance to hand out one address twice either
            loss = (second(FusedDropout.apply(first(x), seeds, stage.fixed)) - x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
            losses.append(loss.detach())
    return torch.stack(losses)


def play(stage: Stage) -> None:
    held: list[Tensor] = []
    one, other = _run(stage, held), _run(stage, held)
    stage.keep("steps that agree", float((one == other).sum()))
    stage.keep("relative difference", ((one - other) / one).abs().max())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("two runs with one seed agree in", broken.number("steps that agree"), "of", STEPS, "steps")
    tell("and differ in the loss by up to", broken.number("relative difference"))
    assert broken.number("steps that agree") == 0
    assert broken.number("relative difference") > 0.01
    assert fixed.number("steps that agree") == STEPS


def test_the_fix_is_silent(silent):
    assert silent(play).number("steps that agree") == STEPS
