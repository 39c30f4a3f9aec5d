"""Gradient accumulation averages micro-batches, not tokens.

Symptom
    With gradient accumulation the loss curve is not the one of the same batch in one piece, and ends higher. The more
    the lengths of the samples differ, the worse.
Cause
    The trainer takes the mean cross-entropy of each micro-batch over its own tokens and divides by the number of
    micro-batches. A token of a short micro-batch weighs more than one of a long one.
Fix
    Add up the cross-entropies and divide by the number of tokens of the whole batch.
Affected
    transformers before 4.46, and most trainers of their time. The trainer's arithmetic is written again here; nothing
    is injected, every operator is right.
"""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="transformers",
    issue="34191",
    url="https://github.com/huggingface/transformers/issues/34242",
    family="gradient-accumulation",
    kind="emulated",
    catalogue="E16-hf-grad-accum",
    found_by=None,
    missing="equivalences of the whole step",
)
VOCABULARY, WIDTH, LENGTH, STEPS, IGNORED = 32, 16, 32, 5, -100
LENGTHS = (32, 4, 9, 2)


def _batch() -> list[tuple[Tensor, Tensor]]:
    """Return micro-batches of four samples; in samples of one micro-batch only so many tokens count."""
    batch = []
    for length in LENGTHS:
        tokens = torch.randint(0, VOCABULARY, (4, LENGTH + 1))
        tokens[:, 1::2] = (tokens[:, ::2][:, : LENGTH // 2] + length) % VOCABULARY
        labels = tokens[:, 1:].clone()
        labels[:, length:] = IGNORED
        batch.append((tokens[:, :-1], labels))
    return batch


def play(stage: Stage) -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(VOCABULARY, WIDTH), torch.nn.Linear(WIDTH, VOCABULARY))
    model = stage.cast(model, torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with stage.watched(model, optimizer):
        for step in range(STEPS):
            batch = _batch()
            num_tokens = sum(int((labels != IGNORED).sum()) for _, labels in batch)
            if step == 0:
                inputs, labels = (torch.cat(parts) for parts in zip(*batch, strict=True))
                whole = cross_entropy(model(inputs).flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
                stage.keep("gradient in one piece", torch.autograd.grad(whole, model[1].weight)[0])
            optimizer.zero_grad()
            total = 0.0
            for inputs, labels in batch:
                logits, wanted = model(inputs).flatten(0, 1), labels.flatten()
                if stage.fixed:
                    loss = cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum") / num_tokens
                else:
                    loss = cross_entropy(logits, wanted, ignore_index=IGNORED) / len(batch)
                loss.backward()
                total += float(loss.detach())
            if step == 0:
                stage.keep("gradient", model[1].weight.grad)
            optimizer.step()
            stage.step(total)
    stage.keep("losses", stage.losses)


def _off(stage: Stage) -> float:
    whole = stage.kept["gradient in one piece"]
    return float((stage.kept["gradient"] - whole).norm() / whole.norm())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("gradient off by", _off(broken), "of its norm, fixed", _off(fixed))
    assert _off(broken) > 0.3
    assert _off(fixed) < 1e-5


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
