"""The mean of a data set's channels comes out a third too small.

Symptom
    Channel means of an image data set, as they are computed once for normalisation, depend on the layout and are far
    off: 0.328 instead of 0.5 for 51 million uniform pixels.
Cause
    A sum over the outer dimension kept one fp32 accumulator for each column and added row after row. Errors grow with
    the number of rows, and at 2^24 times a pixel the accumulator stops.
Fix
    Cascade summation, pull request 39516.
Affected
    torch up to 1.5 on the CPU, issue 38716; fixed in 1.6. Emulated: the kernel under aten::sum.dim_IntList for a sum
    over the first dimension, by NumPy's reduction over the outer axis, which is the same algorithm. Four million rows
    of an image with a plain background in place of 51 million.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from numguard.testing import faulty_kernel
from numguard.testing.faults import KernelCall
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="38716",
    url="https://github.com/pytorch/pytorch/issues/38716",
    family="reduction-accuracy",
    kind="emulated",
    catalogue="E05-cpu-outer-sum-naive",
    found_by="guard",
)
PIXELS, CHANNELS, BACKGROUND = 1 << 22, 3, 0.1


def _is_outer(arguments: dict[str, object]) -> bool:
    x, dim = arguments["self"], arguments["dim"]
    assert isinstance(x, Tensor)
    return x.dtype is torch.float32 and x.dim() == 2 and dim == [0] and x.is_contiguous()


def _adds_row_after_row(call: KernelCall) -> None:
    rows = call.arguments["self"].detach().numpy()
    call.results[0].copy_(torch.from_numpy(np.add.reduce(rows, axis=0)).reshape(call.results[0].shape))


def play(stage: Stage) -> None:
    pixels = torch.full((PIXELS, CHANNELS), BACKGROUND)
    pixels[: PIXELS // 16] = torch.rand(PIXELS // 16, CHANNELS)
    pixels = stage.cast(pixels, torch.float32)
    bug = nullcontext() if stage.fixed else faulty_kernel("aten::sum.dim_IntList", _adds_row_after_row, when=_is_outer)
    with bug, stage.watched():
        means = pixels.sum(0) / PIXELS
        stage.step()
    stage.keep("means", means)
    stage.keep("right", pixels.double().sum(0) / PIXELS)


def test_the_bug_shows(tell):
    broken = perform(play)
    error = (broken.kept["means"] / broken.kept["right"] - 1).abs().max()
    tell("means", broken.kept["means"].tolist(), "right", broken.kept["right"].tolist())
    assert float(error) > 1e-2


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="aten::sum")
    assert finding.ratio is not None
    assert finding.ratio > 100


def test_the_fix_is_silent(silent):
    stage = silent(play)
    assert float((stage.kept["means"] / stage.kept["right"] - 1).abs().max()) < 1e-6
