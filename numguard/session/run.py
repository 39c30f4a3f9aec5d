"""One run of a guard: every room, put together."""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from numguard.backends.selection import prepare
from numguard.checks import REGISTRY, select
from numguard.finding import Finding
from numguard.interception.attribution import Attribution, Origin
from numguard.interception.boundaries import MAX_BLOCKS, Boundaries, affordable_marks
from numguard.interception.budget import Budget, OwnClock
from numguard.interception.inspection import Inspector
from numguard.interception.mailbox import Parcel
from numguard.interception.mode import ArmedMode, cost_of_passing
from numguard.interception.nonfinite_origin import OriginSearch
from numguard.interception.observation import Observation
from numguard.interception.sampling import Sampler
from numguard.interception.sites import SiteTable
from numguard.interception.unchecked import reasons
from numguard.ranks import Schedule, agreement_for, this_rank
from numguard.ranks.schedule import EPOCH, FIRST_AGREEMENT
from numguard.records import EventLog, Log, MemoryLog, next_attempt, read_accepted
from numguard.report import plain_report, summarise
from numguard.session.arming import Arming
from numguard.session.capture import kept_inputs
from numguard.session.casebook import Casebook
from numguard.session.check_table import table_of
from numguard.session.coverage import Coverage, is_first_covered, site_coverage
from numguard.session.health import Health
from numguard.session.ingredients import installed_version, mailbox_for, membership, module_names, num_parameters
from numguard.session.journal import Journal
from numguard.session.loss_watch import ALARMS, LossWatch
from numguard.session.options import GuardOptions
from numguard.session.overhead import Overhead
from numguard.session.provenance import Provenance
from numguard.session.regions import Regions
from numguard.session.resting import HOOK_SECONDS, MOST_RESTING, Resting
from numguard.session.self_test import is_planted, planted_overload
from numguard.session.triggers import Triggers
from numguard.session.update_hooks import UpdateHooks
from numguard.session.updates import Updates
from numguard.session.vitals import Nonfinite, Vitals
from numguard.session.wording import nonfinite_fields
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Compared

log = logging.getLogger("numguard")

_AUTOMATIC_BURST: Final = 2  # steps
_MAX_AUTOMATIC_BURSTS: Final = 3  # per run and cause: not every step may become exhaustive
_SELF_TEST_EVERY: Final = 1000  # steps
_FIRST_LOOK: Final = 2  # steps after which their length is asked for, before anything is agreed on


