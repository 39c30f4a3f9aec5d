"""Training steps of a program that does not know of numguard, found by hooks on torch itself.

A step of training ends with the optimizer that leads: the first one that steps, or, when that one falls silent,
the first other one that steps twice in a row. Its loss is the sum of the scalar roots of all backward passes since
the step before, so that accumulated micro-batches, whose losses are already divided, add up to their mean.
"""

import functools
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary


class OnStep(Protocol):
    """What a finder calls at the end of every step."""

    def __call__(self, optimizer: Optimizer, loss: Tensor | None) -> None:
        """Take the leading optimizer and the detached loss, None where no backward pass had a scalar root."""


class StepFinder:
    """Calls ``on_step`` at the end of every training step while it is entered.

    Parameters
    ----------
    on_step
        Called with the leading optimizer and the loss. The loss is never read here: no synchronisation.

    Notes
    -----
    - A loss scaler's factor is taken out of the loss: the finder keeps the tensor that went into
      ``GradScaler.scale``. A step that the scaler skips because of an overflow ends like any other.
    - Inside one ``optimizer.step(closure)`` only the first root counts: the later ones of a line search are the same
      loss at other points.
    - A training loop that never calls ``Optimizer.step`` has no steps to find.
    """

    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step
        self._roots: list[Tensor] = []
        self._unscaled = WeakIdKeyDictionary()
        self._leader: weakref.ref[Optimizer] | None = None
        self._previous: weakref.ref[Optimizer] | None = None
        self._due: Optimizer | None = None
        self._backward_depth = 0
        self._step_depth = 0
        self._roots_at_step = 0
        self._handles: list[RemovableHandle] = []
        self._restore: list[Callable[[], None]] = []
        self.num_steps = 0
        self.num_roots = 0

    def __enter__(self) -> "StepFinder":
        self._handles = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        # Tensor.backward looks torch.autograd.backward up at call time: one wrapper covers both.
        self._wrap(torch.autograd, "backward", self._backward)
        self._wrap(torch.amp.GradScaler, "scale", self._scale)
        self._wrap(torch.amp.GradScaler, "step", self._scaler_step)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        for restore in reversed(self._restore):
            restore()
        self._handles, self._restore = [], []

    def _wrap(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return wrapper(original, *args, **kwargs)

        def restore() -> None:
            if getattr(owner, name) is wrapped:
                setattr(owner, name, original)

        setattr(owner, name, wrapped)
        self._restore.append(restore)

    def _backward(self, original: Callable[..., Any], tensors: Any, *args: Any, **kwargs: Any) -> Any:
        # Reentrant checkpoints call backward within backward, on CUDA from another thread: one depth for all.
        if self._backward_depth == 0:
            self._collect(tensors)
        self._backward_depth += 1
        try:
            return original(tensors, *args, **kwargs)
        finally:
            self._backward_depth -= 1
            if self._backward_depth == 0 and self._due is not None:
                optimizer, self._due = self._due, None
                self._end_step(optimizer)

    def _collect(self, tensors: Any) -> None:
        if self._step_depth > 0 and len(self._roots) > self._roots_at_step:
            return
        for root in (tensors,) if isinstance(tensors, Tensor) else tuple(tensors):
            if isinstance(root, Tensor) and root.numel() == 1:
                self.num_roots += 1
                loss = self._unscaled.get(root, root)  # type: ignore[no-untyped-call]
                self._roots.append(loss.detach().clone().reshape(()))

    def _scale(self, original: Callable[..., Any], scaler: torch.amp.GradScaler, outputs: Any) -> Any:
        scaled = original(scaler, outputs)
        if isinstance(outputs, Tensor) and scaled is not outputs:
            self._unscaled[scaled] = outputs.detach()
        return scaled

    def _scaler_step(
        self,
        original: Callable[..., Any],
        scaler: torch.amp.GradScaler,
        optimizer: Optimizer,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        before = self.num_steps
        result = original(scaler, optimizer, *args, **kwargs)
        skipped = self.num_steps == before and self._step_depth == 0 and self._roots
        if skipped and self._leader is not None and self._leader() is optimizer:
            self._end_step(optimizer)
        return result

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._step_depth == 0:
            self._roots_at_step = len(self._roots)
        self._step_depth += 1

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._step_depth = max(self._step_depth - 1, 0)
        if self._step_depth > 0:  # an optimizer that wraps another one
            return
        leader = None if self._leader is None else self._leader()
        again = self._previous is not None and self._previous() is optimizer
        self._previous = weakref.ref(optimizer)
        if leader is None or (again and leader is not optimizer):
            self._leader = self._previous
        elif leader is not optimizer:
            return
        if self._backward_depth > 0:
            # One optimizer for each parameter, stepping as gradients arrive: the step ends with the backward pass.
            self._due = optimizer
        else:
            self._end_step(optimizer)

    def _end_step(self, optimizer: Optimizer) -> None:
        roots, self._roots = self._roots, []
        self._roots_at_step = 0
        self.num_steps += 1
        # torch.sum is one of the operators under watch; a chain of additions is as good for a handful of scalars.
        self._on_step(optimizer, functools.reduce(_add, roots) if roots else None)


def _add(left: Tensor, right: Tensor) -> Tensor:
    return left.to(right.device) + right
