"""What bf16 code reads often gets a gradient that stops at 256: indexing, take, embedding_bag and unfold.

Symptom
    The relative position bias of a bf16 attention layer, a table that is read by ``table[index]``, hardly learns for
    the common distances; rare distances are right. The same table read by ``index_select`` learns as it should.
Cause
    The backward passes of advanced indexing (``index_put_`` with accumulate), ``take`` (``put_``), ``embedding_bag``
    and ``unfold`` add into the bf16 gradient itself, and so does ``index_select`` of a vector. 256 + 1 is 256 in bf16
    (2,048 in fp16).
Fix
    Accumulate in fp32 and round once, as the backward passes of ``index_select`` of rows, ``gather`` and ``expand``
    do.
Affected
    torch 2.13 on the CPU, eager, bf16 and fp16. Live: nothing here is emulated. numguard's guard names indexing; the
    kernels under ``take``, ``embedding_bag`` and ``unfold`` have no check in a guard, but an audit reports them.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="backward of indexing in bf16",
    url="https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cpu/IndexKernel.cpp",
    family="low-precision-accumulation",
    kind="live",
    catalogue="L06-gather-family-bwd-bf16",
    found_by="guard",
)
LENGTH, HEADS, FARTHEST = 96, 2, 8


class PositionBias(torch.nn.Module):
    """A bias for each head and each distance between two positions, clipped to the farthest that is told apart."""

    def __init__(self, *, by_index_select: bool) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(2 * FARTHEST + 1, HEADS))
        self.by_index_select = by_index_select
        position = torch.arange(LENGTH)
        self.distance = (position[:, None] - position[None, :]).clamp(-FARTHEST, FARTHEST).flatten() + FARTHEST

    def forward(self) -> Tensor:
        read = self.table.index_select(0, self.distance) if self.by_index_select else self.table[self.distance]
        return read.view(LENGTH, LENGTH, HEADS)


def play(stage: Stage) -> None:
    bias = stage.cast(PositionBias(by_index_select=stage.fixed), torch.bfloat16)
    with stage.watched(bias):
        loss = bias().sum()
        loss.backward()
        stage.step()
    assert bias.table.grad is not None
    stage.keep("gradient", bias.table.grad[:, 0])


def test_the_bug_shows(tell):
    got, right = perform(play).kept["gradient"], perform(play, exact=True).kept["gradient"]
    tell("gradient of the farthest distance", got[0], "of", right[0])
    assert got.max() == 256.0
    assert right[0] == right[-1] == sum(range(LENGTH - FARTHEST + 1))


def _gradient(read):
    table = torch.ones(8192, dtype=torch.bfloat16, requires_grad=True)
    read(table).sum().backward()
    return float(table.grad.max())


def test_the_others_stop_at_256_too():
    often = torch.zeros(8192, dtype=torch.long)
    assert _gradient(lambda table: torch.take(table, often)) == 256.0
    assert _gradient(lambda table: table[often]) == 256.0
    assert _gradient(lambda table: table.unfold(0, 1024, 1)) == 256.0
    bags = torch.arange(8192)
    assert _gradient(lambda table: F.embedding_bag(often, table[:, None].contiguous(), bags, mode="sum")) == 256.0
    assert _gradient(lambda table: table.index_select(0, often)) == 256.0
    assert _gradient(lambda table: table[:, None].index_select(0, often)) == 8192.0


def test_numguard_finds_it(found):
    finding = found(play, kind="inaccurate_accumulation", op="index_put", module="PositionBias")
    assert finding.phase == "backward"


def test_the_fix_is_silent(silent):
    gradient = silent(play).kept["gradient"]
    want = sum(range(LENGTH - FARTHEST + 1))
    assert abs(float(gradient[0]) / want - 1) < 2.0**-8
