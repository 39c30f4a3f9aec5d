"""Gradient accumulation in bf16 forgets the micro-batches after the 256th.

Symptom
    The more micro-batches are accumulated for one update, the smaller the mean gradient gets: 1,000 equal ones count
    as 256. A weight that is used many times in one forward pass loses in the same way.
Cause
    AccumulateGrad adds each new gradient into .grad in .grad's own dtype. In bf16, 256 + 1 is 256.
Fix
    Accumulate into an fp32 buffer (main_grad) and cast once.
Affected
    torch 2.13, any device; issue 6351 of DeepSpeed is about the dtype of the accumulation. Live: nothing is emulated.
"""

import pytest
import torch

from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="DeepSpeed",
    issue="6351",
    url="https://github.com/deepspeedai/DeepSpeed/issues/6351",
    family="low-precision-accumulation",
    kind="by design",
    catalogue="L36-grad-accum-bf16",
    found_by=None,
    missing="equivalences of the whole step",
)
MICRO_BATCHES, WIDTH = 400, 4


def play(stage: Stage) -> None:
    model = stage.cast(torch.nn.Linear(WIDTH, 1), torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = stage.cast(torch.ones(1, WIDTH), torch.bfloat16)
    main_grad = torch.zeros(1, WIDTH, dtype=torch.promote_types(x.dtype, torch.float32))
    with stage.watched(model, optimizer):
        for _ in range(MICRO_BATCHES):
            loss = model(x).sum()
            loss.backward()
            if stage.fixed:
                assert model.weight.grad is not None
                main_grad += model.weight.grad
                model.weight.grad = None
        if not stage.fixed:
            assert model.weight.grad is not None
            main_grad.copy_(model.weight.grad)
        model.weight.grad = (main_grad / MICRO_BATCHES).to(model.weight.dtype)
        optimizer.step()
        stage.step(loss)
    stage.keep("accumulated", main_grad[0, 0])


def test_the_bug_shows(tell):
    broken = perform(play)
    tell("gradient of", MICRO_BATCHES, "micro-batches that each ask for 1:", broken.number("accumulated"))
    assert broken.number("accumulated") == 256


def test_the_fix_is_silent(silent):
    assert silent(play).number("accumulated") == MICRO_BATCHES
