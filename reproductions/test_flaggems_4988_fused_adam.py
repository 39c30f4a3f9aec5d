"""A fused Adam kernel applies the decay of AdamW.

Symptom
    Adam with weight decay trains like AdamW: decay is not scaled by the second moment, and the moments never see it.
Cause
    The fused kernel multiplies the parameter by 1 - lr * weight_decay; Adam adds weight_decay * p to the gradient.
Fix
    g += weight_decay * p before the moments.
Affected
    FlagGems (issue 4988); bitsandbytes 2010 has the decay in the wrong order. Emulated: the rule of that kernel under
    aten::_fused_adam_; the training loop only calls torch.optim.Adam.
"""

from contextlib import nullcontext

import pytest
import torch

from numguard.testing import faulty_kernel
from numguard.testing.faults import KernelCall
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="FlagGems",
    issue="4988",
    url="https://github.com/flagos-ai/FlagGems/issues/4988",
    family="optimizer",
    kind="emulated",
    catalogue="E50-fused-adam-is-adamw",
    found_by="guard",
)
STEPS = 5


def _decoupled(call: KernelCall) -> None:
    """Write what a kernel with decoupled decay leaves in parameters and moments."""
    given = call.before
    for place, parameter in enumerate(given["self"]):
        gradient, rate, decay = given["grads"][place], given["lr"], given["weight_decay"]
        first = given["beta1"] * given["exp_avgs"][place] + (1 - given["beta1"]) * gradient
        second = given["beta2"] * given["exp_avg_sqs"][place] + (1 - given["beta2"]) * gradient.square()
        step = float(given["state_steps"][place])
        denominator = (second / (1 - given["beta2"] ** step)).sqrt() + given["eps"]
        moved = parameter * (1 - rate * decay) - rate / (1 - given["beta1"] ** step) * first / denominator
        call.arguments["self"][place].copy_(moved)
        call.arguments["exp_avgs"][place].copy_(first)
        call.arguments["exp_avg_sqs"][place].copy_(second)


def play(stage: Stage) -> None:
    model = stage.cast(torch.nn.Linear(16, 4), torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.5, fused=True)
    x = stage.cast(torch.randn(32, 16), torch.float32)
    kernel = nullcontext() if stage.fixed else faulty_kernel("aten::_fused_adam_", _decoupled)
    with kernel, stage.watched(model, optimizer):
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("weight", model.weight)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    apart = float((broken.kept["weight"] - fixed.kept["weight"]).abs().max())
    tell("after", STEPS, "steps the weights are off by", apart)
    assert apart > 1e-3


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="_fused_adam_")
    assert finding.phase == "optimizer"


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
