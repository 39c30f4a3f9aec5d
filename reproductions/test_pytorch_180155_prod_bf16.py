"""The product of a thousand bf16 factors near 1 is a third too small.

Symptom
    A product of probabilities or of scales in bf16 comes out as 0.625 where 0.90 is right; cumprod of the same data is
    right.
Cause
    prod has no fp32 accumulator for bf16 on the CPU: every partial product is rounded to eight bits.
Fix
    Multiply in fp32 and round once, as cumprod does.
Affected
    torch 2.13 on the CPU, eager; issue 180155 is the closest report. Live: nothing here is emulated.
"""

from pathlib import Path

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="180155",
    url="https://github.com/pytorch/pytorch/issues/180155",
    family="low-precision-accumulation",
    kind="live",
    catalogue="L19-prod-bf16",
    found_by="guard",
)


def play(stage: Stage) -> None:
    x = stage.cast(torch.rand(1000) * 0.02 + 0.99, torch.bfloat16)
    with stage.watched():
        product = x.float().prod().to(x) if stage.fixed else x.prod()
        stage.step()
    stage.keep("product", product)
    stage.keep("right", x.double().prod())


def test_the_bug_shows(tell):
    broken = perform(play)
    tell("product", broken.number("product"), "right", broken.number("right"))
    assert broken.number("product") < 0.8 * broken.number("right")


def test_numguard_finds_it(found):
    finding = found(play, kind="inaccurate_accumulation", op="prod")
    assert Path(__file__).name in str(finding.location)


def test_the_fix_is_silent(silent):
    stage = silent(play)
    assert abs(stage.number("product") / stage.number("right") - 1) < 2.0**-8
