"""A compiled Adam step corrects its bias with the step count of long ago.

Symptom
    A hand-written Adam trains as it should. Under torch.compile its updates grow from the third step on: after six
    steps the parameters have moved 0.0099 where 0.0060 is right, and no message tells why.
Cause
    The step count is read with ``.item()``, which breaks the graph. From the third step on Dynamo makes the number a
    symbol, and Inductor's code for ``addcdiv_(value=...)`` goes on to use the value that it was compiled with.
Fix
    Keep the count in tensor arithmetic, as capturable optimizers do; or ``dynamic=False``.
Affected
    torch 2.13 on the CPU, Inductor, static and automatic dynamic shapes; issue 185382 is closed. Live: nothing here is
    emulated. Found where the author put the compiled step beside the eager one with ``numguard.shadowed``.
"""

import pytest
import torch
from torch import Tensor

import numguard
from reproductions.compiler import compiler
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="185382",
    url="https://github.com/pytorch/pytorch/issues/185382",
    family="optimizer",
    kind="live",
    catalogue="L25-inductor-adam-graphbreak",
    found_by="guard",
    declared=True,
)
STEPS, RATE = 6, 1e-3


def adam_step(parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, count: Tensor) -> Tensor:
    """Update a parameter in place, as people write it."""
    count.add_(1)
    first.mul_(0.9).add_(gradient, alpha=0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    step = count.item()
    size = RATE / (1 - 0.9**step)
    return parameter.addcdiv_(first, (second.sqrt() / (1 - 0.999**step) ** 0.5).add_(1e-8), value=-size)


def capturable_adam_step(parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, count: Tensor) -> Tensor:
    """Update a parameter in place, the count being a tensor throughout."""
    count.add_(1)
    first.mul_(0.9).add_(gradient, alpha=0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    size = RATE / (1 - 0.9**count)
    return parameter.sub_(size * first / (second.sqrt() / (1 - 0.999**count).sqrt() + 1e-8))


def _in_float64(*tensors: Tensor) -> Tensor:
    return adam_step(*(tensor.double() for tensor in tensors))


def _bound(parameter: Tensor, *others: Tensor) -> Tensor:
    """Return a rounding of the parameter, and a thousandth of the update."""
    return 2.0**-23 * parameter.double().abs() + 1e-3 * RATE


def play(stage: Stage) -> None:
    parameter, gradient = (stage.cast(torch.randn(64), torch.float32) for _ in range(2))
    first, second, count = torch.zeros_like(parameter), torch.zeros_like(parameter), torch.zeros(())
    start, moved = parameter.clone(), []
    with compiler() as compiled, stage.watched():
        function = compiled(capturable_adam_step if stage.fixed else adam_step)
        if stage.watcher is not None:
            function = numguard.shadowed(reference=_in_float64, error_bound=_bound, share=1.0)(function)
        for _ in range(STEPS):
            function(parameter, gradient, first, second, count)
            stage.step()
            moved.append(float((parameter - start).abs().max()))
    stage.keep("moved", moved)
    stage.keep("parameter", parameter)


def test_the_bug_shows(tell):
    broken, fixed = perform(play).kept["moved"], perform(play, fixed=True).kept["moved"]
    tell("moved by", *broken, "| right", *fixed)
    # The same gradient in every step: every update is one learning rate.
    assert fixed.tolist() == pytest.approx([RATE * (step + 1) for step in range(STEPS)], rel=1e-3)
    assert broken[:2].tolist() == pytest.approx([RATE, 2 * RATE], rel=1e-3)
    assert float(broken[-1]) == pytest.approx(9.86e-3, rel=1e-2)


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="adam_step")
    assert finding.first_caught_step == 2


def test_the_fix_is_silent(silent):
    moved = silent(play).kept["moved"].tolist()
    assert moved == pytest.approx([RATE * (step + 1) for step in range(STEPS)], rel=1e-3)
