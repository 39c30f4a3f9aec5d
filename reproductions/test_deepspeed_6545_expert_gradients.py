"""Expert parallelism divides the experts' gradients by the wrong world size.

Symptom
    With ZeRO and expert parallelism the experts learn faster than the rest; with ``ep_size`` ranks their gradients are
    ``ep_size`` times too large.
Cause
    An expert sees the tokens of all data-parallel ranks. Its gradient is averaged over the ranks that hold a copy of it
    (the expert-data-parallel group), which are ``ep_size`` times fewer.
Fix
    Divide by the size of the data-parallel group.
Affected
    DeepSpeed before pull request 6546, Megatron FSDP. What is emulated: the averaging of gradients, written again. What
    is real: two gloo ranks with an expert each, tokens that are exchanged, a dense layer beside the experts.
"""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="DeepSpeed",
    issue="6545",
    url="https://github.com/deepspeedai/DeepSpeed/issues/6545",
    family="gradient-accumulation",
    kind="emulated",
    catalogue="E26-ds-ep-grad-scale",
    found_by=None,
    missing="equivalences of the whole step",
)
WIDTH, TOKENS, STEPS, EXPERT_RANKS = 16, 64, 10, 2


def _losses(dense: torch.nn.Module, experts: dict[int, torch.nn.Module], x: Tensor, num_tokens: int) -> Tensor:
    """Return the loss of the tokens that these experts get, divided by the tokens of one data-parallel rank."""
    total = torch.zeros((), dtype=x.dtype)
    for number, expert in experts.items():
        tokens = x[(x[:, 0] > 0).long() == number]
        total = total + (dense(tokens) + expert(tokens) - tokens.roll(1, 1)).square().mean(1).sum()
    return total / num_tokens


def train(rank: int, stage: Stage) -> dict[str, Tensor]:
    dense = stage.cast(torch.nn.Linear(WIDTH, WIDTH), torch.float32)
    every = [stage.cast(torch.nn.Linear(WIDTH, WIDTH), torch.float32) for _ in range(EXPERT_RANKS)]
    expert = every[rank]
    model = torch.nn.ModuleDict({"dense": dense, "expert": expert})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    data = torch.Generator().manual_seed(rank)
    data_ranks, copies = dist.get_world_size(), dist.get_world_size() // EXPERT_RANKS
    with stage.watched(model, optimizer):
        for step in range(STEPS):
            mine = stage.cast(torch.randn(TOKENS, WIDTH, generator=data), torch.float32)
            shards = [torch.empty_like(mine) for _ in range(data_ranks)]
            dist.all_gather(shards, mine)
            x = torch.cat(shards)
            if step == 0:
                whole = _losses(dense, dict(enumerate(every)), x, len(x))
                alone = torch.autograd.grad(whole, [dense.weight, expert.weight])
            loss = _losses(dense, {rank: expert}, x, TOKENS)
            optimizer.zero_grad()
            loss.backward()
            for parameter in dense.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= data_ranks
            for parameter in expert.parameters():
                parameter.grad /= data_ranks if stage.fixed else copies
            if step == 0:
                ratios = torch.stack(
                    [p.grad.norm() / g.norm() for p, g in zip([dense.weight, expert.weight], alone, strict=True)]
                )
            optimizer.step()
            stage.step(loss)
    return {"ratios": ratios, "expert": expert.weight.detach()}


def play(stage: Stage) -> None:
    results = run_ranks(train, 2, stage)
    stage.keep("dense", torch.stack([result["ratios"][0] for result in results]))
    stage.keep("experts", torch.stack([result["ratios"][1] for result in results]))
    stage.keep("weights", torch.stack([result["expert"] for result in results]))


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("gradients over those of one rank: dense", *broken.kept["dense"], "| experts", *broken.kept["experts"])
    torch.testing.assert_close(broken.kept["dense"], torch.ones(2))
    torch.testing.assert_close(broken.kept["experts"], torch.full((2,), float(EXPERT_RANKS)))
    torch.testing.assert_close(fixed.kept["experts"], torch.ones(2))


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
