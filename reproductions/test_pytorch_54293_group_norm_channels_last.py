"""GroupNorm on channels_last activations cancels where their mean is large.

Symptom
    A convolutional network that is switched to channels_last for speed loses accuracy. Its GroupNorm layers are off by
    0.4 where activations have mean 1,000 and deviation 1, and by 1,000 at mean 3,000.
Cause
    The channels_last kernel takes the variance as E[x^2] - E[x]^2, two numbers near 10^6 that differ by 1. At mean
    3,000 nothing is left of the difference, and the result is scaled by 1 / sqrt(eps).
Fix
    Two passes or Welford's update, as the kernel for contiguous input has since issue 54293.
Affected
    torch up to 2.13 on the CPU, fp32, channels_last only. Live: nothing here is emulated.
"""

from pathlib import Path

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="54293 on channels_last",
    url="https://github.com/pytorch/pytorch/issues/54293",
    family="normalization-forward",
    kind="live",
    catalogue="L08-groupnorm-channels-last-cancel",
    found_by="guard",
)
OFFSET = 3000.0


class Block(torch.nn.Module):
    """A convolution, a normalisation, and in the fixed twin what the kernel would need in between."""

    def __init__(self, *, contiguous: bool) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 32, 3, padding=1)
        torch.nn.init.constant_(self.convolution.bias, OFFSET)
        self.norm = torch.nn.GroupNorm(8, 32)
        self.contiguous = contiguous

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convolution(x)
        return self.norm(x.contiguous() if self.contiguous else x)


def play(stage: Stage) -> None:
    block = stage.cast(Block(contiguous=stage.fixed), torch.float32).to(memory_format=torch.channels_last)
    image = stage.cast(torch.randn(2, 3, 16, 16), torch.float32).to(memory_format=torch.channels_last)
    with stage.watched(block), torch.no_grad():
        y = block(image)
        stage.step()
    stage.keep("output", y)


def test_the_bug_shows(tell):
    broken, fixed, exact = (perform(play, **how).kept["output"] for how in ({}, {"fixed": True}, {"exact": True}))
    tell("largest error", (broken - exact).abs().max(), "contiguous", (fixed - exact).abs().max())
    tell("largest output", broken.abs().max(), "right", exact.abs().max())
    assert float((broken - exact).abs().max()) > 10.0
    assert float((fixed - exact).abs().max()) < 1e-2


def test_numguard_finds_it(found):
    finding = found(play, kind="inaccurate_accumulation", op="native_group_norm", module="norm")
    assert Path(__file__).name in str(finding.location)


def test_the_fix_is_silent(silent):
    exact = perform(play, exact=True).kept["output"]
    assert float((silent(play).kept["output"] - exact).abs().max()) < 1e-2
