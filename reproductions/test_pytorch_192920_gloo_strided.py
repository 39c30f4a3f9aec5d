"""all_reduce of a column adds up a row, and leaves sums where nothing should have been written.

Symptom
    Two ranks sum one column of their table of gradient statistics with ``all_reduce(table[:, 0])``. The first entry is
    right, the others are not, and the neighbouring columns change. The gradient norm that is computed from the column
    clips by the wrong factor, differently on every rank.
Cause
    Gloo's collectives take ``data_ptr()`` and ``numel()`` and ignore strides: what is reduced is the first numel
    elements in memory.
Fix
    A contiguous copy, the collective, and a copy back; or a refusal.
Affected
    torch 2.13 on the CPU with gloo: all_reduce, broadcast, reduce and scatter; all_gather is right. Issue 192920 is
    open; 159548 and 128066 tell of the same with NCCL. Live: nothing here is emulated.
"""

import pytest
import torch
import torch.distributed as dist

from reproductions.audits import audited
from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="192920",
    url="https://github.com/pytorch/pytorch/issues/192920",
    family="collectives",
    kind="live",
    catalogue="L29-gloo-noncontig",
    found_by="audit",
)
LAYERS, WIDTH = 3, 8
SQUARES, LARGEST, OWN = 0, 1, 2  # the columns: to be summed over ranks, of this rank, and the number of this rank


def _train(rank: int, stage: Stage) -> tuple[list[float], list[float]]:
    """Return the column that was reduced and what it should be."""
    model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    model = stage.cast(model, torch.float32)
    x = stage.cast(torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(rank)), torch.float32)
    table = stage.cast(torch.zeros(LAYERS, 3), torch.float32)
    with stage.watched(model):
        loss = model(x).square().mean()
        loss.backward()
        for row, layer in enumerate(model):
            assert layer.weight.grad is not None
            table[row, SQUARES] = layer.weight.grad.square().sum()
            table[row, LARGEST] = layer.weight.detach().abs().max()
        table[:, OWN] = -100.0 - rank
        of_all = [torch.empty(LAYERS, dtype=table.dtype) for _ in range(2)]
        dist.all_gather(of_all, table[:, SQUARES].contiguous())
        if stage.fixed:
            column = table[:, SQUARES].contiguous()
            dist.all_reduce(column)
            table[:, SQUARES] = column
        else:
            dist.all_reduce(table[:, SQUARES])
        norm = table[:, SQUARES].sum().clamp(min=0).sqrt()
        stage.step(loss)
    stage.keep("norm", norm)
    stage.keep("squares", table[:, SQUARES])
    stage.keep("untouched", table[:, OWN])
    return table[:, SQUARES].tolist(), (of_all[0] + of_all[1]).tolist()


def play(stage: Stage) -> None:
    (first, right), (second, _) = run_ranks(_train, 2, stage)
    stage.keep("sums on rank 0, on rank 1, right", torch.tensor([first, second, right]))


def test_the_bug_shows(tell):
    stage = perform(play)
    first, second, right = stage.kept["sums on rank 0, on rank 1, right"]
    tell("sums on rank 0", *first, "on rank 1", *second, "right", *right)
    assert float(first[0]) == pytest.approx(float(right[0]), rel=1e-6)
    assert not torch.allclose(first[1:], right[1:], rtol=0.1)
    assert not torch.equal(first, second)
    tell("a column that nobody reduced", *stage.kept["untouched"], "of -100")
    assert stage.kept["untouched"].tolist() == [-201.0, -100.0, -100.0]


def test_numguard_finds_it(tell, note):
    findings = [finding for finding in audited("collectives", level="full").findings if finding.evidence["same_layout"]]
    for finding in findings:
        tell(finding)
    assert {finding.kind for finding in findings} == {"collective_mismatch"}
    assert {finding.op.partition("::")[2] for finding in findings} == {"all_reduce", "broadcast", "reduce", "scatter"}
    worst = next(finding for finding in findings if finding.op == "c10d::all_reduce")
    assert worst.evidence["overwrites"] is True
    note(worst, 1)


def test_the_fix_is_silent(silent):
    first, second, right = silent(play).kept["sums on rank 0, on rank 1, right"]
    assert torch.equal(first, right)
    assert torch.equal(second, right)
