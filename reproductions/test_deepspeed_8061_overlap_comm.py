"""The reduction reads its bucket before the gradients have been copied into it.

Symptom
    With ``overlap_comm`` the loss is a little different in every run, and sometimes NaN. Without it all is well.
Cause
    The reduction's stream waits for the current stream. Gradients that are copied into the bucket on another stream, as
    compiled code does, are not waited for: the reduction sends what the bucket held before, the gradients of the step
    before.
Fix
    Wait for every stream that writes to the bucket.
Affected
    DeepSpeed's ZeRO 1 and 2, GPT-NeoX. What is emulated: streams, as queues whose work is done when somebody waits for
    them or, by a throw of dice, in time by themselves. What is real: two gloo ranks that reduce one bucket, DeepSpeed's
    order of events, the training loop.
"""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reproductions.ranks import run_ranks
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="DeepSpeed",
    issue="8061",
    url="https://github.com/deepspeedai/DeepSpeed/issues/8061",
    family="race",
    kind="emulated",
    catalogue="E29-overlap-race",
    found_by=None,
    missing="equivalences of the whole step",
)
WIDTH, STEPS = 16, 15


class Stream:
    """Work that is done later, at the latest when somebody waits for it."""

    def __init__(self, dice: torch.Generator) -> None:
        self._queue: list[Callable[[], object]] = []
        self._dice = dice

    def launch(self, work: Callable[[], object]) -> None:
        """Queue work; nine times in ten it is done before anybody looks."""
        self._queue.append(work)
        if torch.rand((), generator=self._dice) < 0.9:
            self.wait()

    def wait(self) -> None:
        """Do all work that was queued."""
        for work in self._queue:
            work()
        self._queue.clear()


def train(rank: int, stage: Stage) -> dict[str, Tensor]:
    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, WIDTH))
    model = stage.cast(model, torch.float32)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.2)
    bucket = torch.zeros(sum(p.numel() for p in parameters), dtype=parameters[0].dtype)
    places = bucket.split([p.numel() for p in parameters])
    data = torch.Generator().manual_seed(rank)
    current, compiled = (Stream(torch.Generator().manual_seed(10 + 2 * rank + number)) for number in (0, 1))
    stale, agree = [], []
    with stage.watched(model, optimizer):
        for _ in range(STEPS):
            x = stage.cast(torch.randn(64, WIDTH, generator=data), torch.float32)
            loss = (model(x) - x.roll(1, 1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            for number, (parameter, place) in enumerate(zip(parameters, places, strict=True)):
                stream = compiled if number % 2 else current
                gradient = parameter.grad.flatten()
                stream.launch(lambda place=place, gradient=gradient: place.copy_(gradient))
            current.wait()
            if stage.fixed:
                compiled.wait()
            right = torch.cat([parameter.grad.flatten() for parameter in parameters])
            stale.append(int((bucket != right).any()))
            total = bucket.clone()
            dist.all_reduce(total)
            compiled.wait()
            for parameter, part in zip(parameters, total.split([p.numel() for p in parameters]), strict=True):
                parameter.grad.copy_(part.view_as(parameter) / dist.get_world_size())
            optimizer.step()
            stage.step(loss)
    agree.append(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    return {"stale": torch.tensor(stale), "weights": agree[-1]}


def play(stage: Stage) -> None:
    first, second = run_ranks(train, 2, stage)
    stage.keep("stale buckets", first["stale"] + second["stale"])
    stage.keep("weights", first["weights"])
    stage.keep("drift", (first["weights"] - second["weights"]).abs().max())


def test_the_bug_shows(tell):
    broken, fixed = perform(play), perform(play, fixed=True)
    steps = int((broken.kept["stale buckets"] > 0).sum())
    apart = (broken.kept["weights"] - fixed.kept["weights"]).abs().max()
    tell("steps with a stale bucket:", steps, "of", STEPS, "| weights off by", apart)
    assert 0 < steps < STEPS
    assert apart > 1e-3
    assert broken.number("drift") == 0.0, "the replicas agree on the wrong gradient"
    assert int(fixed.kept["stale buckets"].sum()) == 0


def test_the_fix_is_silent(silent):
    assert silent(play).num_steps == STEPS
