"""Stochastic rounding saves the update, and weight decay is still lost in bf16.

Symptom
    Adam with bf16 weights and stochastic rounding learns, and its weight decay does nothing: weights without a
    gradient stay what they were, whatever ``weight_decay`` says.
Cause
    The decay ``p.mul_(1 - lr * wd)`` is a step of its own before the update. lr * wd is far below half the spacing of
    bf16 numbers, so the product is rounded back to p; only the update behind it is rounded stochastically.
Fix
    Decay in fp32, as part of the update that is rounded stochastically once.
Affected
    OneTrainer's Adam and AdamW (996, open). Emulated: those optimizers, written again; the product in bf16 is torch's
    own, and so are model and loop.
"""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="OneTrainer",
    issue="996",
    url="https://github.com/Nerogar/OneTrainer/issues/996",
    family="update-health",
    kind="emulated",
    catalogue="E63-bf16-weight-decay",
    found_by="guard",
)
TOKENS, RARE, WIDTH, STEPS, RATE, DECAY = 32, 8, 16, 120, 1e-3, 0.5


def round_stochastically_(target: Tensor, exact: Tensor) -> None:
    """Store fp32 values in bf16, up or down in proportion to what lies between."""
    if target.dtype != torch.bfloat16:
        target.copy_(exact)
        return
    noise = torch.randint(0, 2**16, exact.shape, dtype=torch.int32)
    bits = (exact.view(torch.int32) + noise).bitwise_and(-(2**16))
    target.copy_(bits.view(torch.float32))


class AdamW(torch.optim.Optimizer):
    """AdamW with stochastic rounding of the update."""

    def __init__(self, parameters: Iterable[Tensor], decays_in_fp32: bool) -> None:
        super().__init__(parameters, {})
        self.decays_in_fp32 = decays_in_fp32
        self.num_steps = 0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Decay and update every parameter."""
        self.num_steps += 1
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            wide = torch.promote_types(parameter.dtype, torch.float32)
            gradient = parameter.grad.to(wide)
            first = state.setdefault("exp_avg", torch.zeros_like(gradient)).lerp_(gradient, 0.1)
            second = state.setdefault("exp_avg_sq", torch.zeros_like(gradient))
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            size = (second / (1 - 0.999**self.num_steps)).sqrt() + 1e-8
            if self.decays_in_fp32:
                exact = parameter.to(wide) * (1 - RATE * DECAY)
            else:
                parameter.mul_(1 - RATE * DECAY)
                exact = parameter.to(wide)
            round_stochastically_(parameter, exact - RATE / (1 - 0.9**self.num_steps) * first / size)


def play(stage: Stage) -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(TOKENS, WIDTH), torch.nn.Linear(WIDTH, TOKENS, bias=False))
    torch.nn.init.ones_(model[0].weight)
    model = stage.cast(model, torch.bfloat16)
    optimizer = AdamW(model.parameters(), decays_in_fp32=stage.fixed)
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            tokens = RARE + torch.randperm(TOKENS - RARE)
            loss = torch.nn.functional.cross_entropy(model(tokens).float(), (tokens + 1) % TOKENS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("weights of unseen tokens", model[0].weight[:RARE].float().mean())
    stage.keep("loss", loss)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    expected = (1 - RATE * DECAY) ** STEPS
    tell(
        "weights of tokens that never occur, 1 at first:",
        broken.number("weights of unseen tokens"),
        "should be",
        expected,
    )
    assert broken.number("weights of unseen tokens") == 1.0
    assert fixed.number("weights of unseen tokens") == pytest.approx(expected, abs=0.01)


def test_numguard_finds_it(found):
    finding = found(play, kind="lost_updates", module="0")
    assert finding.evidence["share"] == 1.0, "of what the step of its own, the decay, writes to the weights"


def test_the_fix_is_silent(silent):
    assert silent(play).number("weights of unseen tokens") < 0.96
