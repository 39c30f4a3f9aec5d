"""The norm of finite gradients overflows, and clipping zeroes every gradient.

Symptom
    One step with large but finite gradients: the norm is inf, all gradients become 0, the step does nothing, and no
    NaN ever appears.
Cause
    sqrt(sum(x^2)) squares before it scales: 1e20 squared is beyond fp32, so the norm is inf and the clip coefficient
    max_norm / inf is 0. The norm itself is representable.
Fix
    Scale by the largest magnitude before squaring, as LAPACK's nrm2 does.
Affected
    All versions and devices; pull request 194326 is open. Live: nothing here is emulated.
"""

from pathlib import Path

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="193006",
    url="https://github.com/pytorch/pytorch/pull/194326",
    family="clipping-norm",
    kind="live",
    catalogue="L03-norm-overflow-zero-grads",
    found_by="guard",
)


def play(stage: Stage) -> None:
    torch.manual_seed(3)
    model = stage.cast(torch.nn.Linear(8, 4), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    with stage.watched(model, optimizer):
        loss = (model(torch.ones(2, 8, dtype=model.weight.dtype)) * 1e20).sum()
        loss.backward()
        if stage.fixed:
            largest = torch.stack([p.grad.abs().max() for p in model.parameters()]).max()
            total = torch.sqrt(sum((p.grad / largest).square().sum() for p in model.parameters())) * largest
            for parameter in model.parameters():
                parameter.grad.mul_(torch.clamp(1.0 / total, max=1.0))
        else:
            total = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        stage.step(loss)
    stage.keep("norm", total)
    stage.keep("moved", (model.weight.detach() - before).abs().max())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("norm", broken.number("norm"), "right", fixed.number("norm"), "| largest update", broken.number("moved"))
    assert broken.number("norm") == float("inf")
    assert broken.number("moved") == 0.0
    assert fixed.number("moved") > 0.0


def test_numguard_finds_it(found):
    finding = found(play, kind="overflow", op="norm")
    assert Path(__file__).name in str(finding.location)


def test_the_fix_is_silent(silent):
    assert silent(play).number("norm") > 1e20
