"""Label smoothing counts the tokens that are to be ignored.

Symptom
    With ``label_smoothing`` the loss depends on how much padding is in the batch, and on what the model says there;
    the model is taught to be undecided about padding.
Cause
    The mask of the uniform term was applied only for an ``ignore_index`` of 0 or more. The default is -100, so the
    term was summed over all rows, and its mean taken over all rows.
Fix
    Mask the uniform term always, and divide it by the rows that count.
Affected
    PyTorch 1.10 and 1.11. Emulated: the old formula, written again as a loss module; the training loop is real. The
    formula is wrong in every precision, so numguard has to be told what is meant: a declared form of the loss.
"""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="73205",
    url="https://github.com/pytorch/pytorch/issues/73205",
    family="loss",
    kind="emulated",
    catalogue="E55-label-smooth-ignored",
    found_by="guard",
    declared=True,
)
VOCABULARY, WIDTH, LENGTH, STEPS = 16, 8, 32, 6


class SmoothedCrossEntropy(torch.nn.Module):
    """Cross entropy with label smoothing, as PyTorch composes it."""

    def __init__(self, smoothing: float, ignore_index: int, always_masks: bool) -> None:
        super().__init__()
        self.smoothing, self.ignore_index, self.always_masks = smoothing, ignore_index, always_masks

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of [rows, classes] logits."""
        log_p = logits.log_softmax(1)
        nll = torch.nn.functional.nll_loss(log_p, targets, ignore_index=self.ignore_index)
        uniform, num_rows = -log_p.sum(1), torch.tensor(len(targets))
        if self.always_masks or self.ignore_index >= 0:
            ignored = targets == self.ignore_index
            uniform = uniform.masked_fill(ignored, 0.0)
            num_rows = num_rows - ignored.sum() if self.always_masks else num_rows
        return (1 - self.smoothing) * nll + self.smoothing / logits.shape[1] * uniform.sum() / num_rows


def meant(state: Mapping[str, Any], logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy against the smoothed targets, over the rows that count: what the documentation says."""
    counted = targets != state["ignore_index"]
    log_p, classes = logits[counted].log_softmax(1), logits.shape[1]
    wanted = (1 - state["smoothing"]) * torch.nn.functional.one_hot(targets[counted], classes)
    return -((wanted + state["smoothing"] / classes) * log_p).sum(1).mean()


class Model(torch.nn.Module):
    """Predicts a token from the token before, and returns the loss."""

    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__()
        self.embedding, self.head = torch.nn.Embedding(VOCABULARY, WIDTH), torch.nn.Linear(WIDTH, VOCABULARY)
        self.loss = loss

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of [batch, length] tokens."""
        loss: Tensor = self.loss(self.head(self.embedding(tokens)).flatten(0, 1), targets.flatten())
        return loss


def play(stage: Stage) -> None:
    model = stage.cast(Model(SmoothedCrossEntropy(0.2, -100, always_masks=stage.fixed)), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    tokens = torch.randint(1, VOCABULARY, (4, LENGTH))
    tokens[:, LENGTH // 4 :] = 0  # padding
    targets = tokens.roll(1, 1).masked_fill(tokens == 0, -100)
    short = LENGTH // 4
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            loss = model(tokens, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("loss with padding", model(tokens, targets))
    stage.keep("loss without", model(tokens[:, :short], targets[:, :short]))
    stage.keep("gradient of padding", model.embedding.weight.grad[0].norm())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("loss of one batch:", broken.number("loss with padding"), "padded,", broken.number("loss without"), "cut")
    tell("gradient that padding gets:", broken.number("gradient of padding"))
    assert abs(broken.number("loss with padding") / broken.number("loss without") - 1) > 0.005
    assert broken.number("gradient of padding") > 1e-3
    assert fixed.number("loss with padding") == pytest.approx(fixed.number("loss without"), rel=1e-6)
    assert fixed.number("gradient of padding") == 0.0


def test_numguard_finds_it(found):
    finding = found(play, kind="unstable_region", module="loss", regions={"loss": meant})
    assert finding.first_caught_step == 0


def test_the_fix_is_silent(silent):
    assert silent(play, regions={"loss": meant}).num_steps == STEPS
