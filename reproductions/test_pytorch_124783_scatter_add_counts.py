"""A counter of tokens stops at 16,777,216.

Symptom
    A router that keeps how many tokens every expert has had stops counting the busiest expert after 2^24 tokens. The
    shares that it balances by go on to favour the expert that looks no busier than before.
Cause
    fp32 cannot count beyond 2^24: 16,777,216 + 1 is 16,777,216. ``index_add_``, ``scatter_add``, ``bincount`` with
    weights, ``embedding_bag`` and the backward of ``gather`` add one number after the other into an fp32 slot.
Fix
    Count in int64, or in float64.
Affected
    torch 2.13 on the CPU and on CUDA; issue 124783 is open. Live: nothing here is emulated. Within one kernel call the
    error is inside the bound of fp32 additions in any order, which for so many terms bounds nothing; numguard finds it
    in what the router makes of the counters.
"""

import pytest
import torch
from torch import Tensor

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="124783",
    url="https://github.com/pytorch/pytorch/issues/124783",
    family="reduction-accuracy",
    kind="live",
    catalogue="L18-scatter-fp32-2p24",
    found_by="guard",
)
EXPERTS, TOKENS, STEPS = 4, 4096, 6
SO_FAR = 2**24 - TOKENS  # of the first expert, from the checkpoint


class Shares(torch.nn.Module):
    """The share of all tokens that every expert has had, kept up to date while training."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("counts", torch.tensor([SO_FAR, 2**20, 2**20, 2**20], dtype=dtype))

    def forward(self, experts: Tensor) -> Tensor:
        self.counts.index_add_(0, experts, torch.ones_like(experts, dtype=self.counts.dtype))
        return self.counts / self.counts.sum()


def play(stage: Stage) -> None:
    shares = stage.cast(Shares(torch.float64), torch.float64 if stage.fixed else torch.float32)
    with stage.watched(shares):
        for _ in range(STEPS):
            # A collapsed router: seven in eight tokens go to the first expert.
            experts = (torch.randint(0, 8, (TOKENS,)) - 4).clamp(min=0)
            share = shares(experts)
            stage.step()
    stage.keep("tokens", shares.counts)
    stage.keep("share", share)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("tokens of the first expert", broken.kept["tokens"][0], "right", fixed.kept["tokens"][0])
    assert float(broken.kept["tokens"][0]) == 2.0**24
    assert float(fixed.kept["tokens"].sum()) == SO_FAR + 3 * 2**20 + STEPS * TOKENS
    assert float(fixed.kept["tokens"][0]) > 2.0**24


def test_one_call_stops_there_too():
    count, ones = 2**24 + 2**20, torch.ones(2**24 + 2**20)
    slot = torch.zeros(count, dtype=torch.long)
    assert float(torch.zeros(1).scatter_add(0, slot, ones)) == 2.0**24
    assert float(torch.zeros(1).index_add(0, slot, ones)) == 2.0**24
    assert float(torch.bincount(slot, ones)) == 2.0**24
    assert float(ones.sum()) == count


def test_numguard_finds_it(found):
    finding = found(play, kind="unstable_region", module="Shares")
    assert finding.ratio > 8.0


def test_the_fix_is_silent(silent):
    assert float(silent(play).kept["tokens"][0]) > 2.0**24
