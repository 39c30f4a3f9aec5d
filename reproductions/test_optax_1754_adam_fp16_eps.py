"""Adam's eps is 0 in fp16.

Symptom
    The first step of Adam on fp16 weights turns every weight without a gradient into NaN and every weight with a small
    gradient into infinity. The loss of the first step is perfectly healthy.
Cause
    The smallest positive fp16 number is 6e-8: the default eps of 1e-8 is rounded to 0, and so is the square of any
    gradient below 2e-4. The update becomes m / 0.
Fix
    eps of at least 1e-4, or states and weights in fp32.
Affected
    torch 2.13, plain and foreach (fused computes in fp32 and is right); the same in optax (1754) and in projects that
    raised eps. Live: nothing here is emulated.
"""

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="optax",
    issue="1754",
    url="https://github.com/google-deepmind/optax/issues/1754",
    family="non-finite",
    kind="by design",
    catalogue="L34-adam-fp16-eps",
    found_by="guard",
)
STEPS, WIDTH = 3, 8


def play(stage: Stage) -> None:
    model = stage.cast(torch.nn.Linear(WIDTH, WIDTH), torch.float16)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-4 if stage.fixed else 1e-8)
    x = torch.rand(4, WIDTH)
    x[:, 0] = 0.0  # a feature that this batch does not have
    x = stage.cast(x, torch.float16)
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("weight", model.weight)
    stage.keep("losses", torch.tensor(stage.losses, dtype=torch.float16))


def test_the_bug_shows(tell):
    broken = perform(play)
    lost = ~broken.kept["weight"].isfinite()
    tell("losses", broken.losses, "| weights that are no number any more:", float(lost.double().mean()))
    assert broken.losses[0] < 10.0
    assert bool(lost[:, 0].all())


def test_numguard_finds_it(found):
    finding = found(play, kind="nonfinite", op="addcdiv")
    assert finding.phase == "optimizer"
    assert finding.first_caught_step == 0


def test_the_fix_is_silent(silent):
    assert bool(silent(play).kept["weight"].isfinite().all())
