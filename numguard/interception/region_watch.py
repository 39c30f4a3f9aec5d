"""Records regions while they run in an armed step, and judges each when it has returned.

As with the block boundaries, a module is called through ``_compiled_call_impl``, here for the length of an armed step.
The operators that it runs are heard from the dispatch mode; the module itself is never run again.
"""

import threading
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import process_time
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from numguard.interception.attribution import current_node
from numguard.interception.boundaries import copies_as_usual
from numguard.interception.budget import OwnClock
from numguard.interception.eligibility import is_readable, is_transforming
from numguard.interception.mode import ArmedMode
from numguard.interception.regions import RegionSite, chosen
from numguard.regions import Recording, RegionVerdict, judge_form, judge_recording
from numguard.shadow.comparison import NotCovered

RECORD_SECONDS: Final = 12e-6  # to record one operator, with cold caches
CALL_SECONDS: Final = 6e-6  # to go through a marked module
UNKNOWN_SECONDS: Final = 1e-3  # what a region is taken to cost until it has been judged once
ELEMENT_SECONDS: Final = 40e-9  # of a replay with its comparison, for each element of each result
MOST_ELEMENTS: Final = float(1 << 24)  # of all results of a region, held in float64 when it is judged
_ONE_OPERATOR: Final = "one operator: its own check judges it"


