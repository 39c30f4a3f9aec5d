"""A sum over a padded view takes the path for packed memory and adds the padding.

Symptom
    Sums of a slice are wrong by whatever lies beside it, but only for some shapes: a normaliser that is a thousand
    times too large, a NaN, illegal memory accesses. A copy of the slice sums to the right number.
Cause
    The CUDA reduction chose its launch from the number of elements and walked them as if they were packed: only with
    enough values per thread, few outputs and a view that is not packed was the bad branch taken.
Fix
    Respect the strides on every path.
Affected
    torch 1.0 to 1.2 in development on CUDA, pull requests 17040 and 22827; fixed. Emulated: the kernel under
    aten::sum, which walks a strided view as packed memory when there is enough work for each thread. What is real:
    the training loop over ragged lengths in a padded buffer that is used again.
"""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from numguard.testing import faulty_kernel
from numguard.testing.faults import KernelCall
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="22827",
    url="https://github.com/pytorch/pytorch/pull/22827",
    family="illegal-memory",
    kind="emulated",
    catalogue="E01-reduce-oob-launch",
    found_by="guard",
)
ROWS, CAPACITY, WIDTH, THREADS, VALUES_PER_THREAD = 256, 100, 4, 64, 256
LENGTHS = (40, 50, 90, 55, 60)


def _takes_the_path(arguments: dict[str, object]) -> bool:
    x = arguments["self"]
    assert isinstance(x, Tensor)
    enough = x.numel() >= THREADS * VALUES_PER_THREAD
    return enough and x.dtype is torch.float32 and x.dim() == 2 and x.stride(1) == 1 and not x.is_contiguous()


def _walks_as_packed(call: KernelCall) -> None:
    x = call.arguments["self"].detach()
    packed = torch.as_strided(x, (x.numel(),), (1,), x.storage_offset())
    call.results[0].copy_(call.rerun({"self": packed})[0])


def play(stage: Stage) -> None:
    model = stage.cast(torch.nn.Linear(WIDTH, 1), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # Weights of tokens; behind each row lies what an earlier user of the memory has left.
    buffer = stage.cast(torch.full((ROWS, CAPACITY), 1e4), torch.float32)
    bug = nullcontext() if stage.fixed else faulty_kernel("aten::sum", _walks_as_packed, when=_takes_the_path)
    totals = []
    with bug, stage.watched(model, optimizer):
        for length in LENGTHS:
            x = stage.cast(torch.randn(ROWS, length, WIDTH), torch.float32)
            weights = buffer[:, :length]
            weights.fill_(1.0)
            errors = (model(x).squeeze(-1) - x[..., 0]).square()
            total = weights.sum()
            loss = (errors * weights).sum() / total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
            totals.append(float(total))
    stage.keep("weights of the batch", totals)
    stage.keep("losses", torch.tensor(stage.losses))


def test_the_bug_shows(tell):
    broken = perform(play)
    wrong = [
        length
        for length, total in zip(LENGTHS, broken.kept["weights of the batch"], strict=True)
        if total != ROWS * length
    ]
    tell("weights of 256 rows of", LENGTHS, "add up to", broken.kept["weights of the batch"].tolist())
    assert wrong == [90], "one length of five takes the path"


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="aten::sum")
    assert finding.severity == "error"
    assert finding.first_caught_step == LENGTHS.index(90)


def test_the_fix_is_silent(silent):
    assert silent(play).kept["weights of the batch"].tolist() == [ROWS * length for length in LENGTHS]
