"""Checkpointing without the state of the random numbers: backward belongs to another forward.

Symptom
    A run with activation checkpointing and dropout is worse than the same run without: cross entropy 2.49 instead of
    2.19 at step 150. Losses are plausible, gradients are finite, nothing warns.
Cause
    With preserve_rng_state=False the forward that backward runs again draws new dropout masks. The gradient is that of
    units which were not in the forward pass whose loss is being minimised.
Fix
    preserve_rng_state=True, which is the default.
Affected
    A user's option in torch 2.13; OLMo-core had it hard-coded (pull request 828). Live: nothing here is emulated.
"""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="OLMo-core",
    issue="828",
    url="https://github.com/allenai/OLMo-core/pull/828",
    family="determinism",
    kind="by design",
    catalogue="L47-checkpoint-rng",
    found_by=None,
    missing="equivalences of the whole step",
)
STEPS, ROWS, WIDTH, HIDDEN = 100, 64, 16, 32


def play(stage: Stage) -> None:
    block = torch.nn.Sequential(torch.nn.Linear(WIDTH, HIDDEN), torch.nn.ReLU(), torch.nn.Dropout(0.5))
    model = stage.cast(torch.nn.Sequential(block, torch.nn.Linear(HIDDEN, 1)), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    x = stage.cast(torch.randn(ROWS, WIDTH), torch.float32)
    y = x[:, :1].sin()
    with stage.watched(model, optimizer):
        for step in range(STEPS):
            torch.manual_seed(step)
            hidden = checkpoint(block, x, use_reentrant=False, preserve_rng_state=stage.fixed)
            loss = (model[1](hidden) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if step == 0:
                stage.keep("gradient", block[0].weight.grad)
            optimizer.step()
            stage.step(loss)
    stage.keep("losses", torch.tensor(stage.losses))
    stage.keep("evaluation", (model.eval()(x) - y).square().mean())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    wrong, right = broken.kept["gradient"], fixed.kept["gradient"]
    error = (wrong - right).norm() / right.norm()
    tell("the same loss", broken.losses[0], "and a gradient that is off by", error, "of its norm")
    tell(
        "evaluation after",
        STEPS,
        "steps:",
        broken.number("evaluation"),
        "with the right masks",
        fixed.number("evaluation"),
    )
    assert broken.losses[0] == fixed.losses[0]
    assert float(error) > 0.3
    assert broken.number("evaluation") > 2 * fixed.number("evaluation")


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
