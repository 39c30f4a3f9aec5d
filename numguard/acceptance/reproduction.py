"""From a sighting to its reproducer: shrunk, written out, and run both ways before anybody is told."""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from numguard.acceptance.examination import Sighting, examine_trial
from numguard.acceptance.explained import promoted
from numguard.acceptance.scripts import (
    ACCURATE_RUN,
    RUN,
    script_of_call,
    script_of_equivalent,
    script_of_operator,
)
from numguard.acceptance.shrinking import shrunk
from numguard.acceptance.subjects import Subject
from numguard.acceptance.trials import Trial, draw_all, results_of, run_trial
from numguard.checks import REGISTRY, Probe
from numguard.inquiry import checked_operators
from numguard.numerics.error_bounds.judgement import judge
from numguard.shadow.call import OpCall, bind, mutated_arguments, overload_name, tensors_in
from numguard.shadow.routes import routes_for


@dataclass(frozen=True, kw_only=True, slots=True)
class Reproduction:
    """A finding with what reproduces it.

    Parameters
    ----------
    sighting
        Of the smallest trial.
    script
        Python, torch only; empty where none could be written.
    fails
        Whether it exits with 1 on this build.
    passes_when_right
        Whether it exits with 0 once every operator is computed in float64 and rounded once; None where that was not
        tried.
    """

    sighting: Sighting
    script: str = ""
    fails: bool = False
    passes_when_right: bool | None = None


def reproduced(subject: Subject, trial: Trial, fingerprint: str, seconds: float) -> Reproduction | None:
    """Return the reproduction of a finding that a trial shows, or None where it does not come back."""
    last: dict[Trial, Sighting] = {}

    def shows(candidate: Trial) -> bool:
        try:
            sightings = examine_trial(subject, candidate).sightings
        except Exception:
            return False
        found = next((entry for entry in sightings if entry.fingerprint == fingerprint), None)
        if found is None:
            return False
        # What float64 contradicts from outside makes the plainest script.
        phases = (found.phase, "forward") if found.phase == "optimizer" else (found.phase,)
        outer = (e for e in sightings if not e.op and e.phase in phases and e.error_bound is not None)
        last[candidate] = next(outer, found) if found.op else found
        return True

    if not shows(trial):
        return None
    smallest = shrunk(subject, trial, shows, seconds)
    sighting = last[smallest]
    script = _script(subject, sighting, smallest)
    if script and not _fails(script):
        script = ""
    exact = sighting.kind == "invariance_broken" and sighting.error_bound is None
    right = None if exact or not script else _passes(script)
    return Reproduction(sighting=sighting, script=script, fails=bool(script), passes_when_right=right)


def _script(subject: Subject, sighting: Sighting, trial: Trial) -> str:
    if sighting.kind == "invariance_broken" and sighting.error_bound is None:
        return script_of_equivalent(subject, sighting)
    if not sighting.op and sighting.error_bound is not None:
        index = _index_of_worst(subject, sighting, trial)
        return "" if index is None else script_of_call(subject, sighting, index)
    if sighting.op:
        place = _place_in_operator(subject, sighting, trial)
        return "" if place is None else script_of_operator(subject, sighting, **place)
    return ""


def _index_of_worst(subject: Subject, sighting: Sighting, trial: Trial) -> int | None:
    torch.set_num_threads(trial.num_threads)
    tensors = draw_all(subject, trial)
    computed = run_trial(subject, trial, tensors)[sighting.output].double().reshape(-1)
    exact = run_trial(subject, replace(trial, compiled=False), promoted(tensors))[sighting.output].reshape(-1)
    torch.set_num_threads(1)
    return _nearest(computed, exact, sighting.computed, sighting.exact)


def _nearest(computed: Tensor, exact: Tensor, value: float | None, right: float | None) -> int | None:
    """Return where one tensor holds ``value`` and the other, closely, ``right``."""
    if value is None or right is None or computed.shape != exact.shape:
        return None
    same = computed.isnan() if value != value else computed == value
    if right != right:
        same &= exact.isnan()
    else:
        same &= ((exact - right).abs() <= 1e-9 * abs(right) + 1e-300) | (exact == right)
    places = same.nonzero()
    return int(places[0]) if len(places) else None


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the calls of one operator, with what they would be in float64."""

    def __init__(self, op: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._op = op
        self.calls: list[tuple[OpCall, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator; the one that is looked for, twice."""
        kwargs = kwargs or {}
        if overload_name(func) != self._op:
            return func(*args, **kwargs)
        wide = func(*_widened(args), **_widened(dict(kwargs)))
        computed = func(*args, **kwargs)
        self.calls.append((OpCall(overload=func, arguments=bind(func, args, kwargs), output=computed), wide))
        return computed


def _widened(value: Any) -> Any:
    def one(item: Any) -> Any:
        if isinstance(item, Tensor) and item.is_floating_point():
            return item.detach().double().clone()
        return torch.float64 if isinstance(item, torch.dtype) and item.is_floating_point else item

    return tree_map(one, value)


