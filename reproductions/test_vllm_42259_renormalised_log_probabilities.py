"""Rollout log probabilities are those of the truncated distribution.

Symptom
    The importance ratio is below 1 at the very first step, where trainer and sampler are the same model.
Cause
    The sampler keeps the tokens that make up 90 % of the mass and normalises over these; the trainer takes the softmax
    over the whole vocabulary. Every ratio carries the logarithm of the mass that was kept.
Fix
    The same support on both sides.
Affected
    vLLM's processed_logprobs with TRL and verl (issue 42259). Emulated: both computations in plain torch.
"""

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="vLLM",
    issue="42259",
    url="https://github.com/vllm-project/vllm/issues/42259",
    family="rl-mismatch",
    kind="emulated",
    catalogue="E42-logprob-renorm",
    found_by=None,
    missing="training and inference compared",
)
TOKENS, VOCABULARY, MASS = 64, 500, 0.9


def play(stage: Stage) -> None:
    logits = stage.cast(torch.randn(TOKENS, VOCABULARY), torch.float32)
    with stage.watched():
        trainer = logits.log_softmax(-1)
        p, order = trainer.exp().sort(-1, descending=True)
        kept = torch.zeros_like(p, dtype=torch.bool).scatter(-1, order, p.cumsum(-1) <= MASS)
        rollout = trainer if stage.fixed else logits.masked_fill(~kept, -torch.inf).log_softmax(-1)
        best = logits.argmax(-1, keepdim=True)
        ratio = (trainer.gather(-1, best) - rollout.gather(-1, best)).exp()
        stage.step()
    stage.keep("ratio", ratio.mean())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("mean importance ratio at step 0:", broken.number("ratio"))
    assert broken.number("ratio") < MASS + 0.01
    assert fixed.number("ratio") == 1.0


def test_the_fix_is_silent(silent):
    assert silent(play).number("ratio") == 1.0
