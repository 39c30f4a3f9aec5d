"""The branch that torch.where does not take has a gradient, and it is NaN.

Symptom
    The loss is finite and right; after backward gradients are NaN, and after the step the weights are. The loss may
    never show it: where(p > 0, ...) takes the other branch for a NaN, and the log says 0.
Cause
    where(p > 0, p log p, 0) computes both branches. Backward multiplies the infinite derivative of log at 0 by the 0
    that where sends to the branch not taken, and 0 / 0 is NaN. sqrt(sum(x^2)) at x = 0 is the same trap.
Fix
    Make the argument harmless before the function: p log where(p > 0, p, 1). For norms torch.linalg.vector_norm.
Affected
    All versions and devices; issues 187297, 52248 and 23395 were closed as intended. Live: nothing here is emulated.
"""

import math

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="187297",
    url="https://github.com/pytorch/pytorch/issues/187297",
    family="non-finite",
    kind="by design",
    catalogue="L39-where-nan-grad",
    found_by="guard",
)
TOKENS, WIDTH, EXPERTS = 16, 8, 4


def play(stage: Stage) -> None:
    model = stage.cast(torch.nn.Linear(WIDTH, EXPERTS), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = stage.cast(torch.randn(TOKENS, WIDTH), torch.float32)
    with stage.watched(model, optimizer):
        for _ in range(3):
            gates = torch.relu(model(x))
            shares = gates / (gates.sum(-1, keepdim=True) + 1e-3)
            if stage.fixed:
                surprise = shares * torch.where(shares > 0, shares, 1.0).log()
            else:
                surprise = torch.where(shares > 0, shares * shares.log(), 0.0)
            loss = surprise.sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("losses", torch.tensor(stage.losses))
    stage.keep("weight", model.weight)


def test_the_bug_shows(tell):
    broken = perform(play)
    tell("losses", broken.losses, "| weights that are NaN:", broken.kept["weight"].isnan().double().mean())
    assert all(map(math.isfinite, broken.losses)), "nobody who looks at the loss sees it"
    assert bool(broken.kept["weight"].isnan().any())


def test_numguard_finds_it(found):
    finding = found(play, kind="nonfinite", op="aten::log")
    assert finding.first_caught_step == 0


def test_the_fix_is_silent(silent):
    assert bool(silent(play).kept["weight"].isfinite().all())
