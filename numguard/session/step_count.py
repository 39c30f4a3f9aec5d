"""Counts the optimizer's steps, to notice a loop that never tells the guard about its own."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

_PATIENCE: Final = 40  # steps of one optimizer without one of the guard: no accumulation takes that many


class StepCount:
    """Counts optimizer steps since the guard's last step.

    Parameters
    ----------
    optimizers
        Whose steps count; all of the process where none are known.
    before_update, after_update
        Called around the step of an optimizer that is the only one.
    """

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        before_update: Callable[[], None],
        after_update: Callable[[], None],
    ) -> None:
        self._optimizers, self._before_update, self._after_update = optimizers, before_update, after_update
        self._handles: list[RemovableHandle] = []
        self._since: Counter[int] = Counter()
        self._worst = 0
        self._said = False
        self.enabled = True  # not while the guard looks away: the steps then are nobody's, or a nested guard's

    def start(self) -> None:
        """Hook the optimizers."""
        for optimizer in self._optimizers:
            if hasattr(optimizer, "register_step_post_hook"):
                self._handles.append(optimizer.register_step_post_hook(self._count))
        if len(self._optimizers) == 1 and hasattr(self._optimizers[0], "register_step_pre_hook"):
            self._handles.append(self._optimizers[0].register_step_pre_hook(self._before))
        if not self._optimizers:
            self._handles.append(register_optimizer_step_post_hook(self._count))

    def stop(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before(self, *_: Any) -> None:
        if self.enabled and not torch.compiler.is_compiling():
            self._before_update()

    def _count(self, optimizer: Any, *_: Any) -> None:
        if not self.enabled:
            return
        if len(self._optimizers) == 1 and not torch.compiler.is_compiling():
            self._after_update()
        self._since[id(optimizer)] += 1
        self._worst = max(self._worst, self._since[id(optimizer)])

    def stepped(self) -> None:
        """Note that the guard was told of a step."""
        self._since.clear()

    def complaint(self) -> str | None:
        """Return once what is wrong, where many optimizer steps have passed unnoticed."""
        if self._said or self._worst < _PATIENCE:
            return None
        self._said = True
        return f"{self._worst} steps of an optimizer passed without a call of g.step()"
