"""Attention reads what the mask hides.

Symptom
    NaN in sequences that are shorter than the longest of the batch, now and then, when the KV cache was allocated
    without being written: the padded positions are masked out, and poison the row all the same.
Cause
    A masked probability is exactly 0, and is still multiplied with the value behind it: 0 * inf is NaN. In the same
    way a NaN in a masked key stays NaN when -inf is added.
Fix
    Zero the padded keys and values.
Affected
    torch 2.13, all backends; issue 101967 was closed as intended. Live, but for what unwritten memory holds: an
    infinity is put there by hand.
"""

import math

import pytest
import torch
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="101967",
    url="https://github.com/pytorch/pytorch/issues/101967",
    family="non-finite",
    kind="by design",
    catalogue="L38-sdpa-masked-nan-leak",
    found_by="guard",
)
LENGTHS, WIDTH, UNWRITTEN = (6, 4), 8, math.inf


class Attention(torch.nn.Module):
    """Scores a batch of answers over a cache of prompts of different length."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.output = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        heads = torch.nn.functional.scaled_dot_product_attention(self.query(x), keys, values, attn_mask=mask)
        scores: Tensor = self.output(heads)
        return scores


def play(stage: Stage) -> None:
    model = stage.cast(Attention(), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    longest = max(LENGTHS)
    keys, values = (stage.cast(torch.zeros(len(LENGTHS), 1, longest, WIDTH), torch.float32) for _ in range(2))
    if not stage.fixed:
        values.fill_(UNWRITTEN)
    for row, length in enumerate(LENGTHS):
        keys[row, :, :length] = torch.randn(length, WIDTH)
        values[row, :, :length] = torch.randn(length, WIDTH)
    mask = torch.arange(longest) < torch.tensor(LENGTHS)[:, None]
    x = stage.cast(torch.randn(len(LENGTHS), 1, 3, WIDTH), torch.float32)
    with stage.watched(model, optimizer):
        for _ in range(2):
            loss = model(x, keys, values, mask[:, None, None, :].expand(-1, 1, 3, -1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("losses", torch.tensor(stage.losses))


def test_the_bug_shows(tell):
    broken = perform(play)
    tell("losses", broken.losses)
    assert math.isnan(broken.losses[0])


def test_numguard_finds_it(found):
    finding = found(play, kind="nonfinite", op="scaled_dot_product")
    assert finding.phase == "forward"


def test_the_fix_is_silent(silent):
    assert all(map(math.isfinite, silent(play).losses))
