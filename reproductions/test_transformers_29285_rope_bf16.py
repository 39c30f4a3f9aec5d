"""Rotary positions in bf16: 512 positions in a row are the same position.

Symptom
    A model cast with .bfloat16() or .half() is fine on short prompts and loses the thread on long ones; the attention
    between two tokens depends on where they stand, not only on how far apart they are.
Cause
    The cast takes the rotary buffers with it. bf16 counts to 256 and then in steps of 2, 4, 8, 16: neighbouring
    positions fall together, and the frequencies are rounded before they are multiplied with the position.
Fix
    Positions, frequencies and angles in fp32, whatever the model computes in.
Affected
    Any model whose buffers are cast, on any device: pull requests 29285 of transformers, 1016 of GPT-NeoX, 3520 of
    candle, issue 535 of Megatron-LM. Live arithmetic; the module is written here in the way these projects had it.
"""

import pytest
import torch
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="transformers",
    issue="29285 in rotary embeddings",
    url="https://github.com/huggingface/transformers/pull/29285",
    family="precision-cast",
    kind="by design",
    catalogue="L44-rope-bf16-positions",
    found_by="guard",
    declared=True,
)
POSITIONS, WIDTH, BASE = 4096, 64, 10_000.0


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def rotary(state: object, x: Tensor, positions: Tensor) -> Tensor:
    """Say what rotary embeddings are, for ``regions=``."""
    powers = torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1]
    return _turned(x, positions.to(torch.float64)[:, None] * BASE**-powers)


class Rotary(torch.nn.Module):
    """Turns pairs of features by an angle that grows with the position."""

    frequencies: Tensor

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed
        self.register_buffer("frequencies", BASE ** -(torch.arange(0, WIDTH, 2) / WIDTH), persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        if not self.fixed:
            return _turned(x, positions.to(x.dtype)[:, None] * self.frequencies)
        wide = torch.promote_types(x.dtype, torch.float32)
        frequencies = BASE ** -(torch.arange(0, WIDTH, 2, dtype=wide) / WIDTH)
        return _turned(x.to(wide), positions.to(wide)[:, None] * frequencies).to(x.dtype)


class Attention(torch.nn.Module):
    """Scores of every token with the one before it."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.query, self.key = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.rotary = Rotary(fixed)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        queries = self.rotary(self.query(x), positions)
        keys = self.rotary(self.key(x), positions)
        return (queries[1:] * keys[:-1]).sum(-1, dtype=torch.promote_types(x.dtype, torch.float32))


def play(stage: Stage) -> None:
    model = stage.cast(Attention(stage.fixed), torch.bfloat16)
    x = stage.cast(torch.randn(1, WIDTH).expand(POSITIONS, WIDTH), torch.bfloat16)  # the same token everywhere
    with stage.watched(model):
        scores = model(x, torch.arange(POSITIONS))
        stage.step(scores.mean())
    spread = (scores.max() - scores.min()) / scores.abs().mean()
    stage.keep("spread", spread)
    stage.keep("positions", float(torch.arange(POSITIONS).to(x.dtype).unique().numel()))


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell(
        "scores of equal neighbours differ by",
        broken.number("spread"),
        "times their mean, in fp32 by",
        fixed.number("spread"),
    )
    tell("positions that bf16 can tell apart:", broken.number("positions"), "of", POSITIONS)
    assert broken.number("spread") > 10 * fixed.number("spread")
    assert broken.number("positions") == 769


def test_numguard_finds_it(found):
    finding = found(play, kind="unstable_region", module="rotary", regions={"rotary": rotary})
    assert finding.forward_error is not None
    assert finding.forward_error > 0.1


def test_the_fix_is_silent(silent):
    assert silent(play, regions={"rotary": rotary}).number("spread") < 0.1
