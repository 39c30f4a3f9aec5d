"""A bf16 average of the weights never catches up with its student.

Symptom
    The exponential moving average of the weights (the teacher of a self-distilled model, the weights that are
    evaluated) stays behind: with decay 0.99 it stops at four fifths of the way, with 0.999 at a quarter, and
    evaluating it looks like a model that has not learned.
Cause
    Each step adds a small part of the distance. In bf16 that is below half the spacing of the averaged weight as soon
    as it has come some of the way, and the sum is rounded back. With decay 0.999 two formulas that are equal on paper
    stop at different places: lerp at 0.25, multiply and add at 0.5.
Fix
    Keep the average in fp32.
Affected
    torch 2.13, any device. Issue 996 of OneTrainer is the same loss in weight decay. Live: nothing here is emulated.
"""

import pytest
import torch
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="OneTrainer",
    issue="996",
    url="https://github.com/Nerogar/OneTrainer/issues/996",
    family="update-health",
    kind="by design",
    catalogue="L35-ema-bf16",
    found_by="guard",
)
STEPS, WIDTH, DECAY = 300, 8, 0.99


class Distilled(torch.nn.Module):
    """A student, and a teacher that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.student = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        self.teacher = torch.nn.Linear(WIDTH, WIDTH, bias=False).requires_grad_(False)
        torch.nn.init.ones_(self.student.weight)
        torch.nn.init.zeros_(self.teacher.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        taught: Tensor = self.teacher(x.to(self.teacher.weight.dtype))
        return self.student(x), taught.to(x.dtype)


def play(stage: Stage) -> None:
    model = stage.cast(Distilled(), torch.float32)
    stage.cast(model.teacher, torch.float32 if stage.fixed else torch.bfloat16)
    optimizer = torch.optim.SGD(model.student.parameters(), lr=1e-4)

    @torch.no_grad()
    def follow(*_: object) -> None:
        model.teacher.weight.lerp_(model.student.weight.to(model.teacher.weight.dtype), 1.0 - DECAY)

    optimizer.register_step_post_hook(follow)
    x = stage.cast(torch.rand(4, WIDTH), torch.float32)
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            student, teacher = model(x)
            loss = (student - teacher).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("teacher", model.teacher.weight.mean())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("the teacher's weight after", STEPS, "steps:", broken.number("teacher"), "in fp32:", fixed.number("teacher"))
    assert broken.number("teacher") < 0.9
    assert fixed.number("teacher") > 0.94


def test_numguard_finds_it(found):
    finding = found(play, kind="lost_updates", module="teacher")
    assert finding.evidence["share"] > 0.5


def test_the_fix_is_silent(silent):
    assert silent(play).number("teacher") > 0.94
