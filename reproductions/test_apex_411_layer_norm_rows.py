"""apex's FusedLayerNorm leaves rows from 65,535 on as they are.

Symptom
    Differences of 14 instead of 3e-6 to PyTorch's layer norm, from 65,536 tokens in a batch on.
Cause
    One block of threads for each row, in the grid's y dimension, which ends at 65,535. The launch caps the grid there,
    and each block does one row only.
Fix
    Let a block go on with the row ``gridDim.y`` further, until the end.
Affected
    apex in 2019. What is emulated: the launch, below ``aten::native_layer_norm``, with the real limit; rows without a
    block keep what the memory held before, which is the result of the step before. What is real: everything above it.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from numguard.testing import faulty_kernel
from numguard.testing.faults import KernelCall
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="apex",
    issue="411",
    url="https://github.com/NVIDIA/apex/issues/411",
    family="index-overflow",
    kind="emulated",
    catalogue="E13-apex-ln-65536",
    found_by="guard",
)
WIDTH, STEPS, RAISED_IN = 8, 2, 1
LARGEST_GRID: Final = 65_535


class Launch:
    """Launches one block for each row, and the memory that results are written to."""

    def __init__(self) -> None:
        self.memory: list[Tensor] = []

    def __call__(self, call: KernelCall) -> None:
        grid = min(call.results[1].numel(), LARGEST_GRID)
        if not self.memory:
            self.memory = [torch.zeros(2 * LARGEST_GRID * WIDTH, dtype=call.results[0].dtype) for _ in range(3)]
        for result, memory in zip(call.results, self.memory, strict=True):
            each = result.numel() // call.results[1].numel()
            memory[: grid * each] = result.reshape(-1)[: grid * each]
            result.copy_(memory[: result.numel()].view(result.shape))


def _is_float(arguments: Mapping[str, Any]) -> bool:
    return bool(arguments["input"].is_floating_point())


def play(stage: Stage) -> None:
    model = torch.nn.Sequential(torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, 1))
    model = stage.cast(model, torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    bug = nullcontext() if stage.fixed else faulty_kernel("aten::native_layer_norm", Launch(), when=_is_float)
    with bug, stage.watched(model, optimizer):
        for step in range(STEPS):
            batch = 8 if step < RAISED_IN else 32
            x = stage.cast(torch.randn(batch, 2049, WIDTH), torch.float32)
            y = x.mean(-1, keepdim=True)
            normal = model[0](x)
            loss = (model[1](normal) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    exact = torch.nn.functional.layer_norm(x, (WIDTH,))
    stage.keep("row 65,534", normal.flatten(0, 1)[LARGEST_GRID - 1])
    stage.keep("row 65,535", normal.flatten(0, 1)[LARGEST_GRID])
    stage.keep("exact", exact.flatten(0, 1)[LARGEST_GRID - 1 : LARGEST_GRID + 1])


def test_the_bug_shows(tell):
    broken = perform(play)
    off = (broken.kept["row 65,535"] - broken.kept["exact"][1]).abs().max()
    tell(
        "row 65,535 is off by",
        off,
        "| row 65,534 by",
        (broken.kept["row 65,534"] - broken.kept["exact"][0]).abs().max(),
    )
    assert off > 0.5
    assert (broken.kept["row 65,534"] - broken.kept["exact"][0]).abs().max() < 0.5


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="native_layer_norm", module="0")
    assert finding.phase == "forward"
    assert finding.first_caught_step == RAISED_IN


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
