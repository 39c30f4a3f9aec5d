"""Data parallelism averages ranks, not tokens.

Symptom
    The same global batch trains differently on one rank and on several; a rank with few labelled tokens has as much
    say as one with many.
Cause
    Each rank takes the mean over its own tokens, and DDP takes the mean of the ranks' gradients.
Fix
    Divide the sum of a rank's losses by the tokens of all ranks, and multiply by the number of ranks, which DDP divides
    by.
Affected
    Trainers of transformers, ms-swift, fairseq and others on any version. By design of DDP, and live: two gloo ranks,
    torch's own DDP, nothing injected.
"""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="transformers",
    issue="34242",
    url="https://github.com/huggingface/transformers/issues/34242",
    family="gradient-accumulation",
    kind="by design",
    catalogue="E17-ddp-token-mean",
    found_by=None,
    missing="equivalences of the whole step",
)
VOCABULARY, WIDTH, STEPS, IGNORED = 32, 16, 4, -100
COUNTED = (120, 8)


def _global_batch() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(0, VOCABULARY, (2, 128))
    labels = tokens.roll(1, 1)
    for rank, counted in enumerate(COUNTED):
        labels[rank, counted:] = IGNORED
    return tokens, labels


def train(rank: int, stage: Stage) -> Tensor:
    net = torch.nn.Sequential(torch.nn.Embedding(VOCABULARY, WIDTH), torch.nn.Linear(WIDTH, VOCABULARY))
    net = stage.cast(net, torch.float32)
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with stage.watched(model, optimizer):
        for step in range(STEPS):
            tokens, labels = _global_batch()
            if step == 0:
                whole = cross_entropy(net(tokens).flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
                stage.keep("gradient on one rank", torch.autograd.grad(whole, net[1].weight)[0])
            logits, wanted = model(tokens[rank]), labels[rank]
            if stage.fixed:
                num_tokens = (wanted != IGNORED).sum()
                dist.all_reduce(num_tokens)
                loss = cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
                loss = loss * dist.get_world_size() / num_tokens
            else:
                loss = cross_entropy(logits, wanted, ignore_index=IGNORED)
            optimizer.zero_grad()
            loss.backward()
            if step == 0:
                stage.keep("gradient", net[1].weight.grad)
            optimizer.step()
            stage.step(loss)
    return net[1].weight.detach()


def play(stage: Stage) -> None:
    weights = run_ranks(train, 2, stage)
    stage.keep("weight", weights[0])
    stage.keep("drift", (weights[0] - weights[1]).abs().max())


def _off(stage: Stage) -> float:
    whole = stage.kept["gradient on one rank"]
    return float((stage.kept["gradient"] - whole).norm() / whole.norm())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("gradient off by", _off(broken), "of its norm, fixed", _off(fixed))
    assert _off(broken) > 0.3
    assert _off(fixed) < 1e-5
    assert broken.number("drift") == 0.0, "the replicas agree on the wrong gradient"


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
