"""vector_norm loses what a lane cannot hold: 11 % of the 1-norm of a large fp32 tensor.

Symptom
    The norm of a large fp32 gradient or weight on the CPU is too small, more so the larger the tensor; the logged
    gradient norm of a run is biased, and nobody notices because it is always biased the same way.
Cause
    The kernel keeps one fp32 accumulator for each vector lane, without the cascade that torch.sum uses. Once a lane
    holds 2^24 times what is added, additions are rounded away, always downwards.
Fix
    Cascade as torch.sum does, or accumulate in fp64.
Affected
    torch up to 2.13 on the CPU, issues 68326, 151761 and 169237. Live: nothing here is emulated.
"""

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="169237",
    url="https://github.com/pytorch/pytorch/issues/169237",
    family="reduction-accuracy",
    kind="live",
    catalogue="L01-norm-naive-fp32",
    found_by="guard",
)
NUMEL = 1 << 25


def play(stage: Stage) -> None:
    x = stage.cast(torch.rand(NUMEL) + 1, torch.float32)
    with stage.watched():
        norm = x.abs().sum() if stage.fixed else torch.linalg.vector_norm(x, 1)
        stage.step()
    stage.keep("norm", norm)
    stage.keep("right", x.double().sum())


def test_the_bug_shows(tell):
    broken = perform(play)
    error = broken.number("norm") / broken.number("right") - 1
    tell("1-norm", broken.number("norm"), "of", broken.number("right"), "relative error", error)
    assert error > 0.1 or error < -1e-3


def test_numguard_finds_it(found):
    finding = found(play, kind="inaccurate_accumulation", op="vector_norm")
    assert finding.forward_error is not None
    assert finding.forward_error > 1e6


def test_the_fix_is_silent(silent):
    stage = silent(play)
    assert abs(stage.number("norm") / stage.number("right") - 1) < 1e-5
