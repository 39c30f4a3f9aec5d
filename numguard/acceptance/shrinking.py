"""The smallest trial that still shows a finding: what is left is what matters."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from time import monotonic

from numguard.acceptance.subjects import Subject
from numguard.acceptance.trials import Trial


def shrunk(subject: Subject, trial: Trial, shows: Callable[[Trial], bool], seconds: float = 4.0) -> Trial:
    """Return a trial with simpler layout, data, gradients and smaller sizes for which ``shows`` still holds.

    Parameters
    ----------
    shows
        Whether a trial shows the finding; holds for ``trial``.
    seconds
        After which what was reached is returned.
    """
    deadline, smaller = monotonic() + seconds, True
    while smaller:
        smaller = False
        for candidate in _simpler(subject, trial):
            if monotonic() > deadline:
                return trial
            if shows(candidate):
                trial, smaller = candidate, True
                break
    return trial


def _simpler(subject: Subject, trial: Trial) -> Iterator[Trial]:
    if trial.compiled:
        yield replace(trial, compiled=False)
    if trial.num_threads != 1:
        yield replace(trial, num_threads=1)
    if trial.layout != "contiguous":
        yield replace(trial, layout="contiguous")
    if len(trial.gradients) > 1:
        for name in trial.gradients:
            yield replace(trial, gradients=(name,))
    if trial.gradients:
        yield replace(trial, gradients=())
    if trial.data not in ("ones", "normal"):
        yield replace(trial, data="ones")
        yield replace(trial, data="normal")
    fixed = {dim for entry in subject.inputs if entry.role == "weight" for dim in entry.dims}
    for place, (name, size) in enumerate(trial.sizes):
        for less in dict.fromkeys((1, size // 16, size // 4, size // 2, size * 3 // 4, size - 1)):
            # Weights of two dimensions belong to modules, whose sizes depend on each other.
            if 0 < less < size and not (name in fixed and "e" in fixed):
                sizes = list(trial.sizes)
                sizes[place] = (name, less)
                yield replace(trial, sizes=tuple(sizes))
