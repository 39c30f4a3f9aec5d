"""All data-parallel ranks drop the same elements, and each shuffles the data on its own.

Symptom
    None that a curve shows at once: more ranks average the noise of dropout away less than they should, and some
    samples are seen twice in an epoch, others never.
Cause
    The two seeds are the wrong way round. ``set_seed(constant)`` on every rank gives them equal dropout masks; a seed
    that depends on the rank goes to the sampler, whose permutation must be the same everywhere to be divided.
Fix
    Seed what is random per rank with seed + rank, the sampler with one seed for all.
Affected
    The Trainer of transformers with DDP (31412), LongLive (71). Emulated: only which seed goes where; two gloo ranks,
    torch's DDP, its dropout and its DistributedSampler are real.
"""

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="transformers",
    issue="31412",
    url="https://github.com/huggingface/transformers/issues/31412",
    family="determinism",
    kind="emulated",
    catalogue="E53-dropout-same-ranks",
    found_by=None,
    missing="equivalences of the whole step",
)
WIDTH, SAMPLES, BATCH, SEED = 16, 128, 16, 40


def train(rank: int, stage: Stage) -> tuple[Tensor, list[int]]:
    """Return what was dropped, and which samples were seen, in one epoch."""
    x = stage.cast(torch.randn(SAMPLES, WIDTH), torch.float32)
    net = torch.nn.Sequential(torch.nn.Linear(WIDTH, 64), torch.nn.Dropout(0.5), torch.nn.Linear(64, WIDTH))
    model = DistributedDataParallel(stage.cast(net, torch.float32))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dropped: list[Tensor] = []
    net[1].register_forward_hook(lambda module, args, result: dropped.append((result == 0).detach()))
    torch.manual_seed(SEED + rank if stage.fixed else SEED)
    sampler = DistributedSampler(range(SAMPLES), 2, rank, seed=SEED if stage.fixed else SEED + rank)
    seen = list(sampler)
    with stage.watched(model, optimizer):
        for batch in torch.tensor(seen).split(BATCH):
            loss = (model(x[batch]) - x[batch]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    return torch.stack(dropped), seen


def play(stage: Stage) -> None:
    (dropped, seen), (others_dropped, others_seen) = run_ranks(train, 2, stage)
    stage.keep("share of equal decisions", (dropped == others_dropped).double().mean())
    stage.keep("samples never seen", float(SAMPLES - len({*seen, *others_seen})))
    stage.keep("losses", stage.losses)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("elements that both ranks drop or both keep:", broken.number("share of equal decisions"), "instead of 0.5")
    tell("samples of", SAMPLES, "that nobody sees in an epoch:", broken.number("samples never seen"))
    assert broken.number("share of equal decisions") == 1.0
    assert broken.number("samples never seen") > SAMPLES / 8
    assert fixed.number("share of equal decisions") == pytest.approx(0.5, abs=0.05)
    assert fixed.number("samples never seen") == 0


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == SAMPLES // 2 // BATCH