@dataclass(slots=True)
class _Frame:
    site: RegionSite | None
    recording: Recording | None
    forms: "_Given | None" = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Given:
    """What a module with a reference form was given, in its own tensors and with their versions."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    versions: tuple[int, ...]
    state: Mapping[str, Any]


class RegionWatch:
    """Watches the regions of one model in armed steps.

    Parameters
    ----------
    sites
        The regions.
    root
        The model whose return begins what the script computes by itself.
    may_wrap
        Tells whether a call that is set on a module may be wrapped: numguard's own may, a compiled one not.
    clock
        Takes the cost.
    report
        Takes ``(site, verdict, step)`` of an unstable region.
    fault
        Takes ``(stage, error)``.
    seed
        Of the random one-ulp changes.
    checked
        Operators that have a check of their own.
    """

    def __init__(
        self,
        *,
        sites: Sequence[RegionSite],
        root: torch.nn.Module,
        may_wrap: Callable[[object], bool],
        clock: OwnClock,
        report: Callable[[RegionSite, RegionVerdict, int], None],
        fault: Callable[[str, BaseException], None],
        seed: int,
        checked: Container[torch._ops.OpOverload],
    ) -> None:
        self.sites, self._root, self._may_wrap, self._checked = sites, root, may_wrap, checked
        self._clock, self._report, self._fault = clock, report, fault
        self._random = torch.Generator().manual_seed(seed % 2**63)
        self.uncovered: Counter[str] = Counter()
        self.is_running = False
        self.spent = 0.0
        self._undo: list[tuple[torch.nn.Module, Any]] = []
        self._frames: list[_Frame] = []
        self._script: _Frame | None = None
        self._script_site: RegionSite | None = None
        self._script_open = False
        self._script_versions: list[int] = []
        self._thread = 0
        self._step = 0
        self._seconds = 0.0
        self._exhaustive = False
        self._num_heard = 0

    # -- an armed step -----------------------------------------------------------------------------------------

    def cost(self, seconds: float) -> float:
        """Return what the regions would cost that :meth:`begin` would mark within a quota."""
        taken = chosen(self.sites, seconds, exhaustive=False, unknown_seconds=UNKNOWN_SECONDS)
        return sum(site.seconds or UNKNOWN_SECONDS for site in taken)

    def begin(self, mode: ArmedMode, step: int, seconds: float, *, exhaustive: bool) -> None:
        """Mark the regions of an armed step whose mode has been entered.

        Parameters
        ----------
        mode, step
            Of the armed step.
        seconds
            Quota.
        exhaustive
            Take all regions, whatever they cost.
        """
        wanted = chosen(self.sites, seconds, exhaustive=exhaustive, unknown_seconds=UNKNOWN_SECONDS)
        self._step, self._seconds, self._exhaustive = step, seconds, exhaustive
        self._thread, self._num_heard, self.spent = threading.get_ident(), 0, 0.0
        if not wanted:
            return
        mode.tape = self
        by_module = {id(site.module): site for site in wanted if site.module is not None}
        self._script_site = next((site for site in wanted if site.extent == "script"), None)
        if self._script_site is not None:
            self._wrap(self._root, by_module.pop(id(self._root), None))
        for site in by_module.values():
            assert site.module is not None
            self._wrap(site.module, site)
            if site.extent == "own":  # what its children compute is theirs
                for child in site.module.children():
                    if id(child) not in by_module:
                        self._wrap(child, None)

    def _wrap(self, module: torch.nn.Module, site: RegionSite | None) -> None:
        if any(module is wrapped for wrapped, _ in self._undo):
            return
        before = module._compiled_call_impl
        if (before is not None and not self._may_wrap(before)) or not copies_as_usual(module):
            if site is not None:
                self._excuse(site, "compiled, or copied in a way of its own")
            return
        call: Callable[..., Any] = before if before is not None else module._call_impl
        is_root = module is self._root

        def heard(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or threading.get_ident() != self._thread:
                return call(*args, **kwargs)
            if is_transforming():
                if site is not None:
                    self._excuse(site, "run by a transform of torch.func")
                return call(*args, **kwargs)
            frame = self._open(site, args, kwargs)
            output = None
            try:
                output = call(*args, **kwargs)
            finally:
                self._close(frame, output, opens_script=is_root and len(self._frames) == 1)
            return output

        module._compiled_call_impl = heard
        self._undo.append((module, before))

    def end(self) -> None:
        """Judge what the script has computed, and leave the modules as they were."""
        if not self._undo and self._script is None:
            return
        self.is_running = False
        script, self._script, self._script_open = self._script, None, False
        if script is not None and script.recording is not None and script.site is not None:
            versions = [tensor._version for tensor in script.recording.tensors]
            if versions != self._script_versions[: len(versions)] and self._script_versions:
                self._excuse(script.site, "overwritten before it was judged")
            else:
                self._judge_safely(script, None)
        self._frames.clear()
        for module, before in self._undo:
            module._compiled_call_impl = before
        self._undo.clear()
        self._clock.add(self._num_heard * RECORD_SECONDS)

    # -- frames ------------------------------------------------------------------------------------------------

    def _open(self, site: RegionSite | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Frame:
        frame = _Frame(site, None)
        self._frames.append(frame)
        self._clock.add(CALL_SECONDS)
        try:
            if site is not None and current_node() is None:
                site.num_seen += 1
                left = self._seconds - self.spent
                if self._exhaustive or left > 0.0:
                    if site.extent == "form":
                        frame.forms = _given(site.module, args, kwargs)
                    else:
                        frame.recording = Recording(is_readable, self._limit())
        except Exception as error:
            self._fault("regions", error)
        self._listen()
        return frame

    def _limit(self) -> float:
        most = MOST_ELEMENTS
        return most if self._exhaustive else min(most, (self._seconds - self.spent) / ELEMENT_SECONDS)

    def _close(self, frame: _Frame, output: Any, *, opens_script: bool) -> None:
        while self._frames and self._frames.pop() is not frame:
            pass
        self.is_running = False
        if output is not None:
            self._judge_safely(frame, output)
        if opens_script and self._script_site is not None and output is not None:
            site = self._script_site
            if self._script is None and current_node() is None:
                site.num_seen += 1
                self._script = _Frame(site, Recording(is_readable, self._limit()))
                self._script_open, self._script_versions = True, []
        self._listen()

    def _listen(self) -> None:
        """Hear operators where the innermost frame, a whole region around it, or the script wants them."""
        self.is_running = self._script_open if not self._frames else any(self._hears(f) for f in self._frames)

    def _hears(self, frame: _Frame) -> bool:
        whole = frame.site is not None and frame.site.extent == "whole"
        return frame.recording is not None and (whole or frame is self._frames[-1])

    def _recordings(self) -> list[Recording]:
        if not self._frames:
            script = self._script
            return [script.recording] if script is not None and script.recording is not None else []
        return [f.recording for f in self._frames if f.recording is not None and self._hears(f)]

    def before(self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note what an operator is about to read."""
        try:
            if not self._frames and (current_node() is not None or not torch.is_grad_enabled()):
                # Backward has begun. What is recorded by now is judged at the end: its operators lie below us.
                if current_node() is not None:
                    self._script_open = self.is_running = False
                    self._script_versions = [tensor._version for r in self._recordings() for tensor in r.tensors]
                return
            self._num_heard += 1
            for recording in self._recordings():
                recording.before(func, args, kwargs)
        except Exception as error:
            self._stop(error)

    def after(self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """Note what it has returned."""
        try:
            if self._frames or (self._script_open and torch.is_grad_enabled()):
                for recording in self._recordings():
                    recording.after(func, args, kwargs, output)
        except Exception as error:
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        for recording in self._recordings():
            recording.give_up("numguard failed while it was recorded")
        self._fault("regions", error)

    # -- judging -----------------------------------------------------------------------------------------------

    def _judge_safely(self, frame: _Frame, output: Any) -> None:
        if frame.site is None or (frame.recording is None and frame.forms is None):
            return
        began = process_time()
        try:
            with self._clock, ExitStack() as stack:
                stack.enter_context(_disable_current_modes())
                stack.enter_context(torch._C.DisableTorchFunction())
                for device in ("cpu", "cuda"):
                    if torch.is_autocast_enabled(device):
                        stack.enter_context(torch.autocast(device, enabled=False))
                self._judge(frame, frame.site, output)
        except NotCovered as reason:
            self._excuse(frame.site, str(reason))
        except Exception as error:
            self._fault("regions", error)
            self._excuse(frame.site, "numguard failed while it was judged")
        seconds = process_time() - began
        self.spent += seconds
        site = frame.site
        site.seconds = seconds if site.seconds == 0.0 else 0.8 * site.seconds + 0.2 * seconds
        site.last_checked_step = self._step

    def _judge(self, frame: _Frame, site: RegionSite, output: Any) -> None:
        if frame.forms is not None:
            verdict = self._judge_form(frame.forms, site, output)
        else:
            assert frame.recording is not None
            computing = frame.recording.computing
            if frame.recording.reason is None and len(computing) < 2:
                site.is_trivial = site.extent == "own"
                raise NotCovered(self._excuse_of(computing))
            verdict = judge_recording(frame.recording, self._random)
        site.num_checked += 1
        site.num_elements += verdict.num_elements
        site.worst_ratio = max(site.worst_ratio, verdict.ratio)
        if verdict.unstable:
            site.num_failed += 1
            self._report(site, verdict, self._step)
        else:
            site.last_clean_step = self._step

    def _excuse_of(self, computing: Sequence[torch._ops.OpOverload]) -> str:
        """Return why a region of at most one operator is not replayed."""
        for func in computing:
            # What works element by element rounds once: the audit examines it over its whole domain.
            if func not in self._checked and torch.Tag.pointwise not in func.tags:
                return f"its one operator, {func._schema.name}, has no check"
        return _ONE_OPERATOR

    def _judge_form(self, given: _Given, site: RegionSite, output: Any) -> RegionVerdict:
        form = site.form
        assert form is not None
        tensors = [value for value in (*given.args, *given.kwargs.values()) if _is_float(value)]
        if tuple(tensor._version for tensor in tensors) != given.versions:
            raise NotCovered("it overwrites what it is given")
        computed = [value for value in (output if isinstance(output, tuple | list) else [output]) if _is_float(value)]
        held = [name for name, value in given.state.items() if _is_float(value)]
        arguments = [*tensors, *(given.state[name] for name in held)]
        if not computed or not all(is_readable(tensor) for tensor in (*arguments, *computed)):
            raise NotCovered("it takes or returns tensors that cannot be read")

        def in_float64(*wide: Tensor) -> Tensor | Sequence[Tensor]:
            numbers = iter(wide)
            args = [next(numbers) if _is_float(value) else value for value in given.args]
            kwargs = {name: next(numbers) if _is_float(value) else value for name, value in given.kwargs.items()}
            state = dict(given.state) | {name: next(numbers) for name in held}
            returned: Tensor | Sequence[Tensor] = form(state, *args, **kwargs)
            return returned

        return judge_form(in_float64, arguments, computed, self._random)

    def _excuse(self, site: RegionSite, reason: str) -> None:
        site.num_excused += 1
        if reason != _ONE_OPERATOR:
            self.uncovered[f"region {site.name}: {reason}"] += 1


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _given(module: torch.nn.Module | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Given:
    assert module is not None
    numbers = {name: value for name, value in vars(module).items() if isinstance(value, bool | int | float)}
    tensors = [value for value in (*args, *kwargs.values()) if _is_float(value)]
    return _Given(
        args=args,
        kwargs=dict(kwargs),
        versions=tuple(tensor._version for tensor in tensors),
        state=numbers
        | {name: parameter.detach() for name, parameter in module.named_parameters()}
        | {name: buffer.detach().clone() for name, buffer in module.named_buffers()},
    )
