"""The variance of numbers far from 0 is 0, or negative.

Symptom
    var([2281.5, 2281.25]) is 0; features with an offset are normalised by noise, and now and then by the root of a
    negative number: NaN.
Cause
    E[x^2] - E[x]^2 in fp32. Both terms are near 23,000 for a mean of 151, the difference is near 0.01, and fp32 has
    seven digits.
Fix
    Two passes, or Welford's update.
Affected
    torch 0.2 on the CPU, issue 2470; fixed, and written again and again in users' code (cellarium-ml 113, sherpa-onnx
    3857). Emulated: the kernel under aten::var.correction by this formula. What is real: a layer that normalises, and
    its training loop.
"""

import math
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from numguard.testing import faulty_kernel
from numguard.testing.faults import KernelCall
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="2470",
    url="https://github.com/pytorch/pytorch/issues/2470",
    family="reduction-accuracy",
    kind="emulated",
    catalogue="E07-var-onepass",
    found_by="guard",
)
ROWS, WIDTH, OFFSET, SPREAD, STEPS = 64, 256, 151.0, 0.1, 3


def _is_fp32(arguments: dict[str, object]) -> bool:
    x = arguments["self"]
    return isinstance(x, Tensor) and x.dtype is torch.float32


def _in_one_pass(call: KernelCall) -> None:
    x, dim = call.arguments["self"].detach(), call.arguments["dim"]
    variance = (x * x).mean(dim, keepdim=True) - x.mean(dim, keepdim=True).square()
    call.results[0].copy_(variance.reshape(call.results[0].shape))


class Normalised(torch.nn.Module):
    """Normalises the features of each row, then maps them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        y: Tensor = self.layer(centred * torch.rsqrt(x.var(-1, correction=0, keepdim=True)))
        return y


def play(stage: Stage) -> None:
    model = stage.cast(Normalised(), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = stage.cast(torch.randn(ROWS, WIDTH) * SPREAD + OFFSET, torch.float32)
    bug = nullcontext() if stage.fixed else faulty_kernel("aten::var.correction", _in_one_pass, when=_is_fp32)
    with bug, stage.watched(model, optimizer):
        stage.keep("var([2281.5, 2281.25])", torch.tensor([2281.5, 2281.25]).to(x.dtype).var(correction=0))
        stage.keep("variances", x.var(-1, correction=0))
        for _ in range(STEPS):
            loss = (model(x) - 1.0).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("losses", torch.tensor(stage.losses))


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("var([2281.5, 2281.25]) =", broken.number("var([2281.5, 2281.25])"))
    off = (broken.kept["variances"] / fixed.kept["variances"] - 1).abs().max()
    tell("losses", broken.losses, "right", fixed.losses, "| variances off by a factor of up to", 1 + off)
    assert broken.number("var([2281.5, 2281.25])") == 0.0
    assert fixed.number("var([2281.5, 2281.25])") == 0.015625
    assert float(off) > 0.2
    assert not math.isclose(broken.losses[0], fixed.losses[0], rel_tol=1e-2)


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="aten::var")
    assert finding.severity == "error"


def test_the_fix_is_silent(silent):
    assert all(map(math.isfinite, silent(play).losses))
