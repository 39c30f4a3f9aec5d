"""clip_grad_norm_ makes a NaN of an infinite gradient and zeroes all others.

Symptom
    After clipping one gradient is NaN and all others are 0. The NaN is first seen behind the clip, so the clip is
    searched for the bug.
Cause
    The norm is inf, the coefficient 1 / inf is 0, and inf * 0 is NaN. The infinity was born earlier, here in the
    derivative of a square root at 0.
Fix
    Look at the norm before scaling and skip the step (error_if_nonfinite=True does the looking).
Affected
    torch 2.13, as documented. Live: nothing here is emulated.
"""

import math

import pytest
import torch
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="clip_grad_norm_ with an infinite gradient",
    url="https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.clip_grad_norm_.html",
    family="clipping-norm",
    kind="by design",
    catalogue="L50-clip-inf-to-nan",
    found_by="guard",
)
STEPS, WIDTH = 3, 8


class Scaled(torch.nn.Module):
    """A linear layer whose outputs are scaled by the root of a learned variance."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(WIDTH, WIDTH)
        self.variance = torch.nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.layer(x)
        return hidden * self.variance.sqrt()


def play(stage: Stage) -> None:
    model = stage.cast(Scaled(), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = stage.cast(torch.randn(4, WIDTH), torch.float32)
    with torch.no_grad():
        model.variance[3] = 0.0  # a projection onto non-negative numbers has put it there
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            loss = (model(x) - 1.0).square().mean()
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) if not stage.fixed else _norm(model)
            if not stage.fixed or math.isfinite(norm):
                optimizer.step()
            stage.step(loss)
            if stage.num_steps == 1:
                stage.keep("variance", model.variance)
    stage.keep("losses", torch.tensor(stage.losses))


def _norm(model: torch.nn.Module) -> Tensor:
    return torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def test_the_bug_shows(tell):
    broken = perform(play)
    tell("losses", broken.losses, "variances after clipping", broken.kept["variance"].tolist())
    assert broken.kept["variance"].isnan().tolist() == [place == 3 for place in range(WIDTH)]
    assert math.isnan(broken.losses[1])


def test_numguard_finds_it(found):
    finding = found(play, kind="nonfinite", op="aten::div")
    assert finding.phase == "backward", "where the infinity was born, not the clip"
    assert finding.first_caught_step == 0


def test_the_fix_is_silent(silent):
    assert all(map(math.isfinite, silent(play).losses))
