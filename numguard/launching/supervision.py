"""A guard around a program that does not know of it."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

import numguard
from numguard.checks import select
from numguard.finding import Finding
from numguard.launching.ownership import living_optimizers, model_of
from numguard.launching.steps import StepFinder
from numguard.records import read_accepted

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What ``numguard.guard`` is called with.

    Parameters
    ----------
    run_dir, budget, checks, modules, skip, trend, reference, accept, capture, seed
        As in :func:`numguard.guard`.
    """

    run_dir: str | None = None
    budget: float | None = 0.01
    checks: Sequence[str] | None = None
    modules: Sequence[str] | None = None
    skip: Sequence[str] | None = None
    trend: str | None = None
    reference: str | None = None
    accept: str | None = None
    capture: str = "summary"
    seed: int = 0


class Supervisor:
    """Starts a guard at the end of a program's first training step and hands every later step to it.

    The first step tells which model is trained and by which optimizers; checks begin with the second. Whatever goes
    wrong in here is logged once and ends the supervision, never the program.

    Parameters
    ----------
    settings
        For the guard.

    Raises
    ------
    UsageError
        An option that does not exist or cannot be.
    InputError
        A file among the options is damaged.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._guard: numguard.Guard | None = None
        # Made once for nothing, so that a bad option is told before the program starts.
        self._make_guard(None, ())
        select(settings.checks, ())
        if settings.accept is not None:
            read_accepted(settings.accept)
        self._broken = False

    @property
    def findings(self) -> Sequence[Finding]:
        """Everything found so far."""
        return () if self._guard is None else tuple(self._guard.findings)

    @property
    def num_checks(self) -> int:
        """Checks made so far."""
        return 0 if self._guard is None else self._guard.coverage.num_checks

    def on_step(self, optimizer: Optimizer, loss: Tensor | None) -> None:
        """Take one step from a :class:`~numguard.launching.steps.StepFinder`."""
        if self._broken:
            return
        try:
            if self._guard is None:
                self._start()
            else:
                self._guard.step(loss)
        except Exception:
            self._broken = True
            _log.exception("numguard failed and has stopped watching; the training goes on without it")

    def _start(self) -> None:
        optimizers = living_optimizers()
        self._guard = self._make_guard(model_of(optimizers), optimizers)
        self._guard.start()

    def _make_guard(self, model: nn.Module | None, optimizers: Sequence[Optimizer]) -> numguard.Guard:
        settings = self._settings
        return numguard.guard(
            model,
            optimizers,
            run_dir=settings.run_dir,
            budget=settings.budget,
            checks=settings.checks,
            modules=settings.modules,
            skip=settings.skip,
            trend=settings.trend,
            reference=settings.reference,
            accept=settings.accept,
            capture=settings.capture,
            seed=settings.seed,
        )

    def close(self) -> None:
        """Stop the guard, which writes what is left."""
        if self._guard is None:
            return
        try:
            self._guard.stop()
        except Exception:
            _log.exception("numguard failed at the end of the run; what it had found before is kept")

    def supervise(self, run: Callable[[], None]) -> None:
        """Run a program to its end, under guard.

        Parameters
        ----------
        run
            From :func:`~numguard.launching.programs.prepare`. Whatever it raises passes through unchanged.
        """
        finder = StepFinder(self.on_step)
        process = os.getpid()
        try:
            with finder:
                run()
        finally:
            if os.getpid() == process:  # a forked child that comes out here as well has no guard of its own
                self.close()
                if os.environ.get("RANK", "0") == "0":
                    closing = _closing_line(finder, self.findings, self._settings.run_dir, self.num_checks)
                    print(closing, file=sys.stderr)


def _closing_line(finder: StepFinder, findings: Sequence[Finding], run_dir: str | None, num_checks: int) -> str:
    if finder.num_steps == 0:
        reason = (
            f"{finder.num_roots} backward passes, but no call of Optimizer.step" if finder.num_roots else "no training"
        )
        return f"numguard: nothing was checked: {reason} was seen; wrap the loop in numguard.guard instead"
    counts = [
        f"{sum(finding.severity == severity for finding in findings)} {severity}s" for severity in ("error", "warning")
    ]
    if num_checks == 0:
        counts.append("and nothing was checked")
    ranks = os.environ.get("WORLD_SIZE", "1")
    here = "" if ranks == "1" else f" on rank 0 of {ranks}"
    where = f"; numguard report {run_dir} shows them{' and those of all ranks' if here else ''}" if run_dir else ""
    return f"numguard: {finder.num_steps} steps, {', '.join(counts)}{here}{where}"
