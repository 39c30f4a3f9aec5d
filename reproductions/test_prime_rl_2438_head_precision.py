"""Training and inference compute log probabilities in different precision.

Symptom
    In reinforcement learning the importance ratio of a sequence that the trainer itself has just written is far from 1,
    and clips; training degrades slowly.
Cause
    One engine computes the last projection and the log-softmax in bf16, the other in fp32: 0.02 nats a token, which
    add up over the sequence.
Fix
    The last projection in fp32 on both sides.
Affected
    prime-rl (pull request 2438), Fast-LLM (525), TRL (4772). Emulated: both heads in plain torch, on the same hidden
    states and weights.
"""

import pytest
import torch
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="prime-rl",
    issue="2438",
    url="https://github.com/PrimeIntellect-ai/prime-rl/pull/2438",
    family="rl-mismatch",
    kind="emulated",
    catalogue="E41-lmhead-bf16-mismatch",
    found_by=None,
    missing="training and inference compared",
)
LENGTH, WIDTH, VOCABULARY = 256, 128, 2000


def _log_probabilities(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    return (hidden @ weight.mT).log_softmax(-1).gather(1, tokens[:, None])[:, 0]


def play(stage: Stage) -> None:
    hidden, weight = (
        torch.randn(LENGTH, WIDTH).bfloat16().float(),
        (torch.randn(VOCABULARY, WIDTH) / 8).bfloat16().float(),
    )
    tokens = torch.randint(0, VOCABULARY, (LENGTH,))
    engine = torch.float32 if stage.fixed else torch.bfloat16
    with stage.watched():
        rollout = _log_probabilities(stage.cast(hidden, engine), stage.cast(weight, engine), tokens)
        trainer = _log_probabilities(stage.cast(hidden, torch.float32), stage.cast(weight, torch.float32), tokens)
        stage.step()
    stage.keep("nats of a token", (rollout.double() - trainer.double()).abs().mean())
    stage.keep("log ratio of the sequence", (trainer.double() - rollout.double()).sum().abs())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell(
        "a token is off by",
        broken.number("nats of a token"),
        "nats, the sequence by",
        broken.number("log ratio of the sequence"),
    )
    assert broken.number("nats of a token") > 1e-3
    assert broken.number("log ratio of the sequence") > 0.05
    assert fixed.number("nats of a token") == 0.0


def test_the_fix_is_silent(silent):
    assert silent(play).number("nats of a token") == 0.0
