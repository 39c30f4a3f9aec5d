"""The fp8 scale of a tiny gradient is infinite, and zero times infinity is NaN.

Symptom
    A run that starts with layers scaled to almost nothing has NaN weights after its first step.
Cause
    The scale is 448 over the largest magnitude. Below 1.3e-36 it is beyond fp32: infinite. Gradients of padding are
    exactly zero, and zero times infinity is NaN.
Fix
    Hold the scale below the largest fp32 number.
Affected
    TransformerEngine before 1.7. What is emulated: the rounding of the gradient, written again. What is real: the
    formats, and a residual branch that starts with a scale of 1e-36.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="TransformerEngine",
    issue="786",
    url="https://github.com/NVIDIA/TransformerEngine/pull/786",
    family="fp8",
    kind="emulated",
    catalogue="E34-fp8-inf-scale",
    found_by="guard",
)
WIDTH, TOKENS, PADDING, STEPS = 16, 64, 16, 3
LARGEST = torch.finfo(torch.float8_e5m2).max


class RoundedGradient(torch.autograd.Function):
    """Passes its input on, and rounds the gradient to fp8 with a scale that fits it."""

    @staticmethod
    def forward(context: Any, x: Tensor, fixed: bool) -> Tensor:
        """Return the input."""
        context.fixed = fixed
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Return the gradient, rounded."""
        amax = gradient.abs().max()
        if context.fixed:
            amax = amax.clamp(min=LARGEST / torch.finfo(amax.dtype).max)
        scale = LARGEST / amax
        rounded = (gradient * scale).clamp(-LARGEST, LARGEST).to(torch.float8_e5m2)
        return rounded.to(gradient.dtype) / scale, None


class Branch(torch.nn.Module):
    """A residual branch with a scale of its own."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(WIDTH, WIDTH)
        self.gamma = torch.nn.Parameter(torch.full((WIDTH,), 1e-36))
        self.fixed = fixed

    def forward(self, x: Tensor) -> Tensor:
        """Return the input and the scaled branch."""
        branch: Tensor = RoundedGradient.apply(self.linear(x), self.fixed)
        return x + self.gamma * branch


def play(stage: Stage) -> None:
    model = stage.cast(Branch(stage.fixed), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    counts = torch.ones(TOKENS, 1)
    counts[-PADDING:] = 0.0
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            x = stage.cast(torch.randn(TOKENS, WIDTH), torch.float32)
            difference = (model(x) - x.roll(1, 1)) * counts
            loss = difference.square().sum() / (counts.sum() * WIDTH)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("weight", model.linear.weight)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("NaN in the weight:", int(broken.kept["weight"].isnan().sum()), "of", WIDTH * WIDTH)
    assert bool(broken.kept["weight"].isnan().any())
    assert bool(fixed.kept["weight"].isfinite().all())


def test_numguard_finds_it(found):
    finding = found(play, kind="nonfinite")
    assert finding.phase == "backward"
    assert (finding.op, finding.evidence["shape"]) == ("aten::mul.Tensor", []), "448 times the reciprocal: the scale"
    assert finding.first_caught_step == 0


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
