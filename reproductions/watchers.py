"""What may watch a play: numguard's guard, and what people use without it."""

import math
from collections import deque
from typing import Any, Final

import torch
from torch import Tensor

import numguard
from numguard.finding import Finding


def _keep_only(finding: Finding) -> None:
    """Do nothing with a finding: the guard keeps it."""


class Guarded:
    """numguard's guard, exhaustive unless told otherwise.

    Parameters
    ----------
    options
        Of :func:`numguard.guard`.
    """

    def __init__(self, **options: Any) -> None:
        self._options = {"budget": None, "on_finding": _keep_only} | options
        self._guards: list[numguard.Guard] = []
        self.from_ranks: list[Finding] = []  # what the guards of other ranks found

    def enter(self, model: torch.nn.Module | None, optimizer: torch.optim.Optimizer | None) -> None:
        """Start a guard."""
        self._guards.append(numguard.guard(model, optimizer, **self._options).start())

    def step(self, loss: Tensor | float | None) -> None:
        """Hand the step on."""
        self._guards[-1].step(loss)

    def leave(self) -> None:
        """Stop the guard."""
        self._guards[-1].stop()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything found in all loops of the play, root causes first; what other ranks found last."""
        own = tuple(finding for guard in self._guards for finding in guard.findings)
        return (*own, *self.from_ranks)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings of severity ``error``."""
        return tuple(finding for finding in self.findings if finding.severity == "error")


class AnomalyMode:
    """``torch.autograd.detect_anomaly``: raises where backward returns a NaN."""

    def __init__(self) -> None:
        self._mode: Any = None

    def enter(self, model: torch.nn.Module | None, optimizer: torch.optim.Optimizer | None) -> None:
        """Switch the mode on."""
        self._mode = torch.autograd.set_detect_anomaly(True)

    def step(self, loss: Tensor | float | None) -> None:
        """Do nothing: the mode raises by itself."""

    def leave(self) -> None:
        """Switch it off."""
        self._mode.__exit__(None, None, None)


class FinitenessChecks:
    """What careful training scripts have: is the loss finite, and is every gradient and parameter?"""

    def __init__(self) -> None:
        self.alarms: list[int] = []
        self._step = 0
        self._tensors: list[Tensor] = []

    def enter(self, model: torch.nn.Module | None, optimizer: torch.optim.Optimizer | None) -> None:
        """Remember the parameters."""
        self._tensors = list(model.parameters()) if model is not None else []

    def step(self, loss: Tensor | float | None) -> None:
        """Look at the loss, the gradients and the parameters."""
        values = [torch.as_tensor(loss)] if loss is not None else []
        for parameter in self._tensors:
            values += [parameter.detach(), *([parameter.grad] if parameter.grad is not None else [])]
        if not all(bool(torch.isfinite(value).all()) for value in values):
            self.alarms.append(self._step)
        self._step += 1

    def leave(self) -> None:
        """Do nothing."""


class LossRule:
    """OLMo's SkipStep rule: a loss more than six standard deviations above the mean of the last 128.

    As published (OLMo-core, ``SkipStepOptimizer``: rolling window of 128, six sigma), looking at the loss only.
    """

    WINDOW: Final = 128
    SIGMAS: Final = 6.0

    def __init__(self) -> None:
        self.alarms: list[int] = []
        self._step = 0
        self._losses: deque[float] = deque(maxlen=self.WINDOW)

    def enter(self, model: torch.nn.Module | None, optimizer: torch.optim.Optimizer | None) -> None:
        """Do nothing."""

    def step(self, loss: Tensor | float | None) -> None:
        """Judge one loss."""
        value = math.nan if loss is None else float(torch.as_tensor(loss).detach())
        if len(self._losses) >= 2:
            losses = torch.tensor(self._losses, dtype=torch.float64)
            if value - float(losses.mean()) > self.SIGMAS * float(losses.std()):
                self.alarms.append(self._step)
        if loss is not None:
            self._losses.append(value)
        self._step += 1

    def leave(self) -> None:
        """Do nothing."""
