"""The gradient of attention over one key is NaN.

Symptom
    Training is fine until a sequence of one key, or of an uneven length, comes along: the gradients of keys and values
    are NaN.
Cause
    The last tile has more rows than there are queries. The log-sum-exps of the rows that are not there come from memory
    that nobody has written, exp(s - lse) of them is NaN, and the mask that comes afterwards multiplies by 0: 0 * NaN.
Fix
    Mask the rows before the exponential.
Affected
    FlashAttention 2.0.0 to 2.0.4 (issues 334, 443, 1052), FlashAttention 3 beta. Emulated: the tile of 16 rows, its
    unwritten log-sum-exps and the mask after the exponential, under PyTorch's CPU flash attention.
"""

import math
from contextlib import nullcontext

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from numguard.testing import faulty_kernel
from numguard.testing.faults import KernelCall
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="FlashAttention",
    issue="334",
    url="https://github.com/Dao-AILab/flash-attention/issues/334",
    family="non-finite",
    kind="emulated",
    catalogue="E38-fa2-single-key-nan",
    found_by="guard",
)
BACKWARD = "aten::_scaled_dot_product_flash_attention_for_cpu_backward"
TILE, HEADS, WIDTH = 16, 2, 8


def _masked_after(call: KernelCall) -> None:
    """Write dK and dV of a last tile whose missing rows are masked after the exponential."""
    given = call.arguments
    q, k, do = (given[name].double() for name in ("query", "key", "grad_out"))
    rows = q.shape[-2]
    missing = -rows % TILE
    if not missing:
        return
    padding = torch.zeros(*q.shape[:-2], missing, WIDTH, dtype=q.dtype)
    lse = torch.cat([given["logsumexp"].double(), padding[..., 0] + math.nan], -1)  # what nobody has written
    scores = torch.cat([q, padding], -2) @ k.mT * WIDTH**-0.5
    inside = (torch.arange(rows + missing) < rows).double()
    p = torch.exp(scores - lse[..., None]) * inside[:, None]
    call.results[2].copy_(p.mT @ torch.cat([do, padding], -2))
    call.results[1].add_((p * 0).mT @ torch.cat([q, padding], -2))


def play(stage: Stage) -> None:
    projection = stage.cast(torch.nn.Linear(WIDTH, 3 * WIDTH), torch.float32)
    optimizer = torch.optim.SGD(projection.parameters(), lr=0.1)
    kernel = nullcontext() if stage.fixed else faulty_kernel(BACKWARD, _masked_after)
    with kernel, stage.watched(projection, optimizer):
        for length in (32, 48, 17, 32):  # the third does not fill its last tile
            x = stage.cast(torch.randn(1, HEADS, length, WIDTH), torch.float32)
            optimizer.zero_grad()
            loss = scaled_dot_product_attention(*projection(x).chunk(3, -1)).square().mean()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("weight", projection.weight)


def test_the_bug_shows(tell):
    broken = perform(play)
    tell("losses", *broken.losses)
    assert [math.isnan(loss) for loss in broken.losses] == [False, False, False, True]


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="flash_attention_for_cpu_backward")
    assert finding.first_caught_step == 2


def test_the_fix_is_silent(silent):
    assert bool(silent(play).kept["weight"].isfinite().all())
