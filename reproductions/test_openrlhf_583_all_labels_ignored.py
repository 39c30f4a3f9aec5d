"""cross_entropy over a micro-batch without labels is NaN.

Symptom
    A fine-tuning run is stopped for a NaN loss after days, on a micro-batch like any other: every one of its labels is
    -100, because the prompt filled the whole context, or a ring-attention shard is all padding. Every mean that the
    loss enters, over micro-batches or over ranks, is NaN as well.
Cause
    The mean divides by the number of labels that count, which is 0.
Fix
    Sum, and divide by max(count, 1), with the count of the whole batch.
Affected
    torch 2.13, as documented; pull requests 583 of OpenRLHF and 155 of Cosmos-RL. Live: nothing here is emulated.
"""

import math

import pytest
import torch
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="OpenRLHF",
    issue="583",
    url="https://github.com/OpenRLHF/OpenRLHF/pull/583",
    family="loss",
    kind="by design",
    catalogue="L40-ce-all-ignored",
    found_by="guard",
)
STEPS, TOKENS, WIDTH, CLASSES, IGNORED, BAD_STEP = 6, 16, 8, 12, -100, 4


def _loss(logits: Tensor, labels: Tensor, fixed: bool) -> Tensor:
    if not fixed:
        return torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED)
    total = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def play(stage: Stage) -> None:
    model = stage.cast(torch.nn.Linear(WIDTH, CLASSES), torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with stage.watched(model, optimizer):
        for step in range(STEPS):
            x = stage.cast(torch.randn(TOKENS, WIDTH), torch.float32)
            labels = torch.randint(CLASSES, (TOKENS,))
            labels[: TOKENS if step == BAD_STEP else TOKENS // 2] = IGNORED
            loss = _loss(model(x), labels, stage.fixed)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("losses", torch.tensor(stage.losses))
    stage.keep("mean loss", sum(stage.losses) / STEPS)


def test_the_bug_shows(tell):
    broken = perform(play)
    tell("losses", broken.losses, "mean", broken.number("mean loss"))
    assert [math.isnan(loss) for loss in broken.losses] == [step == BAD_STEP for step in range(STEPS)]
    assert math.isnan(broken.number("mean loss"))


def test_numguard_finds_it(found):
    finding = found(play, kind="nonfinite", op="nll_loss")
    assert finding.first_caught_step == BAD_STEP


def test_the_fix_is_silent(silent):
    assert all(map(math.isfinite, silent(play).losses))
