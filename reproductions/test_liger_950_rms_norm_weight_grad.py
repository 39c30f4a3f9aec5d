"""The weight gradient of a fused RMSNorm is added up in bf16.

Symptom
    The gains of the norms learn more slowly the larger the batch; with thousands of rows their gradients saturate.
Cause
    The fused backward adds the contributions of the rows in a block of the gradient's own dtype: tl.sum over a bf16
    block in Liger's RMSNorm, atomicAdd on bf16 in llm.c's layer norm.
Fix
    Accumulate in fp32 and round once.
Affected
    Liger-Kernel before pull request 950, llm.c before 476. Emulated: the backward of an autograd function that adds row
    after row in bf16, as those kernels do; the training step around it is real. The kernel is the user's own, so it is
    shadowed with its formula in float64.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import numguard
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="Liger-Kernel",
    issue="950",
    url="https://github.com/linkedin/Liger-Kernel/pull/950",
    family="normalization-backward",
    kind="emulated",
    catalogue="E44-bf16-dw-reduce",
    found_by="guard",
    declared=True,
)
ROWS, WIDTH = 2048, 8


def _exact(dy: Tensor, normed: Tensor, in_bf16: bool) -> Tensor:
    return (dy.double() * normed.double()).sum(0)


def _bound(dy: Tensor, normed: Tensor, in_bf16: bool) -> Tensor:
    """Products and sums in fp32, one rounding to bf16: (n + 1) u32 of the sum of magnitudes, and u16 of the result."""
    mass = (dy.double() * normed.double()).abs().sum(0)
    return (len(dy) + 1) * 2.0**-24 * mass + 2.0**-8 * _exact(dy, normed, in_bf16).abs() * 1.01


@numguard.shadowed(reference=_exact, error_bound=_bound)
def weight_gradient(dy: Tensor, normed: Tensor, in_bf16: bool) -> Tensor:
    """Add the rows of ``dy * normed``, one after the other, in the dtype of the kernel's accumulator."""
    accumulator = torch.zeros(dy.shape[1], dtype=dy.dtype if in_bf16 else torch.float32)
    for row in range(len(dy)):
        accumulator = accumulator + dy[row].to(accumulator) * normed[row].to(accumulator)
    return accumulator.to(dy.dtype)


class FusedRMSNorm(torch.autograd.Function):
    """RMSNorm with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, in_bf16: bool) -> Tensor:
        normed = x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6).to(x)
        ctx.save_for_backward(normed)
        ctx.in_bf16 = in_bf16
        return normed * weight

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor, None]:
        (normed,) = ctx.saved_tensors
        return None, weight_gradient(dy, normed, ctx.in_bf16), None


def play(stage: Stage) -> None:
    x = stage.cast(torch.rand(ROWS, WIDTH) + 0.5, torch.bfloat16)
    weight = torch.nn.Parameter(stage.cast(torch.ones(WIDTH), torch.bfloat16))
    with stage.watched():
        loss = FusedRMSNorm.apply(x, weight, not stage.fixed).sum()
        loss.backward()
        stage.step()
    assert weight.grad is not None
    stage.keep("gradient", weight.grad)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("gradient of a gain", broken.kept["gradient"][0], "in fp32", fixed.kept["gradient"][0])
    assert bool((broken.kept["gradient"] < 0.5 * fixed.kept["gradient"]).all())


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="weight_gradient")
    assert Path(__file__).name in str(finding.location)


def test_the_fix_is_silent(silent):
    assert float(silent(play).kept["gradient"][0]) > 1000
