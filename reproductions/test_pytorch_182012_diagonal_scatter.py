"""The compiled gradient through diagonal_scatter is zero everywhere.

Symptom
    Compiled, a model whose diagonal is overwritten (an attention bias, a masked similarity matrix) does not train what
    feeds the matrix. The loss is right, and so is the gradient of the diagonal.
Cause
    Backward of a sum gives an expanded tensor, one number with strides of 0, and writes zeros on its diagonal. The
    functional operator makes a tensor of its own for that; the compiler took over the strides of the expanded one for
    the result, in which all elements are one, and the zeros of the diagonal overwrite it.
Fix
    The result of a scatter is contiguous, whatever it was made from.
Affected
    PyTorch 2.11 with Inductor on CUDA; 182012 and 182765, 180164 for slice_scatter; right in 2.13 on the CPU. Emulated:
    the lowering of ``diagonal_scatter`` with the strides of its input, as a pass over the backward graph that
    torch.compile hands to its backend; capture, autograd and the rest of the graph are torch's own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

from reproductions.compiler import compiler
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="182012",
    url="https://github.com/pytorch/pytorch/issues/182012",
    family="compile",
    kind="emulated",
    catalogue="E66-inductor-diag-scatter",
    found_by=None,
    missing="compiled regions",
)
NUM, WIDTH = 8, 4


def _lowered(x: Tensor, diagonal: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """Return ``diagonal_scatter`` as loops over a buffer with the strides of ``x``."""
    strides = x.stride()
    buffer = x.as_strided((1 + sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True)),), (1,)).clone()
    for place, value in enumerate(diagonal.unbind()):
        buffer[place * (strides[dim1] + strides[dim2])] = value
    return buffer.as_strided(x.shape, strides)


def _compiled(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.diagonal_scatter.default):
        node.target = _lowered
    graph.recompile()
    return graph.forward


class Similarity(torch.nn.Module):
    """How alike the rows are; a row is not compared with itself but with a learned score."""

    def __init__(self) -> None:
        super().__init__()
        self.project = torch.nn.Linear(WIDTH, NUM, bias=False)
        self.own = torch.nn.Parameter(torch.zeros(NUM))

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the scores of [num, width] rows."""
        return torch.diagonal_scatter(self.project(x), self.own).sum()


def play(stage: Stage) -> None:
    model = stage.cast(Similarity(), torch.float32)
    x = stage.cast(torch.rand(NUM, WIDTH), torch.float32)
    backend = "aot_eager" if stage.fixed else aot_autograd(fw_compiler=_compiled, bw_compiler=_compiled)
    with compiler(backend=backend) as compiled, stage.watched(model):
        loss = compiled(model)(x)
        loss.backward()
        stage.step(loss)
    eager = torch.autograd.grad(model(x), model.project.weight)[0]
    assert model.project.weight.grad is not None
    assert model.own.grad is not None
    stage.keep("gradient", model.project.weight.grad)
    stage.keep("eager gradient", eager)
    stage.keep("gradient of the diagonal", model.own.grad)
    stage.keep("loss", loss)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell("gradient's norm, compiled:", broken.kept["gradient"].norm(), "eager:", broken.kept["eager gradient"].norm())
    assert bool((broken.kept["gradient"] == 0).all())
    assert bool((broken.kept["gradient of the diagonal"] == 1).all())
    assert broken.number("loss") == fixed.number("loss")
    torch.testing.assert_close(fixed.kept["gradient"], fixed.kept["eager gradient"])


def test_the_fix_is_silent(silent):
    assert bool((silent(play).kept["gradient"] != 0).all())
