"""Where a bug is played: once broken, once fixed, once in float64, and under whatever watches it.

A reproduction is one function, ``play(stage)``: the setting in which users met the bug. It asks the stage whether it
is played ``fixed``, makes its tensors with :meth:`Stage.cast` where it has a precision of its own, runs its loop inside
:meth:`Stage.watched`, and keeps what its user relies on with :meth:`Stage.keep`. The same function then answers every
question of the museum: does the bug show, does numguard find it, is the fix silent, and what do other tools see.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

Movable = TypeVar("Movable", Tensor, torch.nn.Module)


class Watcher(Protocol):
    """Something that watches a training loop."""

    def enter(self, model: torch.nn.Module | None, optimizer: torch.optim.Optimizer | None) -> None:
        """Begin, before the first step."""

    def step(self, loss: Tensor | float | None) -> None:
        """Take the end of a step."""

    def leave(self) -> None:
        """End, after the last step or an exception."""


@dataclass(slots=True)
class Stage:
    """One performance of a play.

    Parameters
    ----------
    fixed
        Whether the described fix is in.
    exact
        Whether everything that :meth:`cast` is asked for is float64: the run that others would compare with.
    watcher
        What watches; None for nobody.
    """

    fixed: bool = False
    exact: bool = False
    watcher: Watcher | None = None
    losses: list[float] = field(default_factory=list)
    kept: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """Steps so far."""
        return len(self.losses)

    def cast(self, thing: Movable, dtype: torch.dtype) -> Movable:
        """Return a tensor or module in the precision that the play is about, or in float64 for the exact run."""
        wanted = torch.float64 if self.exact else dtype
        moved: Any = thing.to(wanted)
        return moved  # type: ignore[no-any-return]

    @contextmanager
    def watched(
        self, model: torch.nn.Module | None = None, optimizer: torch.optim.Optimizer | None = None
    ) -> Iterator[None]:
        """Run a training loop, or a bare computation, under the watcher."""
        if self.watcher is not None:
            self.watcher.enter(model, optimizer)
        try:
            yield
        finally:
            if self.watcher is not None:
                self.watcher.leave()

    def step(self, loss: Tensor | float | None = None) -> None:
        """End one step."""
        if self.watcher is not None:
            self.watcher.step(loss)
        self.losses.append(float("nan") if loss is None else float(loss.detach() if isinstance(loss, Tensor) else loss))

    def keep(self, name: str, value: Tensor | float | Sequence[float]) -> None:
        """Keep a result that the user relies on, as the play left it."""
        tensor = value.detach() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        self.kept[name] = tensor.clone()

    def number(self, name: str) -> float:
        """Return a kept result of one element."""
        return float(self.kept[name])


Play = Callable[[Stage], None]


def perform(play: Play, *, fixed: bool = False, exact: bool = False, watcher: Watcher | None = None) -> Stage:
    """Play once, from the same random state each time, and return the stage as it was left."""
    stage = Stage(fixed=fixed, exact=exact, watcher=watcher)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        play(stage)
    return stage
