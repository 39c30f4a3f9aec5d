"""clip_grad_norm_ clips a large gradient too little.

Symptom
    The total gradient norm that a run logs is about one percent low where one parameter is very large, and clipping
    lets through more than it was asked to.
Cause
    get_total_norm asks torch._foreach_norm for the norm of each parameter, which adds fp32 squares in one fp32
    accumulator for each vector lane.
Fix
    Norms of pieces of at most 2^20 elements, or fp64, then combined.
Affected
    torch up to 2.13 on the CPU, foreach and one tensor at a time. Live: nothing here is emulated.
"""

from pathlib import Path

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="169237 in clip_grad_norm_",
    url="https://github.com/pytorch/pytorch/issues/169237",
    family="clipping-norm",
    kind="live",
    catalogue="L02-clip-grad-norm-large",
    found_by="guard",
)
NUMEL = 1 << 26


def play(stage: Stage) -> None:
    weight = torch.nn.Parameter(stage.cast(torch.zeros(NUMEL), torch.float32))
    weight.grad = stage.cast(torch.rand(NUMEL) * 1e-3, torch.float32)
    stage.keep("right", weight.grad.double().square().sum().sqrt())
    with stage.watched():
        if stage.fixed:
            pieces = torch.stack([torch.linalg.vector_norm(piece.double()) for piece in weight.grad.split(1 << 18)])
            norm = torch.linalg.vector_norm(pieces)
            weight.grad.mul_(torch.clamp(0.1 / norm, max=1.0).to(weight.grad))
        else:
            norm = torch.nn.utils.clip_grad_norm_([weight], 0.1)
        stage.step()
    stage.keep("norm", norm)
    stage.keep("clipped", weight.grad.double().square().sum().sqrt())


def test_the_bug_shows(tell):
    broken = perform(play)
    tell("logged", broken.number("norm"), "right", broken.number("right"), "clipped to", broken.number("clipped"))
    assert broken.number("norm") < 0.999 * broken.number("right")
    assert broken.number("clipped") > 0.1001


def test_numguard_finds_it(found):
    finding = found(play, kind="inaccurate_accumulation", op="norm")
    assert Path(__file__).name in str(finding.location)


def test_the_fix_is_silent(silent):
    stage = silent(play)
    assert abs(stage.number("norm") / stage.number("right") - 1) < 1e-6
