"""What a child process of the audit can be asked to do, by name."""

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from numguard.acceptance.accumulations import sentence
from numguard.acceptance.collectives import examine_collectives
from numguard.acceptance.elementwise import examine_function, functions
from numguard.acceptance.examination import examine_trial
from numguard.acceptance.exemplified import examine_check
from numguard.acceptance.programme import subjects
from numguard.acceptance.reproduction import reproduced
from numguard.acceptance.subjects import Subject
from numguard.acceptance.trials import Trial, trial_from


@cache
def subject_named(name: str) -> Subject:
    """Return a subject of the programme."""
    return next(entry for entry in subjects() if entry.name == name)


def _examine(given: Mapping[str, Any]) -> Any:
    trial = trial_from(given["trial"])
    outcome = examine_trial(subject_named(trial.subject), trial)
    return {
        "sightings": [sighting.plain() for sighting in outcome.sightings],
        "judged": outcome.judged,
        "unjudged": outcome.unjudged,
        "not_offered": outcome.not_offered,
    }


def _reproduce(given: Mapping[str, Any]) -> Any:
    trial = trial_from(given["trial"])
    found = reproduced(subject_named(trial.subject), trial, given["fingerprint"], given["seconds"])
    if found is None:
        return None
    return {
        "sighting": found.sighting.plain(),
        "script": found.script,
        "fails": found.fails,
        "passes_when_right": found.passes_when_right,
    }


def _accumulate(given: Mapping[str, Any]) -> Any:
    return sentence(given["name"], given["dtype"])


def _examine_examples(given: Mapping[str, Any]) -> Any:
    outcomes = examine_check(given["check"], given["dtype"])
    return {
        "sightings": [sighting.plain() for outcome in outcomes for sighting in outcome.sightings],
        "judged": [*dict.fromkeys(op for outcome in outcomes for op in outcome.judged)],
        "num_calls": sum(not outcome.not_offered for outcome in outcomes),
    }


def _load_compiler() -> None:
    importlib.import_module("torch._dynamo")
    importlib.import_module("torch._inductor.compile_fx")


def _function_names(given: Mapping[str, Any]) -> Any:
    return [*functions()]


def _elementwise(given: Mapping[str, Any]) -> Any:
    return [sighting.plain() for sighting in examine_function(given["name"], given["dtype"])]


def _collectives(given: Mapping[str, Any]) -> Any:
    return [sighting.plain() for sighting in examine_collectives()]


def _fails(given: Mapping[str, Any]) -> Any:
    """Return whether a script exits with 1 in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "reproducer.py")
        path.write_text(given["script"], encoding="utf-8")
        done = subprocess.run([sys.executable, str(path)], capture_output=True, timeout=given["seconds"])
        return done.returncode == 1


def warm_up() -> None:
    """Load and run once what every task needs, on one thread: forks share it."""
    torch.set_num_threads(1)
    sizes = (("n", 5), ("c", 37))
    subject = subject_named("F.layer_norm(x, (c,), w, b)")
    examine_trial(subject, Trial(subject=subject.name, dtype="float32", sizes=sizes, gradients=("x", "w")))


TASKS: Final[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = MappingProxyType(
    {
        "examine": _examine,
        "examine compiled": _examine,
        "examples": _examine_examples,
        "reproduce": _reproduce,
        "accumulate": _accumulate,
        "function_names": _function_names,
        "elementwise": _elementwise,
        "collectives": _collectives,
        "fails": _fails,
    }
)

#: What a worker does before its first fork for a task, so that the forks need not.
PREPARATIONS: Final[Mapping[str, Callable[[], object]]] = MappingProxyType({"examine compiled": _load_compiler})
