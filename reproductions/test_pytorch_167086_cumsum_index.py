"""CUDA's cumsum computes where a row begins in 32 bits.

Symptom
    Past 2^32 elements the cumulative sum of zeros has a maximum of 1. Nothing is raised.
Cause
    ``tensor_kernel_scan_outer_dim`` starts a row at ``orow * row_size * num_irows + irow``. Each factor fits uint32,
    the product wraps: rows behind 2^32 elements are read from, and written to, the beginning, and their own place in
    the result keeps what the allocator handed out.
Fix
    Compute the offset in 64 bits.
Affected
    PyTorch 2.9 on CUDA; the issue is open. What is emulated: the scan over an outer dimension with the kernel's index
    arithmetic, below ``aten::cumsum``, with an index type of 15 bits so that 2^15 elements are enough, and ones as
    what the memory held. What is real: everything above it, a causal model whose batch size is raised in step 1.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from numguard.testing import faulty_kernel
from numguard.testing.faults import KernelCall
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="167086",
    url="https://github.com/pytorch/pytorch/issues/167086",
    family="index-overflow",
    kind="emulated",
    catalogue="E11-cuda-scan-uint32",
    found_by="guard",
)
INDICES = 2**15
LENGTH, WIDTH, STEPS, RAISED_IN = 128, 16, 2, 1


def _is_past_the_index(arguments: Mapping[str, Any]) -> bool:
    x = arguments["self"]
    return bool(x.dim() == 3 and arguments["dim"] % 3 == 1 and x.numel() > INDICES)


def _scan_outer_dim(call: KernelCall) -> None:
    x = call.arguments["self"].detach().contiguous()
    num_orows, row_size, num_irows = x.shape
    source, target = x.view(-1), torch.ones(x.numel(), dtype=x.dtype)
    for orow in range(num_orows):
        start = orow * row_size * num_irows % INDICES
        rows = source[start : start + row_size * num_irows].view(row_size, num_irows)
        target[start : start + rows.numel()] = rows.cumsum(0).view(-1)
    call.results[0].copy_(target.view(x.shape))


class CausalMean(torch.nn.Module):
    """Predicts from the mean of what came before."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.out = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.register_buffer("counts", torch.arange(1.0, LENGTH + 1)[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """Return predictions of shape (batch, length, width)."""
        return self.out(self.value(x).cumsum(1) / self.counts)  # type: ignore[no-any-return]


def play(stage: Stage) -> None:
    model = stage.cast(CausalMean(), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with (
        nullcontext() if stage.fixed else faulty_kernel("aten::cumsum", _scan_outer_dim, when=_is_past_the_index),
        stage.watched(model, optimizer),
    ):
        for step in range(STEPS):
            batch = 16 if step < RAISED_IN else 24
            x = stage.cast(torch.randn(batch, LENGTH, WIDTH) + 0.5, torch.float32)
            loss = (model(x) - x.mean(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    with nullcontext() if stage.fixed else faulty_kernel("aten::cumsum", _scan_outer_dim, when=_is_past_the_index):
        stage.keep("sum of zeros", torch.zeros(24, LENGTH, WIDTH).cumsum(1).max())
    stage.keep("losses", stage.losses)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("largest cumulative sum of zeros:", broken.number("sum of zeros"))
    tell(f"loss in step {RAISED_IN}:", broken.losses[RAISED_IN], "instead of", fixed.losses[RAISED_IN])
    assert broken.number("sum of zeros") == 1.0
    assert fixed.number("sum of zeros") == 0.0
    assert broken.losses[:RAISED_IN] == fixed.losses[:RAISED_IN]
    assert abs(broken.losses[RAISED_IN] - fixed.losses[RAISED_IN]) > 0.1 * fixed.losses[RAISED_IN]


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="aten::cumsum")
    assert finding.severity == "error"
    assert finding.first_caught_step == RAISED_IN


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
