"""The output norm of a gated delta net has one weight and a different gradient on every tensor-parallel rank.

Symptom
    Training with tensor parallelism but without sequence parallelism is slightly worse; in checkpoints the copies of
    ``out_norm.weight`` differ between ranks, and which of them is saved is chance.
Cause
    Heads are divided over the ranks, and the norm's weight is shared by all heads: each rank's gradient is the sum
    over its own heads only. Such gradients were added over ranks only where sequence parallelism was on.
Fix
    All-reduce the gradient in the tensor-parallel group whenever heads are divided.
Affected
    Megatron-LM in September 2026. Emulated: the layer, a gated delta rule over two gloo ranks with two heads each,
    written again with the missing all-reduce; Megatron itself needs CUDA.
"""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="Megatron-LM",
    issue="7452",
    url="https://github.com/NVIDIA/Megatron-LM/issues/7452",
    family="collectives",
    kind="emulated",
    catalogue="E61-gdn-outnorm-tp",
    found_by=None,
    missing="agreement between ranks",
)
WIDTH, HEADS, SIZE, LENGTH, STEPS = 16, 4, 8, 6, 5


class Reduced(torch.autograd.Function):
    """The sum over ranks of partial results; its gradient is everybody's already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy


class GatedDeltaNet(torch.nn.Module):
    """This rank's heads of the layer."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        mine, heads = slice(rank * HEADS // 2, (rank + 1) * HEADS // 2), HEADS // 2
        self.queries = torch.nn.Parameter(torch.randn(HEADS, WIDTH, SIZE)[mine] / 4)
        self.keys = torch.nn.Parameter(torch.randn(HEADS, WIDTH, SIZE)[mine] / 4)
        self.values = torch.nn.Parameter(torch.randn(HEADS, WIDTH, SIZE)[mine] / 4)
        self.out = torch.nn.Parameter(torch.randn(HEADS, SIZE, WIDTH)[mine] / 4)
        self.gates = torch.nn.Parameter(torch.zeros(heads, 1))
        self.out_norm = torch.nn.RMSNorm(SIZE, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return this rank's part of the result for [batch, length, width]."""
        q, k, v = (torch.einsum("blw,hws->lbhs", x, w) for w in (self.queries, self.keys, self.values))
        k = k / k.norm(dim=-1, keepdim=True)
        keep = torch.sigmoid(self.gates + 2.0)[..., None]
        memory, read = x.new_zeros(x.shape[0], HEADS // 2, SIZE, SIZE), []
        for step in range(x.shape[1]):
            memory = keep * memory
            known = torch.einsum("bhvk,bhk->bhv", memory, k[step])
            memory = memory + torch.einsum("bhv,bhk->bhvk", 0.5 * (v[step] - known), k[step])
            read.append(torch.einsum("bhvk,bhk->bhv", memory, q[step]))
        return torch.einsum("blhs,hsw->blw", self.out_norm(torch.stack(read, 1)), self.out)


def train(rank: int, stage: Stage) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    model = stage.cast(GatedDeltaNet(rank), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    gradients = []
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            x = stage.cast(torch.randn(4, LENGTH, WIDTH), torch.float32)
            loss = (Reduced.apply(model(x)) - x.roll(1, 1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            assert model.out_norm.weight.grad is not None
            if stage.fixed:
                dist.all_reduce(model.out_norm.weight.grad)
            gradients.append(model.out_norm.weight.grad.clone())
            optimizer.step()
            stage.step(loss)
    return gradients[0], model.out_norm.weight.detach()


def play(stage: Stage) -> None:
    (gradient, weight), (others_gradient, others_weight) = run_ranks(train, 2, stage)
    stage.keep("first gradient of the norm", gradient)
    stage.keep("sum of both", others_gradient + gradient)
    stage.keep("drift", (weight - others_weight).abs().max())
    stage.keep("losses", stage.losses)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell(f"after {STEPS} steps the copies of out_norm.weight differ by", broken.number("drift"))
    assert broken.number("drift") > 1e-3
    assert fixed.number("drift") == 0.0
    torch.testing.assert_close(broken.kept["sum of both"], fixed.kept["first gradient of the norm"])


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