def _place_in_operator(subject: Subject, sighting: Sighting, trial: Trial) -> dict[str, Any] | None:
    """Return which element of which execution is outside its bound, and by how much it may be off."""
    recorder = _Recorder(sighting.op)
    with recorder:
        run_trial(subject, trial, draw_all(subject, trial))
    best: tuple[float, dict[str, Any]] | None = None
    for number, (call, wide) in enumerate(recorder.calls):
        if mutated_arguments(call.overload):
            continue
        for value, right, allowed, ratio in _worst_elements(call, sighting):
            for place, (out, exact) in enumerate(zip(_floats(call.output), _floats(wide), strict=False)):
                index = _nearest_loosely(out, exact, value, right, allowed)
                if index is not None and (best is None or ratio > best[0]):
                    found = {"overload": str(call.overload), "call": number, "output": place, "index": index}
                    best = ratio, found | {"allowed": allowed}
    return None if best is None else best[1]


def _floats(output: Any) -> list[Tensor]:
    return [*results_of(output).values()]


def _nearest_loosely(out: Tensor, exact: Tensor, value: float, right: float, allowed: float) -> int | None:
    """Return where a float64 twin of an operator agrees with the shadow to a tenth of what is allowed."""
    if out.shape != exact.shape:
        return None
    same = (out.double() == value) & ((exact - right).abs() <= 0.1 * allowed)
    places = same.reshape(-1).nonzero()
    return int(places[0]) if len(places) else None


def _worst_elements(call: OpCall, sighting: Sighting) -> Iterator[tuple[float, float, float, float]]:
    """Yield value, shadow, strict bound and ratio of the worst element of each comparison of the sighting's output."""
    for check in checked_operators().get(call.overload, ()):
        if check.name != sighting.evidence.get("check") or check.name not in REGISTRY:
            continue
        with torch.no_grad():
            for comparison in check.judge(call, None, Probe(arithmetic=routes_for(check.family, "cpu")[0])):
                if comparison.output.partition("[")[0] != sighting.output.partition("[")[0]:
                    continue
                judged = judge(
                    comparison.computed,
                    comparison.exact.expand(comparison.computed.shape),
                    comparison.strict,
                    shadow_error=comparison.shadow_error,
                    rounds_output=comparison.rounds_output,
                )
                worst = int(judged.ratio.reshape(-1).argmax())
                pick = (comparison.computed.double(), comparison.exact, judged.bound)
                numbers = [float(x.expand(comparison.computed.shape).reshape(-1)[worst]) for x in pick]
                yield numbers[0], numbers[1], numbers[2], float(judged.ratio.reshape(-1)[worst])


def exit_code(script: str) -> int:
    """Run a script in this process and return the code it exits with; 2 for an exception."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "reproducer.py")
        with open(path, "w", encoding="utf-8") as file:
            file.write(script)
        arguments, sys.argv = sys.argv, [path]
        threads = torch.get_num_threads()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(script, path, "exec"), {"__name__": "__main__", "__file__": path})
        except SystemExit as end:
            return int(end.code or 0)
        except Exception:
            return 2
        finally:
            sys.argv = arguments
            torch.set_num_threads(threads)
    return 0


def _fails(script: str) -> bool:
    return exit_code(script) == 1


def _passes(script: str) -> bool:
    with computed_in_float64():
        if exit_code(script) == 0:
            return True
    # A call that is composed of operators rounds between them, however right each one is.
    return RUN in script and exit_code(script.replace(RUN, ACCURATE_RUN)) == 0


@contextmanager
def computed_in_float64() -> Iterator[None]:
    """Compute every operator below autograd in float64 on contiguous tensors and round its results once.

    What an accurate build of torch would do: a reproducer has to pass under it. Compiling is left out.
    """
    compiler = torch.compile
    torch.compile = lambda function, **options: function  # type: ignore[assignment]
    try:
        with _Accurate():  # type: ignore[no-untyped-call]
            yield
    finally:
        torch.compile = compiler


class _Accurate(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        computes = not func.is_view and any(t.is_floating_point() for t in _tensors((args, kwargs)))
        if not computes or mutated_arguments(func) or func in _COPIES:
            return func(*args, **kwargs)
        try:
            wide = func(*_widened(args), **_widened(dict(kwargs)))
            shapes = func(*args, **kwargs)
        except RuntimeError:
            return func(*args, **kwargs)
        return _rounded(wide, shapes)


_COPIES = frozenset({torch.ops.aten._to_copy.default, torch.ops.aten.clone.default, torch.ops.aten.detach.default})


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Mapping):
        return [t for item in value.values() for t in _tensors(item)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [t for item in value for t in _tensors(item)]
    return tensors_in(value)


def _rounded(wide: Any, like: Any) -> Any:
    if isinstance(wide, Tensor) and isinstance(like, Tensor):
        return wide.to(like.dtype)
    if isinstance(wide, tuple | list):
        return type(like)(_rounded(a, b) for a, b in zip(wide, like, strict=True))
    return like
