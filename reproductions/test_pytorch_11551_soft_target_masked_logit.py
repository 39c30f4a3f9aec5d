"""A class masked with -inf is fine for label indices and NaN for soft targets.

Symptom
    A model that masks impossible classes with -inf trains; with mixup, distillation or one-hot targets in place of
    label indices the very same loss is NaN, with label smoothing it is inf.
Cause
    With indices only the target's log probability is read. With dense targets every class counts: 0 * log p with
    log p = -inf is NaN, and smoothing adds eps * inf.
Fix
    Mask with the most negative finite number, or weigh with xlogy.
Affected
    torch 2.13, any device; issue 11551 is open, issue 1930 of FlashAttention is related. Live: nothing is emulated.
"""

import math

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="11551",
    url="https://github.com/pytorch/pytorch/issues/11551",
    family="non-finite",
    kind="by design",
    catalogue="L41-ce-neg-inf-logit",
    found_by="guard",
)
ROWS, WIDTH, CLASSES = 8, 6, 5


def play(stage: Stage) -> None:
    model = stage.cast(torch.nn.Linear(WIDTH, CLASSES), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    impossible = torch.tensor([False, False, False, False, True])
    x = stage.cast(torch.randn(ROWS, WIDTH), torch.float32)
    labels = torch.randint(CLASSES - 1, (ROWS,))
    with stage.watched(model, optimizer):
        for dense in (False, True):
            logits = model(x)
            lowest = torch.finfo(logits.dtype).min if stage.fixed else -math.inf
            logits = logits.masked_fill(impossible, lowest)
            targets = torch.nn.functional.one_hot(labels, CLASSES).to(logits.dtype) if dense else labels
            loss = torch.nn.functional.cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("losses", torch.tensor(stage.losses))


def test_the_bug_shows(tell):
    broken = perform(play)
    tell("label indices", broken.losses[0], "| the same as one-hot targets", broken.losses[1])
    assert math.isfinite(broken.losses[0])
    assert math.isnan(broken.losses[1])


def test_numguard_finds_it(found):
    finding = found(play, kind="nonfinite", op="aten::mul")
    assert finding.first_caught_step == 1


def test_the_fix_is_silent(silent):
    assert all(map(math.isfinite, silent(play).losses))
