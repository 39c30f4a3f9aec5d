"""``numguard demo``: a wrong ``torch.sum`` in a real training run, and what numguard says of it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Annotated, Final, Literal

import torch
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from numguard.demonstration import Phase, Story, Telling, num_steps_within, sparklines, tell
from numguard.errors import UsageError
from numguard.report import write_html

_SECONDS: Final = 55.0
_QUICK_SECONDS: Final = 12.0
_LABELS: Final[dict[Phase, str]] = {
    "healthy": "healthy build",
    "faulty": "torch.sum is broken",
    "again": "again, healthy and unguarded",
}


def demonstrate(
    *,
    fault: Literal["sum", "none"] = "sum",
    seed: int = 0,
    steps: int | None = None,
    out: Path | None = None,
    quick: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Train a small GPT, break torch.sum half way as a broken build would, and show what numguard says.

    Takes about a minute on one core. Exits with 0 when the planted fault was found (with --fault none: when nothing
    was), with 1 otherwise.

    Parameters
    ----------
    fault
        What is broken half way.
    seed
        Of weights, batches and checks.
    steps
        Steps of training; as many as fit into the time by default.
    out
        Folder for the report; it must be empty. By default a new one here.
    quick
        End within 20 seconds.
    """
    console = Console(highlight=False)
    if steps is not None and steps < 2:
        raise UsageError(f"--steps {steps} leaves no step for each half; give at least 2")
    folder = _empty_folder(out)
    with _one_thread():
        return _demonstrated(console, folder, fault, seed, steps, quick)


def _demonstrated(
    console: Console, folder: Path, fault: Literal["sum", "none"], seed: int, steps: int | None, quick: bool
) -> int:
    num_steps = steps or num_steps_within(_QUICK_SECONDS if quick else _SECONDS)
    telling = Telling(folder=folder, num_steps=num_steps, fault=fault, seed=seed)
    console.print(
        f"A byte-level GPT learns the source text of Python's standard library: {telling.num_steps} steps.\n"
        f"numguard may spend {telling.budget:.1%} of the time."
    )
    with _bars(console, telling) as advance:
        story = tell(telling, advance)
    report = write_html(folder)
    _print_curves(console, telling, story)
    _print_findings(console, telling, story)
    console.print(f"\nReport: {report}", soft_wrap=True)
    found = story.culprit is not None if fault == "sum" else bool(story.faults)
    return int(found == (fault == "none"))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Train with one thread: the model is too small for more, and those that wait for a busy processor cost minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _empty_folder(out: Path | None) -> Path:
    if out is None:
        names = ("numguard-demo", *(f"numguard-demo-{number}" for number in range(2, 1000)))
        out = next((Path(name) for name in names if not Path(name).exists()), None)
        if out is None:
            raise UsageError("there are 999 folders named numguard-demo here already; remove some, or give --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        occupied = any(out.iterdir())
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}; give another folder with --out") from None
    if occupied:
        raise UsageError(f"{out} is not empty; give another folder with --out")
    return out


class _Advance:
    """Moves the bar of a phase on."""

    def __init__(self, progress: Progress, telling: Telling) -> None:
        self._progress = progress
        self._tasks = {
            phase: progress.add_task(_label(phase, telling), total=telling.num_steps_of(phase))
            for phase in _LABELS
            if telling.num_steps_of(phase) > 0
        }

    def __call__(self, phase: Phase) -> None:
        self._progress.advance(self._tasks[phase])


@contextmanager
def _bars(console: Console, telling: Telling) -> Iterator[_Advance]:
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # What the guard would log comes below the bars, in full.
    log, silence = logging.getLogger("numguard"), logging.NullHandler()
    propagates, log.propagate = log.propagate, False
    log.addHandler(silence)
    try:
        with Progress(*columns, console=console, refresh_per_second=4) as progress:
            yield _Advance(progress, telling)
    finally:
        log.removeHandler(silence)
        log.propagate = propagates


def _label(phase: Phase, telling: Telling) -> str:
    return _LABELS["healthy"] if telling.fault == "none" else _LABELS[phase]


def _print_curves(console: Console, telling: Telling, story: Story) -> None:
    if telling.fault == "none":
        (line,) = sparklines([story.losses])
        console.print(f"\nloss           {line}  {_end(story.losses):.3f}")
        return
    healthy, faulty = sparklines([story.healthy_losses, story.losses])
    middle = len(faulty) * telling.planted_step // telling.num_steps
    console.print("\nThe loss shows nothing (right: its mean over the last tenth):")
    console.print(" " * (15 + middle) + "┌ torch.sum is broken")
    console.print(f"without fault  {healthy}  {_end(story.healthy_losses):.3f}")
    console.print(f"with fault     {faulty}  {_end(story.losses):.3f}")


def _end(losses: tuple[float, ...]) -> float:
    return mean(losses[-max(len(losses) // 10, 1) :])


def _print_findings(console: Console, telling: Telling, story: Story) -> None:
    spent = f"{story.num_checks} checks took {story.share_spent:.1%} of the time."
    if telling.fault == "none":
        found = "".join(f"\n  {finding}" for finding in story.faults)
        console.print(Text(f"\nnumguard found {'this:' if found else 'nothing.'}{found} {spent}"))
        return
    culprit = story.culprit
    if culprit is None:
        console.print(f"\nnumguard did not find the fault. {spent} Try more --steps or another --seed.")
        return
    clean = "never" if culprit.last_clean_step is None else f"step {culprit.last_clean_step}"
    in_backward = culprit.phase == "backward"
    also = ", ".join(str(other.location) for other in story.faults if other is not culprit)
    rows = {
        "operation": culprit.op + (" in backward, for what the line below computes" if in_backward else ""),
        "module": culprit.module or "outside of any module",
        "line": culprit.location or "unknown",
        "last clean": f"{clean}, the fault was planted at step {telling.planted_step}",
        "first caught": f"step {culprit.first_caught_step}",
        "error": f"{culprit.forward_error:.3g}, where {culprit.error_bound:.3g} is the bound of a correct sum",
        "also wrong": also or "nothing else",
        "what to do": culprit.advice,
    }
    console.print("\nnumguard names it:")
    for name, value in rows.items():
        console.print(Text(f"  {name:<14}{value}"), soft_wrap=True)
    console.print(spent)
