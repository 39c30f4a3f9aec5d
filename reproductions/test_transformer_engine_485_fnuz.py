"""The fp8 format of AMD's MI300 ends at 240, and the code scales to 448.

Symptom
    NaN in the first step on MI300, with code that works elsewhere.
Cause
    ``float8_e4m3fnuz`` has the same bits as ``float8_e4m3fn`` but another bias: its largest number is 240, not 448. A
    scale of 448 over the largest magnitude is 1.87 times too large, and the largest elements become NaN.
Fix
    Ask ``torch.finfo`` for the format's largest number.
Affected
    TransformerEngine on ROCm before pull request 485. What is emulated: the scaling, written again. What is real: the
    rounding to ``float8_e4m3fnuz``, the training loop.
"""

import pytest
import torch
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="TransformerEngine",
    issue="485",
    url="https://github.com/ROCm/TransformerEngine/pull/485",
    family="fp8",
    kind="emulated",
    catalogue="E36-fp8-fnuz",
    found_by="guard",
)
WIDTH, STEPS = 32, 3


class Float8Linear(torch.nn.Linear):
    """A linear layer whose weight is multiplied in fp8; ``largest`` is what its scale takes the format to end at."""

    largest = 448.0

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the rounded weight; its gradient goes to the weight itself."""
        weight = self.weight.detach()
        scale = self.largest / weight.abs().max()
        scaled = (weight * scale).clamp(-self.largest, self.largest)
        rounded = scaled.to(torch.float8_e4m3fnuz).to(weight.dtype) / scale
        return torch.nn.functional.linear(x, self.weight + (rounded - weight).detach())


def play(stage: Stage) -> None:
    layer = Float8Linear(WIDTH, WIDTH, bias=False)
    if stage.fixed:
        layer.largest = torch.finfo(torch.float8_e4m3fnuz).max
    model = stage.cast(torch.nn.Sequential(layer), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            x = stage.cast(torch.randn(64, WIDTH), torch.float32)
            loss = (model(x) - x.roll(1, 1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("losses", stage.losses)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("losses:", *broken.losses, "| fixed:", *fixed.losses)
    assert all(loss != loss for loss in broken.losses)
    assert all(loss == loss for loss in fixed.losses)


def test_numguard_finds_it(found):
    finding = found(play, kind="nonfinite", module="0")
    assert finding.phase == "forward"
    assert (finding.op, finding.evidence["dtype"]) == ("aten::_to_copy", "float8_e4m3fnuz")
    assert finding.first_caught_step == 0


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
