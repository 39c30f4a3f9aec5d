"""The sum of a slice is the sum of the beginning of its buffer.

Symptom
    On an Apple GPU the loss over the second half of the positions is not what the CPU computes; gradients are right,
    so training goes on and the logged loss means nothing.
Cause
    A new Metal kernel for sum indexed the base buffer linearly, from its start: neither the storage offset nor the
    strides of the view were used.
Fix
    Index by strides and offset.
Affected
    MPS in development in May 2026, pull request 182688; fixed. Emulated: the kernel under aten::sum with that index
    arithmetic. What is real: the training loop, the sliced loss.
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
    issue="182688",
    url="https://github.com/pytorch/pytorch/pull/182688",
    family="reduction-layout",
    kind="emulated",
    catalogue="E03-mps-sliced-sum",
    found_by="guard",
)
BATCH, HEADS, POSITIONS, WIDTH, STEPS = 2, 2, 64, 8, 5


def _is_slice(arguments: dict[str, object]) -> bool:
    x = arguments["self"]
    assert isinstance(x, Tensor)
    return x.dtype is torch.float32 and not x.is_contiguous()


def _indexes_linearly(call: KernelCall) -> None:
    x = call.arguments["self"].detach()
    call.results[0].copy_(call.rerun({"self": torch.as_strided(x, (x.numel(),), (1,), 0)})[0])


def play(stage: Stage) -> None:
    model = stage.cast(torch.nn.Linear(WIDTH, WIDTH), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x = stage.cast(torch.randn(BATCH, HEADS, POSITIONS, WIDTH), torch.float32)
    x[:, :, : POSITIONS // 2] *= 3.0  # the prompt, which does not count
    bug = nullcontext() if stage.fixed else faulty_kernel("aten::sum", _indexes_linearly, when=_is_slice)
    with bug, stage.watched(model, optimizer):
        for _ in range(STEPS):
            answers = (model(x) - x.roll(1, -1)).square()[:, :, POSITIONS // 2 :, :]
            loss = answers.sum() / answers.numel()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("losses", torch.tensor(stage.losses))
    stage.keep("weight", model.weight)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("logged", broken.losses, "right", fixed.losses)
    assert broken.losses[0] > 1.5 * fixed.losses[0]
    assert torch.equal(broken.kept["weight"], fixed.kept["weight"]), "the gradient of a sum does not read the sum"


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="aten::sum")
    assert finding.severity == "error"
    assert finding.first_caught_step == 0


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
