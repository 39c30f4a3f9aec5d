"""logsumexp over no candidates is -inf, and its gradient is NaN.

Symptom
    A loss over sets of candidates (a CRF, a beam, a set of positives) leaves out the rows that have none, is finite,
    and makes the model NaN in the next step.
Cause
    The gradient of logsumexp is exp(x - result), and for a row of -inf that is exp(-inf + inf). The 0 that where sends
    back for the row left out does not help: 0 * NaN is NaN. logcumsumexp does the same for leading -inf.
Fix
    Give rows without candidates a harmless mask before the function, and leave them out after it.
Affected
    torch 2.13, any device. Live: nothing here is emulated.
"""

import math

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="logsumexp of an empty row",
    url="https://github.com/pytorch/pytorch/blob/v2.13.0/torch/csrc/autograd/FunctionsManual.cpp",
    family="non-finite",
    kind="by design",
    catalogue="L42-logsumexp-bwd-inf",
    found_by="guard",
)
ROWS, WIDTH, CANDIDATES = 6, 8, 5


def play(stage: Stage) -> None:
    model = stage.cast(torch.nn.Linear(WIDTH, CANDIDATES), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = stage.cast(torch.randn(ROWS, WIDTH), torch.float32)
    allowed = torch.rand(ROWS, CANDIDATES) > 0.3
    allowed[:, 0], allowed[2] = True, False  # row 2 has no candidate
    some = allowed.any(-1)
    mask = torch.zeros(allowed.shape, dtype=x.dtype).masked_fill(~allowed, -math.inf)
    if stage.fixed:
        mask = mask.masked_fill(~some[:, None], 0.0)
    with stage.watched(model, optimizer):
        for _ in range(3):
            totals = torch.logsumexp(model(x) + mask, -1)
            loss = torch.where(some, totals, 0.0).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("losses", torch.tensor(stage.losses))


def test_the_bug_shows(tell):
    broken = perform(play)
    tell("losses", broken.losses)
    assert math.isfinite(broken.losses[0])
    assert math.isnan(broken.losses[1])


def test_numguard_finds_it(found):
    finding = found(play, kind="nonfinite", op="aten::sub")
    assert finding.phase == "backward"
    assert finding.first_caught_step == 0


def test_the_fix_is_silent(silent):
    assert all(map(math.isfinite, silent(play).losses))
