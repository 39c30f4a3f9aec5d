"""LayerNorm's gamma and beta gradients saturate in bf16.

Symptom
    A transformer in bf16 trains, but its LayerNorm weights move too little. The gradient of beta for 8,192 tokens that
    each ask for 1 comes out as 256 for each thread.
Cause
    The CPU kernel adds the rows of dgamma and dbeta into buffers of the gradient's own dtype. In bf16, 256 + 1 is 256:
    eight bits of significand, and the accumulator stops there.
Fix
    Accumulate in fp32 and round once, as the gradient with fp32 input does.
Affected
    torch 2.13 on the CPU, and versions before it. Live: nothing here is emulated.
"""

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="LayerNorm's bf16 bias gradient",
    url="https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cpu/layer_norm_kernel.cpp",
    family="normalization-backward",
    kind="live",
    catalogue="L07-layernorm-bias-grad-bf16",
    found_by="guard",
)
ROWS, WIDTH = 8192, 64


def play(stage: Stage) -> None:
    dtype = torch.float32 if stage.fixed else torch.bfloat16
    norm = stage.cast(torch.nn.LayerNorm(WIDTH), dtype)
    x = stage.cast(torch.randn(ROWS, WIDTH), dtype)
    with stage.watched(norm):
        loss = norm(x).sum()
        loss.backward()
        stage.step()
    assert norm.bias.grad is not None
    stage.keep("bias gradient", norm.bias.grad[0])


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("gradient of the bias:", broken.number("bias gradient"), "of", ROWS)
    assert fixed.number("bias gradient") == ROWS
    assert broken.number("bias gradient") == 256 * torch.get_num_threads()


def test_numguard_finds_it(found):
    finding = found(play, kind="inaccurate_accumulation", op="native_layer_norm_backward")
    assert finding.phase == "backward"


def test_the_fix_is_silent(silent):
    assert silent(play).number("bias gradient") == ROWS
