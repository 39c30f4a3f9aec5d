"""Whether a fully masked row of attention is NaN depends on whether anybody asks for the weights.

Symptom
    A model trains; switching on the logging of attention weights makes its loss NaN in the first batch that has a
    sequence of padding only.
Cause
    ``MultiheadAttention`` with ``need_weights=True`` takes the softmax of a row of -inf, which is 0 / 0. With
    ``need_weights=False`` it calls scaled_dot_product_attention, whose softmax returns zeros for such a row.
Fix
    The same safe softmax on both paths; until then, ``need_weights=False``.
Affected
    torch 2.13; issue 160064 is open. Live: nothing here is emulated.
"""

import pytest
import torch
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="160064",
    url="https://github.com/pytorch/pytorch/issues/160064",
    family="non-finite",
    kind="live",
    catalogue="L37-mha-need-weights-nan",
    found_by="guard",
)
BATCH, LENGTH, WIDTH, HEADS = 3, 6, 8, 2


class Classifier(torch.nn.Module):
    """Self-attention over a padded batch, pooled; it may keep its attention weights for a log."""

    def __init__(self, *, logs_weights: bool) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.head = torch.nn.Linear(WIDTH, 2)
        self.logs_weights = logs_weights

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        y, _ = self.attention(x, x, x, key_padding_mask=padding, need_weights=self.logs_weights)
        return self.head(y.mean(1))


def play(stage: Stage) -> None:
    model = stage.cast(Classifier(logs_weights=not stage.fixed), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lengths = torch.tensor([[4, 6, 2], [5, 3, 0]])  # the second batch has a sequence of padding only
    with stage.watched(model, optimizer):
        for step in range(2):
            x = stage.cast(torch.randn(BATCH, LENGTH, WIDTH), torch.float32)
            padding = torch.arange(LENGTH)[None, :] >= lengths[step][:, None]
            loss = torch.nn.functional.cross_entropy(model(x, padding), torch.tensor([0, 1, 0]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("losses", stage.losses)


def test_the_bug_shows(tell):
    broken, fixed = perform(play).losses, perform(play, fixed=True).losses
    tell("losses with the weights logged", *broken, "| without", *fixed)
    assert broken[0] == pytest.approx(fixed[0], rel=1e-5)
    assert broken[1] != broken[1]
    assert fixed[1] == fixed[1]


def test_numguard_finds_it(found):
    finding = found(play, kind="nonfinite", op="softmax", module="attention")
    assert finding.first_caught_step == 1


def test_the_fix_is_silent(silent):
    assert bool(silent(play).kept["losses"].isfinite().all())
