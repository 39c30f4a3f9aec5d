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
        Called around the step of an optimizer that is the only one, in armed steps.
    """

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        before_update: Callable[[], None],
        after_update: Callable[[], None],
    ) -> None:
        self._optimizers, self._before_update, self._after_update = optimizers, before_update, after_update
        self._handles: list[RemovableHandle] = []
        self._is_only = len(optimizers) == 1
        self._since: Counter[int] = Counter()
        self._num_since = 0  # the same for the only one
        self._worst = 0
        self._excess = 0
        self._num_told = 0
        self._said = False
        self.enabled = True  # not while the guard looks away: the steps then are nobody's, or a nested guard's
        self.is_armed = False  # whether the present step is: else nobody asks where the update begins and ends

    def start(self) -> None:
        """Hook the optimizers."""
        for optimizer in self._optimizers:
            if hasattr(optimizer, "register_step_post_hook"):
                count = self._count_only if self._is_only else self._count
                self._handles.append(optimizer.register_step_post_hook(count))
        if self._is_only and hasattr(self._optimizers[0], "register_step_pre_hook"):
            self._handles.append(self._optimizers[0].register_step_pre_hook(self._before))
        if not self._optimizers:
            self._handles.append(register_optimizer_step_post_hook(self._count))

    def stop(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before(self, *_: Any) -> None:
        if not torch.compiler.is_dynamo_compiling() and self.is_armed and self.enabled:
            self._before_update()

    def _count_only(self, *_: Any) -> None:
        if self.enabled:
            if not torch.compiler.is_dynamo_compiling() and self.is_armed:
                self._after_update()
            self._num_since += 1

    def _count(self, optimizer: Any, *_: Any) -> None:
        if self.enabled:
            self._since[id(optimizer)] += 1
            self._worst = max(self._worst, self._since[id(optimizer)])

    def stepped(self) -> None:
        """Note that the guard was told of a step."""
        self._num_told += 1
        if self._is_only:  # one of several may rightly make more steps than the other
            if self._num_since > 1:
                self._excess += self._num_since - 1
                self._worst = max(self._worst, self._num_since)
            self._num_since = 0
        else:
            self._since.clear()

    def complaint(self, *, at_end: bool = False) -> str | None:
        """Return once what is wrong, where many optimizer steps have passed unnoticed.

        Parameters
        ----------
        at_end
            Whether no more steps will come: two of the guard's own optimizers without any of the guard are enough.
        """
        number = max(self._worst, self._num_since, self._excess)
        unheard = at_end and self._num_told == 0 and len(self._optimizers) > 0 and number > 1
        if self._said or (number < _PATIENCE and not unheard):
            return None
        self._said = True
        return f"{number} steps of an optimizer passed without a call of g.step()"
