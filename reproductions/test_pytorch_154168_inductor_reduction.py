"""A compiled mean past 2^32 elements adds some elements twice and others never.

Symptom
    ``torch.compile`` gives another mean, and another ``xor_sum``, than eager mode for very large tensors.
Cause
    Inductor splits a large reduction in two kernels. In the first, each program computes the indices of its part in 32
    bits; past the end of the index type they start again at the beginning.
Fix
    Decide for 64-bit indices by the size of the whole reduction, not by that of a split.
Affected
    PyTorch 2.7 on CUDA, fixed. What is emulated: the generated first and second kernel, in PyTorch operators, with an
    index of 16 bits so that 2^16 elements are enough. What is real: the training loop, a penalty on the square of the
    logits whose batch grows in step 1.
"""

import pytest
import torch
from torch import Tensor

import numguard
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="154168",
    url="https://github.com/pytorch/pytorch/issues/154168",
    family="index-overflow",
    kind="emulated",
    catalogue="E15-inductor-large-reduce",
    found_by="guard",
    declared=True,
)
INDICES = 2**16
LANES, SPLITS = 128, 32
VOCABULARY, WIDTH, STEPS, RAISED_IN = 256, 16, 2, 1


def _mean(x: Tensor, wide: bool) -> Tensor:
    return x.double().mean()


def _bound(x: Tensor, wide: bool) -> Tensor:
    """Return what additions in any order inside the kernels can cost: Higham, ASNA, 2nd ed., section 4.2."""
    num_roundings = x.numel() // (SPLITS * LANES) + LANES + SPLITS + 1
    return num_roundings * torch.finfo(x.dtype).eps * x.double().abs().mean()


@numguard.shadowed(reference=_mean, error_bound=_bound, share=1.0)
def compiled_mean(x: Tensor, wide: bool) -> Tensor:
    """Add up each split block by block in lanes, then the splits; ``wide`` has 64-bit indices."""
    block = torch.arange(x.numel() // SPLITS).view(-1, LANES)
    index = torch.arange(SPLITS)[:, None, None] * (x.numel() // SPLITS) + block
    if not wide:
        index = index % INDICES
    loaded = x.reshape(-1)[index]
    lanes = torch.zeros(SPLITS, LANES, dtype=x.dtype)
    for number in range(loaded.shape[1]):
        lanes = lanes + loaded[:, number]
    return lanes.sum(1).sum() / x.numel()


def play(stage: Stage) -> None:
    model = stage.cast(torch.nn.Linear(WIDTH, VOCABULARY), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with stage.watched(model, optimizer):
        for step in range(STEPS):
            tokens = 128 if step < RAISED_IN else 512
            x = torch.randn(tokens, WIDTH) * torch.linspace(0.5, 2.0, tokens)[:, None]
            y = torch.randint(0, VOCABULARY, (tokens,))
            logits = model(stage.cast(x, torch.float32))
            penalty = compiled_mean(logits.square(), stage.fixed)
            loss = torch.nn.functional.cross_entropy(logits, y) + 0.1 * penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            stage.step(loss)
    stage.keep("penalty", penalty)
    stage.keep("weight", model.weight)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("mean square of the logits:", broken.number("penalty"), "instead of", fixed.number("penalty"))
    assert broken.losses[:RAISED_IN] == fixed.losses[:RAISED_IN]
    assert abs(broken.number("penalty") / fixed.number("penalty") - 1.0) > 0.1


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="compiled_mean")
    assert finding.first_caught_step == RAISED_IN
    assert finding.severity == "warning", "the reference and the bound are the author's"


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
