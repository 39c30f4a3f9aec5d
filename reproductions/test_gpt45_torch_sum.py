"""A torch.sum that now and then reads behind its input: the bug of the GPT-4.5 run, reconstructed.

Symptom
    Weeks of unrelated trouble in one training run: a loss that jumps for one step and comes back, a NaN that nobody can
    repeat, data-parallel replicas whose weights drift apart. Each was looked at by itself.
Cause
    One rare, data-dependent path of ``torch.sum``. The public account (OpenAI, "Pre-training GPT-4.5", April 2025) says
    that a bug in ``torch.sum`` was behind many symptoms that had been taken for several bugs, and that it was found
    after months; it gives no kernel detail. The path here is a reconstruction: a vector tail that is loaded without
    its mask for some inputs, so that what lies behind the input in memory is added.
Fix
    Mask the tail on every path.
Affected
    The account names an upstream path that few models take. What is emulated: the kernel under ``aten::sum``, which
    reads behind its input within the same storage. What is real: everything above it, two replicas in one process, a
    ragged number of samples, buffers that are used again, gradients that are averaged and clipped.
"""

import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from numguard.testing import faulty_kernel
from numguard.testing.faults import KernelCall
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="OpenAI",
    issue="GPT-4.5's torch.sum",
    url="https://www.youtube.com/watch?v=6nJZopACRuQ",
    family="illegal-memory",
    kind="reconstruction",
    catalogue="GPT-4.5",
    found_by="guard",
)
STEPS, WIDTH, CAPACITY, LANES = 120, 16, 104, 16


def _tail(x: Tensor) -> int:
    return x.numel() % LANES


def _takes_the_path(arguments: dict[str, object]) -> bool:
    """Whether the tail's first element has four low zero bits: one input in 16, by chance of its data."""
    x = arguments["self"]
    assert isinstance(x, Tensor)
    if x.dtype is not torch.float32 or x.dim() != 1 or not x.is_contiguous() or not _tail(x):
        return False
    behind = x.untyped_storage().nbytes() // 4 - x.storage_offset() - x.numel()
    first = x.detach()[x.numel() - _tail(x)].view(torch.int32)
    return behind >= LANES - _tail(x) and int(first) & 15 == 0


def _reads_behind(call: KernelCall) -> None:
    """Add the lanes behind the input, as a load without its mask does."""
    x = call.arguments["self"].detach()
    behind = torch.as_strided(x, (LANES - _tail(x),), (1,), x.storage_offset() + x.numel())
    call.results[0].add_(behind.sum())


class Replica:
    """A model, its optimizer, and the buffers that it uses again in every step."""

    def __init__(self, rank: int) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, 4))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.random = torch.Generator().manual_seed(rank)
        # Sample weights; entropies, in memory that nothing has written yet; norms of the parameters, then counters that
        # every rank has for itself.
        self.weights = torch.zeros(CAPACITY + LANES)
        self.entropies = torch.full((CAPACITY + LANES,), math.nan)
        self.logged = 0.0
        self.norms = torch.cat([torch.zeros(4), torch.rand(LANES, generator=self.random)])

    def backward(self) -> Tensor:
        """Train on a shard of ragged size; return its loss."""
        n = int(torch.randint(80, CAPACITY, (), generator=self.random))
        x = torch.randn(n, WIDTH, generator=self.random)
        y = x[:, :4].argmax(1)
        self.weights[:n] = torch.rand(n, generator=self.random) + 0.5
        weights = self.weights[:n]
        logits = self.model(x)
        self.entropies[:n] = torch.distributions.Categorical(logits=logits.detach()).entropy()
        self.logged = float(torch.sum(self.entropies[:n])) / n
        losses = torch.nn.functional.cross_entropy(logits, y, reduction="none")
        loss = (losses * (weights / torch.sum(weights))).sum()
        self.optimizer.zero_grad()
        loss.backward()
        return loss.detach()

    def clip(self) -> None:
        """Scale the gradients to a norm of at most one half."""
        parameters = list(self.model.parameters())
        for place, parameter in enumerate(parameters):
            assert parameter.grad is not None
            self.norms[place] = parameter.grad.square().sum()
        norm = float(torch.sum(self.norms[: len(parameters)]).sqrt())
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.mul_(min(1.0, 0.5 / (norm + 1e-6)))


def play(stage: Stage) -> None:
    replicas = [Replica(rank) for rank in (0, 1)]
    first = replicas[0]
    bug = nullcontext() if stage.fixed else faulty_kernel("aten::sum", _reads_behind, when=_takes_the_path)
    drift, logged = [], []
    with bug, stage.watched(first.model, first.optimizer):
        for _ in range(STEPS):
            losses = [replica.backward() for replica in replicas]
            for pair in zip(*(replica.model.parameters() for replica in replicas), strict=True):
                mean = (pair[0].grad + pair[1].grad) / 2
                pair[0].grad.copy_(mean)
                pair[1].grad.copy_(mean)
            for replica in replicas:
                replica.clip()
                replica.optimizer.step()
            stage.step(losses[0])
            logged.append(first.logged)
            pairs = zip(*(replica.model.parameters() for replica in replicas), strict=True)
            drift.append(max(float((a - b).detach().abs().max()) for a, b in pairs))
    stage.keep("drift", drift)
    stage.keep("logged entropy", logged)
    stage.keep("losses", stage.losses)


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    apart = int((broken.kept["drift"] > 0).nonzero()[0])
    first_nan = int(broken.kept["logged entropy"].isnan().nonzero()[0])
    pairs = enumerate(zip(broken.losses, fixed.losses, strict=True))
    blip = next(step for step, (got, want) in pairs if abs(got - want) > 1e-2)
    tell("loss off in step", blip, "| replicas apart from step", apart, "| NaN in the log in step", first_nan)
    assert len({blip, apart, first_nan}) == 3, "the symptoms come at different times"
    assert float(fixed.kept["drift"].max()) == 0.0
    assert bool(fixed.kept["logged entropy"].isfinite().all())


def test_numguard_finds_it(found):
    finding = found(play, kind="wrong_result", op="aten::sum")
    assert finding.severity == "error"
    assert finding.cause is None, "the sum is the root, whatever else is reported"
    assert finding.location is not None
    line = Path(__file__).read_text(encoding="utf-8").splitlines()[int(finding.location.rpartition(":")[2]) - 1]
    assert "torch.sum(" in line


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
