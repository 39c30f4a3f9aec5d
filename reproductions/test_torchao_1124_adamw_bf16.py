"""AdamW on bf16 weights stands still.

Symptom
    Fine-tuning in pure bf16 with a small learning rate: the loss hardly moves, most weights are bit for bit what they
    were, and weight decay does nothing.
Cause
    Adam's update is about the learning rate, here 1e-4. That is below half the spacing of bf16 numbers for every
    weight above 0.03, so rounding to nearest returns the old weight, at every step.
Fix
    fp32 master weights, stochastic rounding, or Kahan summation.
Affected
    torch 2.13, plain, foreach and fused alike; pull request 1124 of torchao adds stochastic rounding, issue 120376 of
    PyTorch asks for it. Live: nothing here is emulated.
"""

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="torchao",
    issue="1124",
    url="https://github.com/pytorch/ao/pull/1124",
    family="update-health",
    kind="by design",
    catalogue="L33-adamw-bf16-stagnation",
    found_by="guard",
)
STEPS, WIDTH, RATE = 150, 16, 1e-4


class Model(torch.nn.Module):
    """A linear layer that computes in bf16, whatever its weights are kept in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.layer.weight.to(x.dtype))


def play(stage: Stage) -> None:
    model = Model()
    torch.nn.init.ones_(model.layer.weight)
    model = stage.cast(model, torch.float32 if stage.fixed else torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    x = stage.cast(torch.rand(32, WIDTH), torch.bfloat16)
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("weight", model.layer.weight.detach().mean())
    stage.keep("loss", loss)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("mean weight after", STEPS, "steps:", broken.number("weight"), "instead of", fixed.number("weight"))
    assert broken.number("weight") == 1.0, "not one weight has moved"
    assert fixed.number("weight") < 0.99


def test_numguard_finds_it(found):
    finding = found(play, kind="lost_updates", module="layer")
    assert finding.evidence["share"] == 1.0


def test_the_fix_is_silent(silent):
    assert silent(play).number("weight") < 0.99
