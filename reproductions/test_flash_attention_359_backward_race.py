"""A missing barrier makes the gradient of attention wrong now and then.

Symptom
    About one step in 3,000 has a wrong gradient of queries and keys; that of the values is right. Nothing reproduces.
Cause
    The backward of FlashAttention 2 read dO from shared memory before all of it was written, so that the row sums
    D = sum(O * dO), which are subtracted from dP, were those of half a tile.
Fix
    A barrier between the write and the read.
Affected
    FlashAttention 2.0 (issue 359), and once more in its CuTe version (pull request 2481). Emulated: the result of such
    a race under PyTorch's CPU flash attention, in one call of seven: dQ and dK from row sums over half of the width.
    The race itself is not emulated.
"""

from contextlib import nullcontext
from itertools import count

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from numguard.testing import faulty_kernel
from numguard.testing.faults import KernelCall
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="FlashAttention",
    issue="359",
    url="https://github.com/Dao-AILab/flash-attention/issues/359",
    family="race",
    kind="emulated",
    catalogue="E37-fa2-bwd-race",
    found_by="guard",
)
BACKWARD = "aten::_scaled_dot_product_flash_attention_for_cpu_backward"
STEPS, HEADS, LENGTH, WIDTH = 15, 2, 32, 8


def _half_written(call: KernelCall) -> None:
    """Write dQ and dK as they come from row sums over the half of dO that was there."""
    given = call.arguments
    q, k, v, do = (given[name].double() for name in ("query", "key", "value", "grad_out"))
    out, lse = given["out"].double(), given["logsumexp"].double()
    scale = given.get("scale") or WIDTH**-0.5
    p = torch.exp(q @ k.mT * scale - lse[..., None])
    early = do.clone()
    early[..., WIDTH // 2 :] = 0
    ds = p * (do @ v.mT - (out * early).sum(-1, keepdim=True))
    call.results[0].copy_(ds @ k * scale)
    call.results[1].copy_(ds.mT @ q * scale)


def play(stage: Stage) -> None:
    projection = stage.cast(torch.nn.Linear(WIDTH, 3 * WIDTH), torch.float32)
    optimizer = torch.optim.SGD(projection.parameters(), lr=0.1)
    x = stage.cast(torch.randn(1, HEADS, LENGTH, WIDTH), torch.float32)
    calls = count(1)
    race = nullcontext() if stage.fixed else faulty_kernel(BACKWARD, _half_written, when=lambda _: next(calls) % 7 == 0)
    with race, stage.watched(projection, optimizer):
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = (scaled_dot_product_attention(*projection(x).chunk(3, -1)) - x).square().mean()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("weight", projection.weight)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    apart = [step for step, pair in enumerate(zip(broken.losses, fixed.losses, strict=True)) if pair[0] != pair[1]]
    tell(
        "the runs part in step",
        apart[0],
        "| weights off by",
        (broken.kept["weight"] - fixed.kept["weight"]).abs().max(),
    )
    assert apart[0] == 7


def test_numguard_finds_it(found):
    finding = found(play, kind="corruption", op="flash_attention_for_cpu_backward")
    assert finding.phase == "backward"
    assert finding.first_caught_step == 6


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
