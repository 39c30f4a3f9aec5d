"""The gradient of a frequent token stops at 256.

Symptom
    In a bf16 model the embeddings of the most frequent tokens (newline, space, the first token) learn too slowly.
    Rare tokens are right, so the loss looks almost healthy.
Cause
    embedding_dense_backward adds each row straight into the bf16 row of the gradient. 256 + 1 is 256 in bf16 (2,048 in
    fp16).
Fix
    Accumulate each row in fp32 and round once.
Affected
    torch 2.13 on the CPU, eager, bf16 and fp16; compiled code is right. Live: nothing here is emulated.
"""

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="embedding gradient in bf16",
    url="https://github.com/pytorch/pytorch/pull/103427",
    family="low-precision-accumulation",
    kind="live",
    catalogue="L04-embedding-grad-bf16",
    found_by="guard",
)
TOKENS = 8192


def play(stage: Stage) -> None:
    embedding = stage.cast(torch.nn.Embedding(8, 4), torch.float32 if stage.fixed else torch.bfloat16)
    newline = torch.zeros(TOKENS, dtype=torch.long)
    with stage.watched(embedding):
        loss = embedding(newline).sum()
        loss.backward()
        stage.step()
    assert embedding.weight.grad is not None
    stage.keep("gradient", embedding.weight.grad[0, 0])


def test_the_bug_shows(tell):
    broken = perform(play)
    tell("gradient of a token that occurs", TOKENS, "times:", broken.number("gradient"))
    assert broken.number("gradient") == 256


def test_numguard_finds_it(found):
    finding = found(play, kind="inaccurate_accumulation", op="embedding_dense_backward")
    assert finding.phase == "backward"


def test_the_fix_is_silent(silent):
    assert silent(play).number("gradient") == TOKENS
