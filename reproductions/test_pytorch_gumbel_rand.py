"""Gumbel noise from rand is infinite once in a while.

Symptom
    A router or sampler that adds Gumbel noise runs for hours and then has one NaN; in bf16 it has one in every batch.
Cause
    -log(-log(u)) needs 0 < u < 1. torch.rand returns exactly 0 once in 2^24 draws, and rounding u to bf16 makes 1 of
    every draw above 0.998.
Fix
    Draw from exponential_(), which excludes 0, and take -log of that in fp32; or clamp u.
Affected
    torch 2.13, any device: rand includes 0 and excludes 1, as documented, before it is rounded. Live: nothing here is
    emulated.
"""

import math

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="Gumbel noise from rand",
    url="https://docs.pytorch.org/docs/2.13/generated/torch.rand.html",
    family="non-finite",
    kind="by design",
    catalogue="L49-gumbel-rand-zero",
    found_by="guard",
)
STEPS, TOKENS, WIDTH, EXPERTS = 20, 64, 8, 4


def play(stage: Stage) -> None:
    model = stage.cast(torch.nn.Linear(WIDTH, EXPERTS), torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)  # a number that bf16 has
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            x = stage.cast(torch.randn(TOKENS, WIDTH), torch.bfloat16)
            if stage.fixed:
                noise = stage.cast(-torch.empty(TOKENS, EXPERTS).exponential_().log(), torch.bfloat16)
            else:
                noise = -torch.log(-torch.log(stage.cast(torch.rand(TOKENS, EXPERTS), torch.bfloat16)))
            shares = torch.softmax((model(x) + noise).float(), -1)
            loss = shares.mean(0).square().sum() * EXPERTS
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("losses", torch.tensor(stage.losses, dtype=torch.bfloat16))


def test_the_bug_shows(tell):
    broken = perform(play)
    first = next(step for step, loss in enumerate(broken.losses) if math.isnan(loss))
    tell("first NaN in step", first, "losses until then:", broken.losses[:first])
    assert all(map(math.isnan, broken.losses[first:])), "the model is lost"


def test_numguard_finds_it(found):
    finding = found(play, kind="nonfinite", op="aten::log")
    assert finding.phase == "forward"


def test_the_fix_is_silent(silent):
    assert all(map(math.isfinite, silent(play).losses))
