"""The maximum of a large tensor is the smallest number there is.

Symptom
    From one batch size on, the scale of a tensor comes out as -3.4e38, and everything that is divided by it as 0. The
    step is finished without an error.
Cause
    The number of elements is passed to the reduction as a 32-bit integer. From 2^31 elements on it is negative, no
    work is done, and what the reduction starts from is returned: the lowest number of the dtype.
Fix
    A 64-bit count.
Affected
    TensorFlow 2.4 on CUDA (``reduce_max``, CUB's ``num_items``). Emulated: the reduction with its count in 16 bits, so
    that 2^15 elements are enough, below ``aten::max``; the model, which scales its activations by their largest
    magnitude, and the step in which its batch is raised are real.
"""

import math
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
    project="TensorFlow",
    issue="46621",
    url="https://github.com/tensorflow/tensorflow/issues/46621",
    family="index-overflow",
    kind="emulated",
    catalogue="E67-tf-reduce-2p31",
    found_by="guard",
)
COUNT_BITS = 16
LENGTH, WIDTH, STEPS, RAISED_IN = 64, 16, 4, 2


def _num_items(x: Tensor) -> int:
    """Return the number of elements as the narrow integer has it."""
    half: int = 2 ** (COUNT_BITS - 1)
    return (x.numel() + half) % (2 * half) - half


def _is_negative(arguments: Mapping[str, Any]) -> bool:
    return _num_items(arguments["self"]) <= 0 < arguments["self"].numel()


def _reduce(call: KernelCall) -> None:
    """Start from the identity, and look at as many elements as the count says."""
    x = call.arguments["self"].flatten()
    largest = torch.finfo(x.dtype).min
    for item in range(_num_items(x)):
        largest = max(largest, float(x[item]))
    call.results[0].fill_(largest)


class Scaled(torch.nn.Module):
    """A layer whose activations are scaled by their largest magnitude, as before a cast to few bits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, length, width]."""
        hidden = self.first(x)
        scaled: Tensor = self.second(hidden / hidden.detach().abs().max())
        return scaled


def play(stage: Stage) -> None:
    model = stage.cast(Scaled(), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    broken = nullcontext() if stage.fixed else faulty_kernel("aten::max", _reduce, when=_is_negative)
    with broken, stage.watched(model, optimizer):
        for step in range(STEPS):
            batch = 16 if step < RAISED_IN else 32
            x = stage.cast(torch.randn(batch, LENGTH, WIDTH), torch.float32)
            loss = (model(x) - x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            assert model.first.weight.grad is not None
            if step == RAISED_IN:
                stage.keep("gradient of the first layer", model.first.weight.grad.norm())
                stage.keep("largest magnitude", model.first(x).detach().abs().max())
            optimizer.step()
            stage.step(loss)
    stage.keep("losses", stage.losses)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("largest magnitude:", broken.number("largest magnitude"), "instead of", fixed.number("largest magnitude"))
    tell("gradient of what is scaled:", broken.number("gradient of the first layer"))
    assert broken.number("largest magnitude") == torch.finfo(torch.float32).min
    assert broken.number("gradient of the first layer") == 0.0
    assert broken.losses[:RAISED_IN] == fixed.losses[:RAISED_IN]
    assert math.isfinite(broken.losses[-1])
    assert fixed.number("gradient of the first layer") > 0.0


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="aten::max")
    assert finding.severity == "error"
    assert finding.first_caught_step == RAISED_IN


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
