"""The guard: puts the rooms together around one training loop, and does nothing else."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from time import perf_counter
from types import TracebackType
from typing import Any, Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from numguard.errors import FindingError, GuardStateError, UsageError
from numguard.finding import Finding
from numguard.interception.mailbox import Parcel
from numguard.report import plain_report, summarise
from numguard.session.coverage import Coverage
from numguard.session.nesting import entered, left
from numguard.session.options import GuardOptions, is_switched_off
from numguard.session.overhead import Overhead
from numguard.session.run import Run

log = logging.getLogger("numguard")

STATE_SCHEMA: Final = 1


class Guard:
    """Watches the numbers of one training loop. Made by :func:`numguard.guard`.

    Parameters
    ----------
    options
        Validated.
    model, optimizers
        What is trained; both may be missing.
    send
        Starts a copy from the device to the host; None picks by the device of the model.
    """

    def __init__(
        self,
        options: GuardOptions,
        *,
        model: torch.nn.Module | None,
        optimizers: Sequence[torch.optim.Optimizer],
        send: Callable[[Tensor], Parcel] | None = None,
    ) -> None:
        self._options, self._model, self._optimizers, self._send = options, model, tuple(optimizers), send
        self._off = is_switched_off()
        self._run: Run | None = None
        self._running = False
        self._thread = 0
        self._step = 0
        self._micro: list[Any] = []
        self._step_began = 0.0
        self._wake = 0
        self._suspended = 0
        self._suspended_since = 0.0
        self._paused_seconds = 0.0
        self._pauses = 0
        self._losses: Any = None  # what a later start goes on from

    # -- start and stop ----------------------------------------------------------------------------------------

    def start(self) -> "Guard":
        """Begin to watch; the same as entering the ``with`` block.

        Raises
        ------
        GuardStateError
            If the guard runs already.
        """
        if self._off:
            return self
        if self._running:
            raise GuardStateError("guard.start() was called twice; call guard.stop() first, or make a second guard")
        self._run = Run(self._options, self._model, self._optimizers, self._send)
        self._running, self._thread = True, threading.get_ident()
        entered(self)
        self._run.begin(self._step, self._losses)
        self._step_began = perf_counter()
        self._begin_step()
        return self

    def stop(self, reason: str = "stop") -> None:
        """Finish: read what is on its way, write what is left, and leave the loop as it was. May be called twice."""
        if not self._running:
            return
        self._running, self._wake = False, 0
        run = self._run
        if run is None:
            return
        try:
            run.arming.leave(at_end=True)
            with run.clock:
                run.catch_up(self._step_began)
            run.finish(self._step, reason)
            self._losses = run.losses.state()
        except Exception as error:
            run.health.failed(error)
        finally:
            left(self)  # last: the mode of a guard around this one goes on where ours was
        self._raise_if_asked()

    def __enter__(self) -> "Guard":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
            return
        try:
            self.stop(f"exception: {type(error).__name__}")
        except Exception as late:  # the user's exception goes first, ours or that of on_finding rides along
            error.add_note(f"numguard: {late if isinstance(late, FindingError) else f'on_finding= raised {late!r}'}")

    # -- the loop ----------------------------------------------------------------------------------------------

    def step(
        self,
        loss: Tensor | float | None = None,
        *,
        step: int | None = None,
        lr: float | None = None,
        tokens: int | None = None,
        grad_norm: Tensor | float | None = None,
        batch_id: str | int | None = None,
        loss_scale: float | None = None,
    ) -> None:
        """End one optimizer step and begin the next. Call it once per optimizer step.

        Parameters
        ----------
        loss
            The step's loss: a tensor of one element, which is never waited for, or a number. With gradient
            accumulation give the sum or the mean, or call :meth:`micro_step` for each part.
        step
            Number of the step that has ended, where the loop counts by itself (after a restart, say).
        lr, tokens, grad_norm, batch_id, loss_scale
            Recorded beside the loss, and told to the detectors that watch it: they know then which changes the
            learning rate explains, where the run is in a trend along tokens (seen so far), and which batch is hard
            (:func:`numguard.detectors.batch_order_hash`).

        Raises
        ------
        GuardStateError
            Outside the block, or from another thread than the one that started the guard.
        FindingError
            With ``on_finding="raise"``, for a finding of severity ``error``.
        UsageError
            If the loss has more than one element, or is neither a tensor nor a number.
        """
        run = self._run
        if (
            self._step + 1 < self._wake
            and step is None
            and loss.__class__ is Tensor
            and grad_norm is lr is tokens is batch_id is loss_scale is None
            and not self._micro
            and threading.get_ident() == self._thread
            and run is not None
            and run.rest(loss)
        ):
            self._step += 1
            return
        if self._off:
            return
        self._check_place("step")
        if run is None or self._suspended:
            return
        began = perf_counter()
        loss = self._whole_loss(loss)
        loss = None if loss is None else _checked_number(loss, "loss")
        number = self._step if step is None else _checked_step(step)
        extra: dict[str, Any] = {"lr": lr, "tokens": tokens, "grad_norm": grad_norm, "loss_scale": loss_scale}
        for name, given in extra.items():
            if given is not None:
                extra[name] = _checked_number(given, name)
        extra["batch_id"] = batch_id
        try:
            armed = run.arming.leave()
            with run.clock:
                self._step_began = run.catch_up(self._step_began)
                run.end_step(number, loss, began - self._step_began - self._paused_seconds, armed, extra)
                run.poll(number + 1)
        except Exception as error:  # ours: training goes on
            run.health.failed(error)
        self._step, self._step_began, self._paused_seconds = number + 1, began, 0.0
        self._raise_if_asked()
        self._begin_step()

    def _begin_step(self) -> None:
        run, self._wake = self._run, 0
        if run is None or self._pauses:
            return
        try:
            self._wake = run.begin_step(self._step)
        except Exception as error:
            run.health.failed(error)

    def _check_place(self, method: str) -> None:
        if not self._running:
            raise GuardStateError(
                f"guard.{method}() was called outside the guarded block; call it inside "
                "`with numguard.guard(...) as g:`, or between g.start() and g.stop()"
            )
        if threading.get_ident() != self._thread:
            raise GuardStateError(
                f"guard.{method}() was called from another thread than the one that started the guard, which sees "
                f"only its own thread; start a guard in this thread, or call {method}() from the other"
            )

    def micro_step(self, loss: Tensor | float) -> None:
        """Note the loss of one part of an accumulated step; the next :meth:`step` uses their mean."""
        if self._off:
            return
        self._check_place("micro_step")
        if not self._suspended:
            part = _checked_number(loss, "loss", "micro_step")
            self._micro.append(part.detach() if isinstance(part, Tensor) else part)

    def _whole_loss(self, loss: Tensor | float | None) -> Tensor | float | None:
        parts, self._micro = self._micro, []
        if loss is None and parts:
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            loss = total / len(parts)
        return loss

    def _raise_if_asked(self) -> None:
        run = self._run
        if run is None:
            return
        for finding in run.take_new():
            wanted = self._options.on_finding
            if wanted == "raise":
                if finding.severity == "error":
                    raise FindingError(finding)
            elif callable(wanted):
                wanted(finding)

    # -- on request --------------------------------------------------------------------------------------------

    def arm(self, steps: int = 5) -> None:
        """Check every call of the next steps, whatever the budget; what it costs is reported apart.

        Parameters
        ----------
        steps
            How many, from the next step on.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise UsageError(f"guard.arm({steps!r}): give the number of steps, at least 1")
        if self._off:
            return
        self._check_place("arm")
        if self._run is not None:
            self._run.burst(self._step, steps, "g.arm")
            self._wake = 0

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Look away inside the block, for an evaluation between two steps."""
        run = self._run
        if not self._running or run is None or self._pauses or self._suspended:
            yield
            return
        began, self._wake = perf_counter(), 0
        self._pauses += 1
        run.pause(self._step)
        try:
            yield
        finally:
            self._pauses -= 1
            if self._running and not self._suspended:
                run.resume(self._step)
            self._paused_seconds += perf_counter() - began

    def expect_write(self, params: Iterable[Tensor] | None = None) -> None:
        """Say that you write to parameters yourself before the optimizer's next step: that is then no finding.

        Parameters
        ----------
        params
            Parameters, moments or buffers that are written, for an average that is swapped in, clamping, loading;
            None for any.
        """
        if self._run is not None and self._running:
            self._run.provenance.expect_write(params)

    def present(self) -> tuple[Run, int] | None:
        """Return the run and the number of the step for a check on demand, or None where the guard looks away."""
        run = self._run
        if run is None or not self._running or self._pauses or self._suspended:
            return None
        self._wake = 0  # the step has something to enter at its end: findings, and what they cost
        return run, self._step

    def suspend(self) -> None:
        """Look away until :meth:`resume`: a nested guard calls this on the outer one."""
        self._suspended += 1
        self._wake = 0
        if self._run is not None and self._running and self._suspended == 1 and not self._pauses:
            self._run.pause(self._step)
            self._suspended_since = perf_counter()

    def resume(self) -> None:
        """Look again after :meth:`suspend`; time between the two does not count."""
        self._suspended -= 1
        if self._run is not None and self._running and self._suspended == 0 and not self._pauses:
            self._run.resume(self._step)
            self._paused_seconds += perf_counter() - self._suspended_since

    def abandon(self) -> None:
        """In a forked child: let go of everything without writing anything."""
        self._running, self._wake = False, 0
        if self._run is not None:
            self._run.abandon()

    # -- results -----------------------------------------------------------------------------------------------

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything found so far, root causes first. Also after the block."""
        return self._run.casebook.findings if self._run is not None else ()

    @property
    def coverage(self) -> Coverage:
        """What was checked so far, and what was not."""
        return self._run.coverage() if self._run is not None else Coverage.empty()

    @property
    def overhead(self) -> Overhead:
        """What it has cost so far."""
        return self._run.overhead() if self._run is not None else Overhead()

    @property
    def lost_updates(self) -> dict[str, float]:
        """Share of the optimizer's updates that rounding has swallowed, by module, over the present window.

        Measured on the checked optimizer calls after the first 100 steps; empty before. Reading it waits for an
        accelerator.
        """
        return self._run.updates.shares() if self._run is not None else {}

    @property
    def hashed_share(self) -> float:
        """Share of all parameters, moments and buffers whose bits were summed per optimizer step so far."""
        return self._run.provenance.share_per_step if self._run is not None else 0.0

    def report(self) -> str:
        """Return the report as plain text: what an engineer on call needs first."""
        if self._run is None:
            return "numguard is switched off (NUMGUARD=off) or has not started: nothing was watched.\n"
        if not self._running:  # all is written, and the log is closed
            return plain_report(summarise(self._run.log.records()))
        return self._run.report(self._step)

    def state_dict(self) -> dict[str, Any]:
        """Return what a later attempt of the same run needs to go on: plain JSON values.

        The losses that the detectors know are in it, up to some ten thousand numbers, so that a resumed run is watched
        from its first step on.
        """
        if self._running and self._run is not None:
            with self._run.clock:
                self._step_began = self._run.catch_up(self._step_began)
            self._losses = self._run.losses.state()
        return {"schema": STATE_SCHEMA, "step": self._step, "losses": self._losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`; call it before :meth:`start`.

        Raises
        ------
        UsageError
            If the state is not one of a guard.
        GuardStateError
            If the guard runs already.
        """
        if self._running:
            raise GuardStateError("load_state_dict() was called on a running guard; call it before start()")
        if not isinstance(state, dict) or state.get("schema") != STATE_SCHEMA:
            found = state.get("schema") if isinstance(state, dict) else type(state).__name__
            raise UsageError(f"the state has schema {found!r}; this release reads schema {STATE_SCHEMA} of a guard")
        self._step = _checked_step(state.get("step"))
        self._losses = state.get("losses")


def _checked_number(given: Any, name: str, method: str = "step") -> Tensor | float:
    """Return what a user gave as one number: a tensor as it is, which may still be computed, and a float."""
    if isinstance(given, Tensor):
        if given.is_nested or given.numel() != 1:
            shape = "a nested tensor" if given.is_nested else f"shape {tuple(given.shape)}"
            raise UsageError(
                f"guard.{method}() got a {name} of {shape}, which is not one number; "
                f"give {name}.mean(), or the number that you log"
            )
        if given.is_complex() or given.is_meta or isinstance(given, FakeTensor):
            kind = "complex" if given.is_complex() else "meta or fake"
            raise UsageError(
                f"guard.{method}() got a {kind} tensor as {name}, which is no real number; give the one that you log"
            )
        return given
    if getattr(given, "size", None) == 1 and callable(getattr(given, "item", None)):  # an array of one number
        given = given.item()
    if isinstance(given, bool) or not isinstance(given, Real):
        raise UsageError(f"guard.{method}() got a {name} of type {type(given).__name__}; give a tensor or a number")
    try:
        return float(given)
    except OverflowError:
        raise UsageError(
            f"guard.{method}() got a {name} that no float can hold; give the number that you log"
        ) from None


def _checked_step(step: Any) -> int:
    number = int(step) if isinstance(step, Integral) and not isinstance(step, bool) else -1
    if not 0 <= number < 2**63:
        raise UsageError(f"step={step!r} is not a step number; give a whole number from 0")
    return number
