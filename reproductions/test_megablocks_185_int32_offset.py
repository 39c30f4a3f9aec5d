"""A Triton kernel multiplies row by stride in 32 bits: a crash that depends on the routing.

Symptom
    A mixture-of-experts run dies after days with an illegal memory access, reported by NCCL somewhere else; or it does
    not die and some tokens are lost. It happens on the rank that gets most of the tokens.
Cause
    ``row * NUM_COLUMNS`` with both in int32 stays in int32. With 4,096 columns row 524,288 starts at -2^31: the kernel
    writes before its output, and what should be there stays zero.
Fix
    Make the row int64 before the multiplication.
Affected
    megablocks before pull request 185, and the same line in FlagGems, flash-linear-attention, dion and many others.
    What is emulated: the kernel's copy loop, in PyTorch operators, with an offset of 16 bits so that 512 rows are
    enough, and an output that lies behind other memory so that writing before it does not crash. What is real: the
    training loop, and routing by data that sends most of one batch to one expert.
"""

import pytest
import torch
from torch import Tensor

import numguard
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="megablocks",
    issue="185",
    url="https://github.com/databricks/megablocks/pull/185",
    family="index-overflow",
    kind="emulated",
    catalogue="E12-triton-int32-offset",
    found_by="guard",
    declared=True,
)
WIDTH, TOKENS, STEPS, ONE_SIDED = 64, 768, 6, 4
HALF = 2**15


def _rows(x: Tensor, indices: Tensor, wide: bool) -> Tensor:
    return x[indices]


# Its author says what the kernel should do: a copy, to the bit.
@numguard.shadowed(reference=_rows, error_bound=0.0, share=1.0)
def padded_gather(x: Tensor, indices: Tensor, wide: bool) -> Tensor:
    """Copy the rows that an expert gets into its buffer; ``wide`` computes the offsets in 64 bits."""
    offsets = torch.arange(len(indices)) * WIDTH
    if not wide:
        offsets = (offsets + HALF) % (2 * HALF) - HALF
    memory = torch.zeros(HALF + len(indices) * WIDTH, dtype=x.dtype)
    places = HALF + offsets[:, None] + torch.arange(WIDTH)
    return memory.index_put((places,), x[indices])[HALF:].view(-1, WIDTH)


def play(stage: Stage) -> None:
    before = stage.cast(torch.nn.Linear(WIDTH, WIDTH), torch.float32)
    expert = stage.cast(torch.nn.Linear(WIDTH, WIDTH), torch.float32)
    model = torch.nn.ModuleDict({"before": before, "expert": expert})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lost = []
    with stage.watched(model, optimizer):
        for step in range(STEPS):
            x = torch.randn(TOKENS, WIDTH)
            x[:, 0] += 2.0 if step == ONE_SIDED else 0.0
            x = stage.cast(x, torch.float32)
            mine = (x[:, 0] > 0).nonzero().flatten()
            tokens = padded_gather(before(x), mine, stage.fixed)
            lost.append(int((tokens == 0).all(1).sum()))
            loss = (expert(tokens) - x[mine].roll(1, 1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("lost tokens", lost)
    stage.keep("weight", expert.weight)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    lost = [int(number) for number in broken.kept["lost tokens"]]
    tell("tokens lost in each step:", lost)
    assert lost[ONE_SIDED] > 100
    assert sum(lost) == lost[ONE_SIDED], "a balanced batch shows nothing"
    assert int(fixed.kept["lost tokens"].sum()) == 0


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="padded_gather")
    assert finding.first_caught_step == ONE_SIDED
    assert finding.severity == "warning", "the reference and the bound are the author's"


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
