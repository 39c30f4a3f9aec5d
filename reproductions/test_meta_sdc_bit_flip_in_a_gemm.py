"""A core that flips a bit in one tile of a matrix product, now and then.

Symptom
    A job of many devices diverges or is a little worse than the same job elsewhere; nothing reproduces, no counter
    shows an error. Meta and Google report about one such device in a thousand.
Cause
    A marginal circuit in one core: under some operands a bit of the accumulator comes out wrong.
Fix
    Find the device, drain it, restart from the last clean checkpoint.
Affected
    Any large machine. Emulated: one element in a tile of aten::mm has one exponent bit flipped in one call of 20, as a
    device would return it; executed again the product is right.
"""

from contextlib import nullcontext
from itertools import count

import pytest
import torch

from numguard.testing import faulty_kernel
from numguard.testing.faults import KernelCall
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="Meta",
    issue="silent data corruption",
    url="https://arxiv.org/abs/2102.11245",
    family="sdc",
    kind="emulated",
    catalogue="E62-sdc-bitflip",
    found_by="guard",
)
STEPS, EVERY = 40, 20


def _flip_a_bit(call: KernelCall) -> None:
    """Flip the third exponent bit of the largest element of the tile."""
    (result,) = call.results
    tile = result[:8, :8]
    place = int(tile.abs().argmax())
    element = tile[place // tile.shape[1], place % tile.shape[1]]
    if element.dtype is torch.float32:
        element.view(torch.int32).bitwise_xor_(1 << 25)


def play(stage: Stage) -> None:
    model = stage.cast(torch.nn.Sequential(torch.nn.Linear(32, 32, bias=False), torch.nn.Tanh()), torch.float32)
    head = stage.cast(torch.nn.Linear(32, 1, bias=False), torch.float32)
    net = torch.nn.Sequential(model, head)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    x = stage.cast(torch.randn(64, 32), torch.float32)
    y = x[:, :1].tanh()
    calls = count(1)
    device = (
        nullcontext()
        if stage.fixed
        else faulty_kernel("aten::mm", _flip_a_bit, when=lambda _: next(calls) % EVERY == 0)
    )
    with device, stage.watched(net, optimizer):
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = (net(x) - y).square().mean()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("losses", stage.losses)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("last loss", broken.losses[-1], "on a sound device", fixed.losses[-1])
    assert broken.losses != fixed.losses


def test_numguard_finds_it(found):
    finding = found(play, kind="corruption", op="aten::mm")
    assert finding.severity == "error"
    assert finding.confirmed == "re-executed"


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
