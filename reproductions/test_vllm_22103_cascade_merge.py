"""Cascade attention merges its two parts with the wrong weights.

Symptom
    With a shared prefix and several requests the model answers plausibly and wrongly: 55 % instead of 100 % on a
    retrieval task. One request alone is right.
Cause
    Attention over a shared prefix and over each suffix is computed apart; the parts are merged with the weights
    exp(lse_i - lse). The log-sum-exps of the prefix came in another layout than the merge read, so that every request
    was weighted with the sums of its neighbour.
Fix
    Read the log-sum-exps in the layout in which they are written.
Affected
    vLLM with FlashAttention 2 on sm_80 (issue 22103). Emulated: the split, the two partial attentions and the merge in
    plain torch, with the row index of the prefix sums off by one request. The merge is the user's own kernel here, as
    it was there, so it is shadowed with the attention over all keys.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import numguard
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="vLLM",
    issue="22103",
    url="https://github.com/vllm-project/vllm/issues/22103",
    family="attention",
    kind="emulated",
    catalogue="E40-cascade-lse-merge",
    found_by="guard",
    declared=True,
)
REQUESTS, PREFIX, SUFFIX, WIDTH = 6, 48, 8, 16


def _partial(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    scores = q @ k.mT / WIDTH**0.5
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def _whole(q: Tensor, k: Tensor, v: Tensor, rolled: int) -> Tensor:
    scores = torch.einsum("rqd,rkd->rqk", q.double(), k.double()) / WIDTH**0.5
    return torch.einsum("rqk,rkd->rqd", scores.softmax(-1), v.double())


def _bound(q: Tensor, k: Tensor, v: Tensor, rolled: int) -> float:
    """Scores are off by (d + 2) u of the sum of magnitudes; weights by twice that, their sums by the number of keys."""
    u = torch.finfo(q.dtype).eps / 2
    score = float((q.abs() @ k.abs().mT).max()) / WIDTH**0.5
    return 4 * u * ((WIDTH + 4) * score + k.shape[1] + 8) * float(v.abs().max())


@numguard.shadowed(reference=_whole, error_bound=_bound)
def cascade_attention(q: Tensor, k: Tensor, v: Tensor, rolled: int) -> Tensor:
    """Attend to [requests, keys, width] in two parts, a prefix that all share and a suffix each, and merge them."""
    prefix, prefix_sums = _partial(q, k[:, :PREFIX], v[:, :PREFIX])
    suffix, suffix_sums = _partial(q, k[:, PREFIX:], v[:, PREFIX:])
    share = torch.sigmoid(prefix_sums.roll(rolled, 0) - suffix_sums)[..., None]
    return share * prefix + (1 - share) * suffix


def play(stage: Stage) -> None:
    prefix = torch.randn(1, PREFIX, WIDTH).expand(REQUESTS, -1, -1)
    keys = stage.cast(torch.cat([prefix, torch.randn(REQUESTS, SUFFIX, WIDTH)], 1), torch.float32)
    queries = stage.cast(2 * torch.randn(REQUESTS, 1, WIDTH), torch.float32)
    with stage.watched():
        answers = cascade_attention(queries, keys, keys, 0 if stage.fixed else 1)
        stage.step()
    stage.keep("answers", answers)
    stage.keep("error", (answers.double() - _whole(queries, keys, keys, 0)).abs().max())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("largest error", broken.number("error"), "| with the right layout", fixed.number("error"))
    assert broken.number("error") > 0.1
    assert fixed.number("error") < 1e-5


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="cascade_attention")
    assert Path(__file__).name in str(finding.location)


def test_the_fix_is_silent(silent):
    assert silent(play).number("error") < 1e-5
