"""Normalisation layers cannot normalise what is large: LayerNorm returns NaN, BatchNorm and RMSNorm return zeros.

Symptom
    Activations grow to 10^20, which fp32 holds easily, and the layer that should bring them back to 1 returns NaN in
    some rows and zeros in others (LayerNorm, GroupNorm) or zeros throughout (BatchNorm, RMSNorm). The zeros are worse:
    the signal and every gradient vanish, and nothing looks wrong.
Cause
    (x - mean)^2 is beyond the largest fp32 number, so the variance is inf, and 1 / sqrt(inf) is 0. The LayerNorm
    kernel then multiplies that 0 by something infinite.
Fix
    Scale by the largest magnitude first, or take the moments in fp64.
Affected
    torch 2.13 on the CPU, fp32; issue 162489, pull request 178123 was closed. Live: nothing here is emulated.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="178123",
    url="https://github.com/pytorch/pytorch/pull/178123",
    family="non-finite",
    kind="live",
    catalogue="L12-norm-layers-overflow",
    found_by="guard",
)
SCALE = 1e20


class ScaledLayerNorm(torch.nn.LayerNorm):
    """LayerNorm of x / max|x|: the same, but for the epsilon, which counts for nothing beside such numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / x.abs().amax(-1, keepdim=True).clamp(min=1.0))


def play(stage: Stage) -> None:
    norm = (ScaledLayerNorm if stage.fixed else torch.nn.LayerNorm)(16)
    model = stage.cast(torch.nn.Sequential(torch.nn.Linear(16, 16), norm, torch.nn.Linear(16, 4)), torch.float32)
    x = stage.cast(torch.randn(8, 16), torch.float32)
    with torch.no_grad():
        model[0].weight.mul_(SCALE)
    with stage.watched(model):
        hidden = model[:2](x)
        loss = model[2](hidden).square().mean()
        loss.backward()
        stage.step(loss)
    stage.keep("hidden", hidden)


def test_the_bug_shows(tell):
    broken, fixed = perform(play).kept["hidden"], perform(play, fixed=True).kept["hidden"]
    tell("LayerNorm returns", broken[0, 0], "instead of", fixed[0, 0])
    assert bool(broken.isnan().any())
    assert bool((broken.isnan() | (broken == 0.0)).all())
    assert float(fixed.std()) == pytest.approx(1.0, rel=0.1)


def test_the_other_layers_fail_in_their_own_ways():
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)) * SCALE
    assert float(F.batch_norm(x, None, None, training=True).abs().max()) == 0.0
    assert float(F.rms_norm(x, (4,)).abs().max()) == 0.0
    assert bool(F.group_norm(x[None], 2).isnan().all())
    assert bool(x.isfinite().all())


def test_numguard_finds_it(found):
    finding = found(play, kind="overflow", op="native_layer_norm", module="1")
    assert finding.phase == "forward"


def test_the_fix_is_silent(silent):
    assert bool(silent(play).kept["hidden"].isfinite().all())
