"""cross_entropy on bf16 logits biases the mean loss by 1.5 %.

Symptom
    A loss that sits on a coarse grid and is 1.5 % too high: 2.109 for eight equal logits, where ln 8 = 2.079 is right.
Cause
    The loss of each row is rounded to bf16, and the rows are added in bf16 partial sums.
Fix
    logits.float() before the loss.
Affected
    torch 2.13 on the CPU, eager, bf16. Pull requests of Modalities (464) and transformers (29285) work around it. Live:
    nothing here is emulated.
"""

import math
from pathlib import Path

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="transformers",
    issue="29285",
    url="https://github.com/huggingface/transformers/pull/29285",
    family="loss",
    kind="live",
    catalogue="L20-nll-loss-bf16",
    found_by="guard",
)
ROWS, CLASSES = 8192, 8


def play(stage: Stage) -> None:
    logits = stage.cast(torch.zeros(ROWS, CLASSES), torch.float32 if stage.fixed else torch.bfloat16)
    logits.requires_grad_()
    with stage.watched():
        loss = torch.nn.functional.cross_entropy(logits, torch.zeros(ROWS, dtype=torch.long))
        loss.backward()
        stage.step(loss)
    stage.keep("loss", loss)


def test_the_bug_shows(tell):
    broken = perform(play)
    tell("mean loss", broken.number("loss"), "right", math.log(CLASSES))
    assert broken.number("loss") > 1.01 * math.log(CLASSES)


def test_numguard_finds_it(found):
    finding = found(play, kind="inaccurate_accumulation", op="nll_loss")
    assert Path(__file__).name in str(finding.location)


def test_the_fix_is_silent(silent):
    assert abs(silent(play).number("loss") - math.log(CLASSES)) < 1e-6
