"""The hooks on the optimizers: they count steps, tell where an update begins and ends, and keep watch between two.

A hook costs every step of the training some microseconds with cold caches, so there is one before an update and one
after it, whatever listens behind them.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from numguard.session.provenance import Provenance

_PATIENCE: Final = 40  # steps of one optimizer without one of the guard: no accumulation takes that many
_is_compiling = torch.compiler.is_dynamo_compiling


class UpdateHooks:
    """One hook before and one after each update of the optimizers, and the count of updates between two steps.

    Parameters
    ----------
    optimizers
        Whose steps count; all of the process where none are known.
    before_update, after_update
        Called around the step of an optimizer that is the only one, in armed steps.
    provenance
        Is told of every update, on optimizers that have hooks.
    """

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        before_update: Callable[[], None],
        after_update: Callable[[], None],
        provenance: Provenance,
    ) -> None:
        self._optimizers, self._before_update, self._after_update = optimizers, before_update, after_update
        self._provenance = provenance
        self._handles: list[RemovableHandle] = []
        self.is_only = len(optimizers) == 1
        self._since: Counter[int] = Counter()
        self._num_since = 0  # the same for the only one
        self._worst = 0
        self._excess = 0
        self._num_told = 0
        self.num_untold = 0  # steps of the guard that rested: it tells of them with the next one, for the only one
        self._said = False
        self.enabled = True  # not while the guard looks away: the steps then are nobody's, or a nested guard's
        self.is_armed = False  # whether the present step is: else nobody asks where the update begins and ends

    def start(self) -> None:
        """Hook the optimizers."""
        before, after = (self._before, self._after) if self.is_only else (self._provenance.before, self._after_one)
        for optimizer in self._optimizers:
            if hasattr(optimizer, "register_step_pre_hook") and (self.is_only or self._provenance.is_on):
                self._handles.append(optimizer.register_step_pre_hook(before))
            if hasattr(optimizer, "register_step_post_hook"):
                self._handles.append(optimizer.register_step_post_hook(after))
        if not self._optimizers:
            self._handles.append(register_optimizer_step_post_hook(self._count))

    def stop(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    # -- of the only optimizer ---------------------------------------------------------------------------------

    def _before(self, optimizer: Any, *_: Any) -> None:
        if _is_compiling():
            return
        if self.is_armed and self.enabled:
            self._before_update()
        if self._provenance.is_waiting:
            self._provenance.before(optimizer)

    def _after(self, optimizer: Any, *_: Any) -> None:
        if self.enabled:
            self._num_since += 1
        if _is_compiling():
            return
        if self.is_armed and self.enabled:
            self._after_update()
        provenance = self._provenance
        provenance.num_steps += 1
        if provenance.num_steps >= provenance.next_turn:
            provenance.take_turn(optimizer)

    # -- of several, and of unknown ones -----------------------------------------------------------------------

    def _after_one(self, optimizer: Any, *_: Any) -> None:
        self._count(optimizer)
        if not _is_compiling():
            self._provenance.num_steps += 1
            self._provenance.take_turn(optimizer)

    def _count(self, optimizer: Any, *_: Any) -> None:
        if self.enabled:
            self._since[id(optimizer)] += 1
            self._worst = max(self._worst, self._since[id(optimizer)])

    # -- answering ---------------------------------------------------------------------------------------------

    def stepped(self, number: int = 1) -> None:
        """Note that the guard was told of a step, or of none but those that rested."""
        number += self.num_untold
        self.num_untold = 0
        self._num_told += number
        if self.is_only:  # one of several may rightly make more steps than the other
            excess = self._num_since - number
            if excess > 0:
                self._excess += excess
                self._worst = max(self._worst, excess + 1)
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
        if at_end and self.num_untold:
            self.stepped(0)
        number = max(self._worst, self._num_since, self._excess)
        unheard = at_end and self._num_told == 0 and len(self._optimizers) > 0 and number > 1
        if self._said or (number < _PATIENCE and not unheard):
            return None
        self._said = True
        return f"{number} steps of an optimizer passed without a call of g.step()"
