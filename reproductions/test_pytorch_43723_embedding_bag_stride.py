"""embedding_bag reads a sliced table as if it were packed.

Symptom
    An embedding bag over the first columns of a wider table returns parts of other rows. Over a copy of the same
    columns it is right.
Cause
    The kernel found row i at data_ptr + i * width. In a slice the rows are further apart.
Fix
    Use the strides, or make the table contiguous first.
Affected
    torch up to 1.6 on the CPU, issue 43723; fixed. Emulated: the kernel under aten::_embedding_bag with that index
    arithmetic. What is real: the table of nested widths, its training loop and its gradient.
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
    issue="43723",
    url="https://github.com/pytorch/pytorch/issues/43723",
    family="reduction-layout",
    kind="emulated",
    catalogue="E08-embedding-bag-stride",
    found_by="guard",
)
ROWS, WIDTH, NARROW, BAGS, STEPS = 50, 16, 12, 8, 4


def _is_sliced(arguments: dict[str, object]) -> bool:
    weight = arguments["weight"]
    return isinstance(weight, Tensor) and weight.dtype is torch.float32 and not weight.is_contiguous()


def _reads_as_packed(call: KernelCall) -> None:
    weight = call.arguments["weight"].detach()
    packed = torch.as_strided(weight, weight.shape, (weight.shape[1], 1), weight.storage_offset())
    for result, wrong in zip(call.results, call.rerun({"weight": packed}), strict=True):
        result.copy_(wrong)


class Nested(torch.nn.Module):
    """A table whose first columns are the table of a smaller model."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(ROWS, WIDTH))
        self.head = torch.nn.Linear(NARROW, 1)

    def forward(self, bags: Tensor) -> Tensor:
        means = torch.nn.functional.embedding_bag(bags, self.table[:, :NARROW], mode="mean")
        y: Tensor = self.head(means * NARROW**-0.5)
        return y


def play(stage: Stage) -> None:
    model = stage.cast(Nested(), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    bags = torch.randint(ROWS, (BAGS, 5))
    bug = nullcontext() if stage.fixed else faulty_kernel("aten::_embedding_bag", _reads_as_packed, when=_is_sliced)
    with bug, stage.watched(model, optimizer):
        for _ in range(STEPS):
            loss = (model(bags) - 1.0).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("losses", torch.tensor(stage.losses))


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("losses", broken.losses, "right", fixed.losses)
    assert abs(broken.losses[0] / fixed.losses[0] - 1) > 1e-2


def test_numguard_finds_it(found):
    # No check of its own judges the operator; the module around it, replayed in float64, contradicts it.
    finding = found(play, kind="unstable_region", module="Nested")
    assert finding.first_caught_step == 0
    assert finding.forward_error is not None
    assert finding.forward_error > 1e-2


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
