"""Tied embedding and head come apart.

Symptom
    Nothing at first. After a reload the loss jumps, because the two copies of what should be one matrix have drifted.
Cause
    Materialising a model from the meta device, or loading with assign=True, gives each parameter storage of its own;
    the alias between embedding and head is lost.
Fix
    Tie again after materialisation.
Affected
    lingua (pull request 75), verl (7834), NeMo Automodel (2511). Live code: PyTorch does what it is asked to; the
    missing line is the bug.
"""

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="lingua",
    issue="75",
    url="https://github.com/facebookresearch/lingua/pull/75",
    family="replica",
    kind="emulated",
    catalogue="E52-untied-weights",
    found_by=None,
    missing="equivalences of the whole step",
)
STEPS, TOKENS, WIDTH = 20, 16, 8


class Tied(torch.nn.Module):
    """An embedding and a head that share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = torch.nn.Embedding(TOKENS, WIDTH), torch.nn.Linear(WIDTH, TOKENS, bias=False)
        self.tie()

    def tie(self) -> None:
        """Make the two weights one."""
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits of the next token."""
        return self.head(self.embedding(tokens))


def play(stage: Stage) -> None:
    saved = {name: value.clone() for name, value in Tied().state_dict().items()}
    with torch.device("meta"):
        model = Tied()
    model.load_state_dict(saved, assign=True)
    if stage.fixed:
        model.tie()
    model = stage.cast(model, torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            tokens = torch.randint(0, TOKENS, (64,))
            loss = torch.nn.functional.cross_entropy(model(tokens), (tokens + 1) % TOKENS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("apart", (model.embedding.weight - model.head.weight).detach().abs().max())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("after", STEPS, "steps the tied weights differ by", broken.number("apart"))
    assert broken.number("apart") > 0.1
    assert fixed.number("apart") == 0.0


def test_the_fix_is_silent(silent):
    assert silent(play).number("apart") == 0.0
