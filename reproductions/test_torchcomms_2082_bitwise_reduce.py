"""A bitwise OR over ranks is a sum.

Symptom
    Ranks agree on flags, and the flags are wrong: where two ranks set the same bit, that bit is gone and its neighbour
    is set.
Cause
    The backend translates reduce operations with a switch; what its library has no operation for, the bitwise ones
    among it, falls through to the default, which is the sum.
Fix
    Raise for an operation that the library lacks; the caller gathers and combines.
Affected
    torchcomms before pull request 2082. Emulated: the translation with its default, above gloo, which itself knows
    both; two real ranks that agree on which experts had tokens, and skip the optimizer for the others.
"""

from functools import reduce

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="torchcomms",
    issue="2082",
    url="https://github.com/meta-pytorch/torchcomms/pull/2082",
    family="collectives",
    kind="emulated",
    catalogue="E59-bitwise-op-as-sum",
    found_by=None,
    missing="agreement between ranks",
)
EXPERTS, WIDTH, STEPS = 4, 8, 6
USED = (0b0001, 0b0001)  # on either rank all tokens go to expert 0
OPERATIONS = {dist.ReduceOp.SUM: "sum", dist.ReduceOp.MIN: "min", dist.ReduceOp.MAX: "max"}


def all_reduce(tensor: Tensor, op: dist.ReduceOp.RedOpType, refuses: bool) -> None:
    """Reduce with the library's operation for ``op``."""
    if refuses and op not in OPERATIONS:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor)
        tensor.copy_(reduce(torch.bitwise_or, parts))
        return
    name = OPERATIONS.get(op, "sum")
    dist.all_reduce(tensor, {"sum": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}[name])


def train(rank: int, stage: Stage) -> tuple[int, Tensor]:
    experts = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(EXPERTS))
    experts = stage.cast(experts, torch.float32)
    before = [expert.weight.detach().clone() for expert in experts]
    optimizer = torch.optim.SGD(experts.parameters(), lr=0.1)
    with stage.watched(experts, optimizer):
        for _ in range(STEPS):
            x = stage.cast(torch.randn(16, WIDTH), torch.float32)
            loss = (experts[0](x) - x.roll(1, 1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            flags = torch.tensor(USED[rank])
            all_reduce(flags, dist.ReduceOp.BOR, refuses=stage.fixed)
            for number, expert in enumerate(experts):
                if not int(flags) >> number & 1:
                    expert.zero_grad()
                for parameter in expert.parameters():
                    if parameter.grad is not None:
                        dist.all_reduce(parameter.grad)
            optimizer.step()
            stage.step(loss)
    moved = [(expert.weight - old).detach().norm() for expert, old in zip(experts, before, strict=True)]
    return int(flags), torch.stack(moved)


def play(stage: Stage) -> None:
    (flags, moved), (others_flags, _) = run_ranks(train, 2, stage)
    stage.keep("flags", [float(flags), float(others_flags)])
    stage.keep("expert 0 moved", moved[0])
    stage.keep("losses", stage.losses)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell(
        "0b0001 | 0b0001 =",
        *broken.kept["flags"],
        "; the expert that is used moves by",
        broken.number("expert 0 moved"),
    )
    assert broken.kept["flags"].tolist() == [2.0, 2.0]
    assert broken.number("expert 0 moved") == 0.0
    assert fixed.kept["flags"].tolist() == [1.0, 1.0]
    assert fixed.number("expert 0 moved") > 0.01


def test_the_fix_is_silent(silent):
    assert silent(play).losses[-1] < perform(play).losses[-1]
