"""The mean of a long packed sequence is 0.03 where every token is 1.

Symptom
    Pooling packed sequences with ``torch.segment_reduce`` in bf16 shrinks the long ones: the mean over 8,192 tokens of
    ones is 0.031, in fp16 it is 0.25, and in fp32 it is 0.5 for 2^25 tokens. Short sequences are right.
Cause
    One accumulator for each segment and column in the dtype of the data, added to in order. 256 + 1 is 256 in bf16.
Fix
    Accumulate in fp32 or wider and round once, as ``sum`` does.
Affected
    torch 2.13 on the CPU, bf16, fp16 and fp32. Live: nothing here is emulated.
"""

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="segment_reduce in bf16",
    url="https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/SegmentReduce.cpp",
    family="low-precision-accumulation",
    kind="live",
    catalogue="L14-segment-reduce",
    found_by="guard",
)
LENGTHS, WIDTH = (17, 300, 8192), 4


def play(stage: Stage) -> None:
    tokens = stage.cast(torch.ones(sum(LENGTHS), WIDTH), torch.bfloat16)
    lengths = torch.tensor(LENGTHS)
    with stage.watched():
        if stage.fixed:
            pooled = torch.segment_reduce(tokens.double(), "mean", lengths=lengths, axis=0).to(tokens)
        else:
            pooled = torch.segment_reduce(tokens, "mean", lengths=lengths, axis=0)
        stage.step()
    stage.keep("pooled", pooled[:, 0])


def test_the_bug_shows(tell):
    pooled = perform(play).kept["pooled"]
    tell("mean of ones over", LENGTHS, "tokens:", *pooled)
    assert pooled.tolist() == [1.0, pytest.approx(256 / 300, rel=2.0**-8), 256 / 8192]
    half = torch.segment_reduce(torch.ones(8192, dtype=torch.float16), "mean", lengths=torch.tensor([8192]))
    assert float(half) == 0.25


def test_numguard_finds_it(found):
    finding = found(play, kind="inaccurate_accumulation", op="segment_reduce")
    assert finding.ratio > 10.0


def test_the_fix_is_silent(silent):
    assert silent(play).kept["pooled"].tolist() == [1.0, 1.0, 1.0]
