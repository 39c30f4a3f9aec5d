"""softmax over the first dimension does not sum to 1 beyond 2^24 rows.

Symptom
    Probabilities over a very long first dimension sum to 2.
Cause
    The vectorised kernel for a dimension other than the last adds exp(x) in one fp32 accumulator, which stops at 2^24.
Fix
    A cascade, or fp64, for the sum.
Affected
    torch 2.13 on the CPU, fp32. Live: nothing here is emulated.
"""

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="softmax over dim 0",
    url="https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cpu/SoftMaxKernel.cpp",
    family="reduction-accuracy",
    kind="live",
    catalogue="L16-softmax-dim0-saturates",
    found_by="guard",
)
ROWS = 1 << 25


def play(stage: Stage) -> None:
    x = stage.cast(torch.zeros(ROWS, 2), torch.float32)
    with stage.watched():
        p = torch.softmax(x.t().contiguous(), 1).t() if stage.fixed else torch.softmax(x, 0)
        stage.step()
    stage.keep("total", p[:, 0].double().sum())


def test_the_bug_shows(tell):
    broken = perform(play)
    tell("the probabilities sum to", broken.number("total"))
    assert broken.number("total") == 2.0


def test_numguard_finds_it(found):
    found(play, kind="inaccurate_accumulation", op="softmax")


def test_the_fix_is_silent(silent):
    assert abs(silent(play).number("total") - 1) < 1e-6