class Run:
    """Everything that lives from a guard's start to its stop.

    Parameters
    ----------
    options, model, optimizers, send
        As given to :class:`~numguard.session.guarded_loop.Guard`.
    """

    def __init__(
        self,
        options: GuardOptions,
        model: torch.nn.Module | None,
        optimizers: Sequence[torch.optim.Optimizer],
        send: Callable[[Tensor], Parcel] | None,
    ) -> None:
        self.options = options
        prepare()
        self.rank = this_rank()
        self.checks = select(options.checks, ())
        accepted = read_accepted(options.accept) if options.accept is not None else {}
        self.casebook = Casebook(self.rank, accepted)
        self.clock = OwnClock()
        self.budget = Budget(options.budget)
        self.sites = SiteTable()
        self._new: list[Finding] = []
        self._others: dict[torch._ops.OpOverload, list[int]] = {}
        self._num_bursts: Counter[str] = Counter()
        self._next_test = _SELF_TEST_EVERY
        self._num_steps = 0
        self._first_coverage_step: int | None = None
        self._last_error_step: int | None = None
        self.log: Log = self._open_log()
        self.journal = Journal(self.log, writes_steps=self.rank.rank == 0)
        self.mailbox, immediate = mailbox_for(model, send)
        self.origins = OriginSearch(self.mailbox, membership(model, optimizers))
        self.health = Health(self)
        self.inspector = Inspector(
            table=table_of(self.checks) | {planted_overload(): (REGISTRY["sum"],)},
            attribution=Attribution(names := module_names(model)),
            sites=self.sites,
            sampler=(sampler := Sampler((options.seed * 1_000_003 + self.rank.rank) % 2**64)),
            mailbox=self.mailbox,
            clock=self.clock,
            admits=self._admits,
            report=self.observe,
            fault=self.health.fault,
            masses=self._masses,
            origins=self.origins,
        )
        self.inspector.immediate = immediate
        self.inspector.device_type = "accelerator" if send is not None else None
        self.arming = Arming(
            schedule=Schedule(seed=options.seed),
            budget=self.budget,
            clock=self.clock,
            make_mode=lambda: ArmedMode(self.inspector.table, self.inspector.observe, others=self._others),
            inspector=self.inspector,
            sampler=sampler,
            sites=self.sites,
            pass_seconds=cost_of_passing(),
            num_parameters=num_parameters(model, optimizers),
            agreement=lambda: agreement_for(this_rank().rank, this_rank().world_size, str(options.seed)),
            on_agreement=self._thin_out,
            parts_steps=len(optimizers) == 1 and hasattr(optimizers[0], "register_step_pre_hook"),
            on_enter=lambda *given: self.regions.begin(*given),
            on_leave=lambda: self.regions.end(),
            region_cost=lambda seconds: self.regions.cost(seconds),
        )
        self.arming.expects_checked = options.checks is None and options.modules is None
        self._resting = Resting()
        self._resting.boundaries = self.boundaries = self._watch_blocks(model, immediate)
        self.regions = self._make_regions(model, names, immediate)
        self.vitals = Vitals(
            mailbox=self.mailbox,
            immediate=immediate,
            boundaries=self.boundaries,
            origins=self.origins,
            on_nonfinite=self._nonfinite,
            on_loss=self._loss,
        )
        found, fault, rank = self._loss_alarm, self.health.fault, self.rank.rank
        self.losses = LossWatch(options, self.mailbox, immediate=immediate, found=found, fault=fault, rank=rank)
        self.triggers = Triggers(options.run_dir)
        self.provenance = self._make_provenance(model, optimizers)
        around = self.arming.before_update, self.arming.after_update
        self.update_hooks = UpdateHooks(optimizers, *around, self.provenance)
        self.updates = Updates(model, optimizers, 0)

    # -- construction ------------------------------------------------------------------------------------------

    def _make_regions(self, model: torch.nn.Module | None, names: dict[int, str], immediate: bool) -> Regions:
        return Regions(
            model=model,
            names=names,
            declared=self.options.regions,
            may_wrap=self._may_wrap,
            is_sound=lambda step: self._last_error_step != step,
            admits=self._admits_module,
            clock=self.clock,
            enter=self.enter,
            fault=self.health.fault,
            seed=self.options.seed * 1_000_003 + self.rank.rank,
            on_host=immediate,
            at_budget=not self.options.exhaustive,
            checked=self.inspector.table,
        )

    def _make_provenance(
        self, model: torch.nn.Module | None, optimizers: Sequence[torch.optim.Optimizer]
    ) -> Provenance:
        return Provenance(
            model,
            optimizers,
            budget=self.options.budget,
            step=lambda: self._resting.current,
            step_seconds=lambda: self.arming.typical_seconds,
            charge=self._resting.charge,
            enter=self.enter,
            fault=self.health.fault,
        )

    def _open_log(self) -> Log:
        if self.options.run_dir is None:
            self.attempt = 0
            return MemoryLog()
        self.attempt = next_attempt(self.options.run_dir, self.rank.rank)
        return EventLog(self.options.run_dir, rank=self.rank.rank, attempt=self.attempt)

    def _admits(self, origin: Origin, check: str) -> bool:
        modules, skip = self.options.modules, self.options.skip
        if modules is None and not skip:
            return True
        if modules is not None and not any(pattern.search(origin.module) for pattern in modules):
            return False
        return not any(pattern.fullmatch(check) or pattern.fullmatch(origin.module) for pattern in skip)

    def _admits_module(self, module: str) -> bool:
        return self.options.checks is None and self._admits(Origin(phase="forward", module=module, location=None), "")

    def _may_wrap(self, call: object) -> bool:
        return self.provenance.owns(call) or (self.boundaries is not None and self.boundaries.owns(call))

    def _quiet(self, on: bool) -> None:
        if self.arming.mode is not None:
            self.arming.mode.active = not on

    def _watch_blocks(self, model: torch.nn.Module | None, immediate: bool) -> Boundaries | None:
        if model is None:
            return None
        return Boundaries(model, self._resting.charge, self._quiet, self.health.fault, keeps=immediate)

    def _thin_out(self, *, early: bool = False) -> None:
        """Watch as many blocks as a part of the budget pays for; early only as many gradients, which cost most."""
        budget, seconds = self.options.budget, self.arming.brief_seconds
        if not early:
            self.losses.set_pace(budget, seconds)
        if self.boundaries is not None and budget is not None:
            marks, gradients = affordable_marks(budget, seconds, len(self.boundaries.blocks))
            self.boundaries.thin_out(MAX_BLOCKS if early else marks, gradients)

    # -- life --------------------------------------------------------------------------------------------------

    def begin(self, step: int, losses: Any = None) -> None:
        """Write the start, send the planted fault through, and let the loss alarms go on from their state."""
        self.triggers.start()
        self._resting.begin(step)
        if self.options.checks is None:
            self.provenance.start()
        self.update_hooks.start()
        self.journal.write(
            "start",
            step=step,
            version=installed_version(),
            torch=torch.__version__,
            rank=self.rank.rank,
            world_size=self.rank.world_size,
            host=self.rank.host,
            device=self.rank.device,
            device_uuid=self.rank.device_uuid,
            pid=os.getpid(),
            attempt=self.attempt,
            seed=self.options.seed,
            budget=self.options.budget,
            checks=sorted(check.name for check in self.checks),
            time=time.time(),
        )
        if self.options.trend is not None and self.losses.is_on:
            self.journal.write("trend", step=step, **self.options.trend.to_fields())
        self.health.test(step)
        self.losses.go_on(losses, step, self.health.degrade)
        self.clock.seconds = 0.0  # the start is not part of any step

    def begin_step(self, step: int) -> int:
        """Arm the step that begins if it is due; return the next step that needs attention before it begins."""
        self.arming.begin_step(step)
        self.update_hooks.is_armed = self.arming.is_armed
        if self.arming.is_armed or not self.inspector.immediate or self._num_steps < _FIRST_LOOK:
            return 0
        return self.arming.next_due(step, step + MOST_RESTING)

    def rest(self, loss: Tensor) -> bool:
        """Put a step aside in which nothing is due; False where it is not such a step after all."""
        if not self._resting.take(loss):
            return False
        if self.update_hooks.is_only:
            self.update_hooks.num_untold += 1
        else:  # one of several may make many steps in the meantime
            self.update_hooks.stepped()
        return True

    def catch_up(self, began: float) -> float:
        """Enter the steps that were put aside since ``began``; return when the last of them ended."""
        steps, ended, watching = self._resting.settle(began, self.losses.take)
        if steps:
            self.clock.add(-watching)  # it belongs to the steps that rested, not to the one that catches up
            own = self.budget.own_seconds
            self.arming.end_resting([(step.elapsed, step.own) for step in steps])
            self._num_steps += len(steps)
            self.journal.resting(steps, own)
            if FIRST_AGREEMENT < self._num_steps < EPOCH:  # the first steps may have been slow
                self._thin_out()
        return ended

    def end_step(self, step: int, loss: Any, elapsed: float, armed: bool, extra: Mapping[str, Any]) -> None:
        """Close a step: numbers, cost, records, and whatever has arrived from the device."""
        self.mailbox.flush()
        self.mailbox.collect()
        self.losses.expect(step, extra)
        value = self.vitals.end_step(step, loss, searched=armed and self.inspector.searching)
        own = self.clock.seconds + self._resting.take_charges() + HOOK_SECONDS
        self.clock.seconds = 0.0
        self._resting.begin(step + 1)
        self.arming.end_step(max(elapsed, 1e-9), own, armed=armed)
        self._num_steps += 1
        if self._num_steps == _FIRST_LOOK:
            self._thin_out(early=True)
        extra = {name: given for name, given in extra.items() if given is not None}
        if isinstance(extra.get("grad_norm"), Tensor):
            del extra["grad_norm"]  # reading it could wait for the device
        self.journal.step(step, value, elapsed, self.budget.own_seconds, armed, extra)
        if armed:
            self.health.watch(step)
            if self._first_coverage_step is None and len(self.sites) and is_first_covered(self.sites):
                self._first_coverage_step = step
        self._write_findings()
        if self.journal.is_coverage_due():
            self._write_coverage(step)
            if self.inspector.immediate:
                self._write_updates(step)

    def poll(self, step: int) -> None:
        """Between two steps: requests from outside, and the planted fault now and then."""
        self.update_hooks.stepped()
        asked = self.triggers.asked()
        if asked is not None:
            self.burst(step, *asked)
        self._complain(step, self.update_hooks.complaint())
        if self._num_steps >= self._next_test:  # not every step comes here: resting ones do not
            self._next_test += _SELF_TEST_EVERY
            self.health.test(step)

    def _complain(self, step: int, unnoticed: str | None) -> None:
        if unnoticed is not None:
            self.health.degrade(step, "steps", unnoticed, "Call g.step(loss) once after every optimizer step.")

    def burst(self, step: int, steps: int, reason: str) -> None:
        """Make the next steps exhaustive."""
        self.arming.burst_left = max(self.arming.burst_left, steps)
        self.journal.write("burst", step=step, reason=reason, steps=steps)

    def pause(self, step: int) -> None:
        """Leave the mode, silence the hooks."""
        self.arming.suspend()
        self.update_hooks.enabled = False
        if self.boundaries is not None:
            self.boundaries.enabled = False
        self.journal.write("pause", step=step)

    def resume(self, step: int) -> None:
        """Let the hooks speak again, and enter the mode for the rest of a step that was armed."""
        self.update_hooks.enabled = True
        if self.boundaries is not None:
            self.boundaries.enabled = True
        self.journal.write("resume", step=step)
        self.arming.resume(step)

    def finish(self, step: int, reason: str) -> None:
        """Read and write what is left; leave the model as it was."""
        self.mailbox.close()
        self.health.test(step)
        self.mailbox.close()
        self.health.close(step)
        self._complain(step, self.update_hooks.complaint(at_end=True))
        if self.boundaries is not None:
            self.boundaries.remove()
        self.triggers.stop()
        self.update_hooks.stop()
        self.provenance.stop()
        self._write_updates(step)
        self._write_findings(at_end=True)
        self.journal.flush_steps()
        self._write_coverage(step)
        self.journal.write("stop", step=step, time=time.time(), reason=reason)
        self.log.close()

    def abandon(self) -> None:
        """Let go in a forked child, touching nothing that is shared with the parent."""
        self.arming.abandon()
        if self.boundaries is not None:
            self.boundaries.enabled = False

    # -- findings ----------------------------------------------------------------------------------------------

    def observe(self, observation: Observation) -> None:
        """Enter what a check of a call found; the planted fault goes where it is waited for."""
        if is_planted(observation):
            self.health.planted_came_out(observation)
            return
        entered = self.casebook.observe(observation)
        run_dir = self.options.run_dir if self.options.capture == "capsule" else None
        if entered is not None and entered[1] and run_dir is not None:
            capsule = kept_inputs(run_dir, entered[0], observation)
            entered = entered if capsule is None else (self.casebook.keep(entered[0], capsule), True)
        self._enter(entered)

    def enter(self, kind: str, key: tuple[object, ...], **fields: Any) -> None:
        """Enter a finding that no check of a call made."""
        self._enter(self.casebook.add(kind, key, **fields))

    def _enter(self, entered: tuple[Finding, bool] | None) -> None:
        if entered is None or not entered[1]:
            return
        finding = entered[0]
        self._new.append(finding)
        level = logging.ERROR if finding.severity == "error" else logging.WARNING
        log.log(level, "%s", finding)
        self._write_findings()

    def take_new(self) -> list[Finding]:
        """Return the findings that nobody has been told of yet."""
        new, self._new = self._new, []
        return new

    def _write_findings(self, *, at_end: bool = False) -> None:
        for finding in self.casebook.unwritten_at_end() if at_end else self.casebook.unwritten():
            self.journal.finding(finding)

    def _masses(self, call: OpCall, captured: Any, comparisons: Sequence[Compared], origin: Origin) -> None:
        self.updates.add(self.inspector.step, call, captured, comparisons, origin)

    def _write_updates(self, step: int) -> None:
        shares = self.updates.shares()
        if shares:
            self.journal.write("lost_updates", step=step, shares=shares, window=self.updates.window())
            self.updates.report(step, self.enter)

    def _nonfinite(self, found: Nonfinite) -> None:
        fields = nonfinite_fields(found)
        self.enter("nonfinite", (fields["op"], fields["module"], found.what), **fields)
        if self.vitals.num_nonfinite == 1:
            self.journal.write(
                "origin",
                step=found.step,
                block=found.block.block if found.block else "",
                phase=str(fields["phase"]),
                detail=str(fields["message"]),
            )
        self._burst_by_itself(found.step + 1, "nonfinite")

    def _burst_by_itself(self, step: int, reason: str) -> None:
        cause = reason.partition("_")[0]
        if self._num_bursts[cause] < _MAX_AUTOMATIC_BURSTS and not self.options.exhaustive:
            self._num_bursts[cause] += 1
            self.burst(step, _AUTOMATIC_BURST, reason)

    def _loss(self, step: int, loss: float) -> None:
        if not self.inspector.immediate:
            self.journal.set_loss(step, loss)
        self.losses.take(step, loss)

    def _loss_alarm(self, finding: Finding) -> None:
        self._enter(self.casebook.adopt(finding))
        if finding.kind in ALARMS:
            self._burst_by_itself((finding.first_caught_step or 0) + 1, finding.kind)

    # -- results -----------------------------------------------------------------------------------------------

    def coverage(self) -> Coverage:
        """Return what was checked so far."""
        sites = [site for site in self.sites if not site.op.startswith("numguard_selftest")]
        return Coverage(
            sites=(
                *(site_coverage(site, self._num_steps) for site in sites),
                *self.regions.coverage(self._num_steps),
            ),
            uncovered=dict(self.inspector.uncovered)
            | reasons(self._others, table_of(REGISTRY.values()))
            | self._unarmed()
            | dict(self.regions.uncovered())
            | self.losses.uncovered(self._num_steps),
            first_coverage_step=self._first_coverage_step,
            num_steps=self._num_steps,
            num_armed_steps=self.arming.num_armed,
            num_calls_seen=sum(site.num_seen for site in sites),
            num_checks=sum(site.num_checked for site in sites),
        )

    def _unarmed(self) -> dict[str, int]:
        reason = self.arming.shortfall()
        return {} if reason is None else {reason: self._num_steps}

    def overhead(self) -> Overhead:
        """Return what it has cost so far."""
        return Overhead(
            own_seconds=self.budget.own_seconds,
            elapsed_seconds=self.budget.elapsed_seconds,
            burst_seconds=self.budget.burst_seconds,
            num_steps=self._num_steps,
            num_armed_steps=self.arming.num_armed,
            num_checks=self.inspector.num_checks,
            interval=self.arming.schedule.interval,
        )

    def _write_coverage(self, step: int) -> None:
        cost = {
            "own_seconds": self.budget.own_seconds,
            "elapsed_seconds": self.budget.elapsed_seconds,
            "num_armed_steps": self.arming.num_armed,
            "num_checks": self.inspector.num_checks,
            "budget": self.options.budget,
        }
        self.journal.coverage(step, self.coverage().to_fields(), cost)

    def report(self, step: int) -> str:
        """Return the plain-text report of this rank so far."""
        self.journal.flush_steps()
        self._write_coverage(step)
        return plain_report(summarise(self.log.records()))
