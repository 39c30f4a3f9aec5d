"""An all-reduce whose ranks bring different numbers of elements ends, with nonsense at the seams.

Symptom
    No hang and no error. The end of the reduced gradient, and the seam between the chunks of the ring, hold what
    belongs elsewhere; the replicas drift apart.
Cause
    Nobody compares sizes. Each rank divides its own buffer into chunks by its own count, and takes as many elements as
    it expects out of a slot of fixed size into which the neighbour has written as many as it has.
Fix
    Compare the counts of all ranks before (``TORCH_DISTRIBUTED_DEBUG=DETAIL`` does), and give all ranks one shape.
Affected
    NCCL (1417, 1394), whose small messages fit its slots. Emulated: a ring of two ranks with such slots, over gloo's
    send and receive, which would itself refuse; one rank has padded its vocabulary to 64, the other has 62.
"""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="NCCL",
    issue="1417",
    url="https://github.com/NVIDIA/nccl/issues/1417",
    family="collectives",
    kind="emulated",
    catalogue="E60-nccl-shape-mismatch",
    found_by=None,
    missing="agreement between ranks",
)
VOCABULARY, PADDED, WIDTH, STEPS, SLOT = 62, 64, 8, 4, 512


class Ring:
    """All-reduce over two ranks through slots of fixed size."""

    def __init__(self, rank: int, dtype: torch.dtype) -> None:
        self.rank, self.other = rank, 1 - rank
        self.outgoing, self.incoming = torch.zeros(SLOT, dtype=dtype), torch.zeros(SLOT, dtype=dtype)

    def exchange(self, chunk: Tensor) -> None:
        """Write a chunk to the neighbour's slot, beyond it what was there before."""
        self.outgoing[: len(chunk)] = chunk
        request = dist.isend(self.outgoing, self.other)
        assert request is not None
        dist.recv(self.incoming, self.other)
        request.wait()

    def all_reduce(self, x: Tensor) -> None:
        """Add in place: reduce-scatter, then all-gather."""
        chunks = x.view(-1).chunk(2)
        mine, others = chunks[self.rank], chunks[self.other]
        self.exchange(others)
        mine += self.incoming[: len(mine)]
        self.exchange(mine)
        others.copy_(self.incoming[: len(others)])


def train(rank: int, stage: Stage) -> Tensor:
    torch.manual_seed(0)
    rows = PADDED if stage.fixed or rank == 0 else VOCABULARY
    table = torch.randn(PADDED, WIDTH)[:rows]
    model = stage.cast(torch.nn.Embedding(rows, WIDTH, _weight=table.clone()), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=4.0)
    ring = Ring(rank, model.weight.dtype)
    target = stage.cast(torch.randn(VOCABULARY, WIDTH), torch.float32)
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            tokens = torch.randint(VOCABULARY, (2, 256))[rank]
            loss = (model(tokens) - target[tokens]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            assert model.weight.grad is not None
            ring.all_reduce(model.weight.grad)
            optimizer.step()
            stage.step(loss)
    return model.weight.detach()[:VOCABULARY].clone()


def play(stage: Stage) -> None:
    weight, others = run_ranks(train, 2, stage)
    drift = (weight - others).abs().amax(1)
    stage.keep("rows that drift", float((drift > 0).sum()))
    stage.keep("drift", drift.max())
    stage.keep("losses", stage.losses)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    tell(
        broken.number("rows that drift"),
        "of",
        VOCABULARY,
        "rows differ between the replicas, by up to",
        broken.number("drift"),
    )
    assert broken.number("drift") > 0.01
    assert fixed.number("drift") == 0.0


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
