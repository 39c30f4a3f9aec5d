"""A fused cross entropy rounds the probability before it subtracts one.

Symptom
    The better the model gets, the worse its gradient: on tokens that it predicts with 99.9 % it is 0, or wrong by a
    large share, and training pulls no more on what it almost knows.
Cause
    The kernel rounds p to bf16 and subtracts the one-hot target afterwards: p - 1 cancels, and of the digits that
    matter bf16 has kept none.
Fix
    Stay in fp32 until the gradient is stored.
Affected
    flash-linear-attention before pull request 1231; speculators (788) for p - q. Emulated: the two orders of rounding
    and subtraction, in a module that computes the gradient in its forward as such kernels do; the training loop around
    it is real. That p is rounded is the program's own decision, so numguard takes what is rounded as given; the
    module's declared form, ``softmax_cross_entropy_gradient``, says what it should return.
"""

import pytest
import torch
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="flash-linear-attention",
    issue="1231",
    url="https://github.com/fla-org/flash-linear-attention/pull/1231",
    family="loss",
    kind="emulated",
    catalogue="E45-p-minus-onehot-bf16",
    found_by="guard",
    declared=True,
)
CLASSES, STEPS = 16, 20


class FusedCrossEntropy(torch.nn.Module):
    """The gradient of the loss with respect to the logits, computed in the forward."""

    def __init__(self, stored: torch.dtype, rounds_early: bool) -> None:
        super().__init__()
        self.stored, self.rounds_early = stored, rounds_early

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return softmax(logits) - one_hot(targets), shape [rows, classes], as it is stored."""
        p = logits.softmax(-1)
        one_hot = torch.nn.functional.one_hot(targets, logits.shape[-1])
        if self.rounds_early:
            return p.to(self.stored) - one_hot.to(self.stored)
        return (p - one_hot).to(self.stored)


class Model(torch.nn.Module):
    """A table of logits by token, almost trained, with its loss."""

    def __init__(self, stored: torch.dtype, rounds_early: bool) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(9.0 * torch.eye(CLASSES) + 0.1 * torch.randn(CLASSES, CLASSES))
        self.loss = FusedCrossEntropy(stored, rounds_early)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and their gradient."""
        logits = self.logits[tokens]
        return logits, self.loss(logits.detach(), tokens)


def play(stage: Stage) -> None:
    stored = torch.float64 if stage.exact else torch.bfloat16
    model = stage.cast(Model(stored, rounds_early=not stage.fixed), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    tokens = torch.arange(CLASSES)
    with stage.watched(model, optimizer):
        for step in range(STEPS):
            logits, gradient = model(tokens)
            exact = logits.detach().double().softmax(-1).diagonal() - 1
            if step == 0:
                stage.keep("gradients of targets", gradient.diagonal())
                stage.keep("relative error", ((gradient.double().diagonal() - exact) / exact).abs().max())
            optimizer.zero_grad()
            logits.backward(gradient.to(logits.dtype))
            optimizer.step()
            stage.step(torch.nn.functional.cross_entropy(logits.detach(), tokens))
    stage.keep("logits of targets", model.logits.detach().diagonal().mean())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    off = broken.number("relative error")
    tell("gradient of a target's logit is off by", off, "of itself; fixed", fixed.number("relative error"))
    tell(
        "mean logit of the targets in the end:",
        broken.number("logits of targets"),
        "and",
        fixed.number("logits of targets"),
    )
    assert off > 0.9
    assert fixed.number("relative error") < 2.0**-7


def test_numguard_finds_it(found):
    finding = found(play, kind="unstable_region", module="loss", regions={"loss": "softmax_cross_entropy_gradient"})
    assert finding.ratio > 8.0


def test_the_fix_is_silent(silent):
    stage = silent(play, regions={"loss": "softmax_cross_entropy_gradient"})
    assert stage.number("relative error") < 2.0**-7
