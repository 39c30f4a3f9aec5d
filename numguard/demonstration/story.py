"""The demo's plot: train, break ``torch.sum`` half way, and train the second half once more on a healthy build."""

import copy
import importlib.util
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from types import ModuleType
from typing import Any, Final, Literal

import torch
from torch import Tensor

import numguard
from numguard.demonstration.broken_kernel import faulty_sum
from numguard.demonstration.chances import budget_for
from numguard.demonstration.corpus import standard_library_text
from numguard.finding import Finding

Fault = Literal["sum", "none"]
Phase = Literal["healthy", "faulty", "again"]
SCRIPT: Final = Path(__file__).with_name("training_script.py")
_TIMED_STEPS: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Telling:
    """How the story is told.

    Parameters
    ----------
    folder
        Where the script, the event log and the report go. It exists.
    num_steps
        Guarded steps, half of them before the fault.
    fault
        ``"sum"`` breaks ``torch.sum`` half way, ``"none"`` does not.
    seed
        Of the weights, of the order of the batches, and of what numguard checks.
    """

    folder: Path
    num_steps: int
    fault: Fault = "sum"
    seed: int = 0

    @property
    def planted_step(self) -> int:
        """First step with the faulty kernel."""
        return self.num_steps // 2

    @property
    def budget(self) -> float:
        """Share of step time that numguard gets."""
        return budget_for(self.num_steps - self.planted_step)

    def num_steps_of(self, phase: Phase) -> int:
        """Return the length of a phase in steps."""
        if phase == "healthy":
            return self.planted_step
        return self.num_steps - self.planted_step if phase == "faulty" or self.fault != "none" else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """What came of it.

    Parameters
    ----------
    losses
        Of the guarded run, one a step.
    healthy_losses
        The same without a fault: the second half was trained once more.
    findings
        Of the guard, root causes first.
    num_checks
        Checks that the guard made.
    share_spent
        Share of the run's time that the guard took.
    """

    losses: tuple[float, ...]
    healthy_losses: tuple[float, ...]
    findings: tuple[Finding, ...]
    num_checks: int
    share_spent: float

    @property
    def culprit(self) -> Finding | None:
        """The finding that names the planted fault: a wrong result of a sum, of one that the script wrote if there is.

        Backward sums the gradients of whatever was broadcast with the same kernel, and may be caught first.
        """
        wrong = [finding for finding in self.findings if finding.kind == "wrong_result" and "sum" in finding.op]
        return min(wrong, key=lambda finding: finding.phase == "backward", default=None)

    @property
    def faults(self) -> tuple[Finding, ...]:
        """Everything found that is more than a notice."""
        return tuple(finding for finding in self.findings if finding.severity != "notice")


def tell(telling: Telling, on_step: Callable[[Phase], None]) -> Story:
    """Train under guard, with the fault half way, and without either for comparison.

    Parameters
    ----------
    telling
        How.
    on_step
        Called after every step with the phase it belongs to.

    Raises
    ------
    UsageError
        This Python has no standard library to read.
    """
    training = _script_in(telling.folder).Training(_text(), telling.seed)
    losses: list[float] = []

    def train(first: int, last: int, phase: Phase, guard: numguard.Guard | None) -> None:
        for step in range(first, last):
            loss = training.step(step)
            if guard is not None:
                guard.step(loss)
            losses.append(float(loss))
            on_step(phase)

    guard = numguard.guard(
        training.model,
        training.optimizer,
        run_dir=telling.folder,
        budget=telling.budget,
        on_finding=lambda finding: None,
        seed=telling.seed,
    )
    with guard:
        train(0, telling.planted_step, "healthy", guard)
        checkpoint = _state(training)
        with faulty_sum() if telling.fault == "sum" else nullcontext():
            train(telling.planted_step, telling.num_steps, "faulty", guard)
    guarded, losses = losses, losses[: telling.planted_step]
    if telling.fault == "sum":
        training.model.load_state_dict(checkpoint["model"])
        training.optimizer.load_state_dict(checkpoint["optimizer"])
        train(telling.planted_step, telling.num_steps, "again", None)
    else:
        losses = guarded
    return Story(
        losses=tuple(guarded),
        healthy_losses=tuple(losses),
        findings=tuple(guard.findings),
        num_checks=guard.overhead.num_checks,
        share_spent=guard.overhead.share,
    )


def num_steps_within(seconds: float, *, least: int = 240, most: int = 4800) -> int:
    """Return how many steps a story may have that is to end in about ``seconds``, measured here and now.

    Parameters
    ----------
    seconds
        Time for the whole story: the guarded steps, what numguard takes of them, and half of the steps once more.
    least, most
        Limits of the answer. With fewer steps than the least, no budget would make 999 of 1,000 seeds find the fault.
    """
    with TemporaryDirectory() as folder:
        training = _script_in(Path(folder)).Training(_text(), 0)
        training.step(0)
        began = perf_counter()
        for step in range(_TIMED_STEPS):
            training.step(step)
        of_a_step = (perf_counter() - began) / _TIMED_STEPS
    return min(max(int(seconds / of_a_step / 1.75), least), most) // 2 * 2


def _text() -> Tensor:
    return torch.frombuffer(bytearray(standard_library_text()), dtype=torch.uint8)


def _state(training: Any) -> dict[str, Any]:
    return copy.deepcopy({"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()})


def _script_in(folder: Path) -> ModuleType:
    """Copy the training script into the folder and import it from there: its lines are the user's own to read."""
    path = Path(shutil.copyfile(SCRIPT, folder / "train.py"))
    spec = importlib.util.spec_from_file_location("numguard_demo_training", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
