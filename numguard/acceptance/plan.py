"""Which trials a level runs: pairs of what matters together, instead of the product of everything."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

from numguard.acceptance.adversaries import DATA, EXTREME, GROWING, LAYOUTS, NONFINITE, fits
from numguard.acceptance.subjects import Subject
from numguard.acceptance.trials import DTYPES, Trial

Figures = tuple[tuple[str, int], ...]
Level = Literal["quick", "full"]
_TRAINING: Final = ("float32", "bfloat16", "float16")
_SHIFTED: Final = ("normal", "shifted")


def trials_of(subject: Subject, level: Level, num_threads: int) -> Iterator[Trial]:
    """Return the eager trials of a subject, most telling first, each once.

    Parameters
    ----------
    num_threads
        The largest number of threads that is tried.
    """
    seen = set()
    for trial in _every(subject, level, num_threads):
        if trial not in seen:
            seen.add(trial)
            yield trial


def balanced(families: Mapping[str, Sequence[Sequence[Trial]]], seed: int = 0) -> list[Trial]:
    """Return the trials of many subjects in an order in which they can be broken off.

    Whenever that is, about the same share of every family was run, and of each subject what tells most.

    Parameters
    ----------
    families
        The trials of each subject, most telling first, by family.
    seed
        Of the order of the subjects among each other.
    """
    ranked: list[tuple[float, Trial]] = []
    for family, groups in families.items():
        order = [*groups]
        random.Random(f"{seed} {family}").shuffle(order)
        longest = max((len(group) for group in order), default=0)
        trials = [group[rank] for rank in range(longest) for group in order if rank < len(group)]
        ranked += [(place / len(trials), trial) for place, trial in enumerate(trials)]
    return [trial for _, trial in sorted(ranked, key=lambda entry: entry[0])]


def _every(subject: Subject, level: Level, num_threads: int) -> Iterator[Trial]:
    figures = [tuple(sizes.items()) for sizes in subject.sizes]
    if subject.family == "pipelines":  # for the compiler: each operator by itself is a subject elsewhere
        return
    longest = max(figures, key=lambda sizes: _num_elements(subject, dict(sizes)))
    yield from _exhaustive(subject, figures, longest) if level == "full" else _telling(subject, figures, longest)
    everything = _with_gradient(subject)
    if num_threads > 1:
        for dtype in _TRAINING if level == "full" else ("bfloat16",):
            yield _trial(subject, dtype, longest, "ones", everything, num_threads=num_threads)


def _telling(subject: Subject, figures: list[Figures], longest: Figures) -> Iterator[Trial]:
    """Return the few trials that tell most: data that grow, data far from zero, data at the end of the range."""
    everything, smallest = _with_gradient(subject), figures[0]
    for dtype in _TRAINING:
        yield _trial(subject, dtype, smallest, "normal", everything)
        yield _trial(subject, dtype, longest, "ones", everything)
        yield _trial(subject, dtype, smallest, "huge" if dtype == "float16" else "huge_signed", everything)
    yield _trial(subject, "bfloat16", longest, "near_one", everything)
    for sizes in figures:
        yield _trial(subject, "float32", sizes, "far", everything)
    for layout in _layouts_of(subject):
        yield _trial(subject, "float32", smallest, "shifted", everything, layout=layout)
        if layout in ("transposed", "channels_last"):
            for name in everything if len(everything) > 1 else ():
                yield _trial(subject, "float32", smallest, "normal", (name,), layout=layout)


def _exhaustive(subject: Subject, figures: list[Figures], longest: Figures) -> Iterator[Trial]:
    everything, smallest = _with_gradient(subject), figures[0]
    for dtype in DTYPES:
        for sizes in figures:
            for data in ("normal", "ones", "far"):
                yield _trial(subject, dtype, sizes, data, everything)
        for data in DATA:
            yield _trial(subject, dtype, longest if data in GROWING - EXTREME else smallest, data, everything)
    for layout in _layouts_of(subject):
        for sizes in figures:
            for dtype in _TRAINING:
                for data in _SHIFTED:
                    yield _trial(subject, dtype, sizes, data, everything, layout=layout)
        for dtype in _TRAINING:
            for name in everything if len(everything) > 1 else ():
                yield _trial(subject, dtype, smallest, "normal", (name,), layout=layout)


def _layouts_of(subject: Subject) -> list[str]:
    num_dims = max((len(entry.dims) for entry in subject.inputs if entry.role == "values"), default=0)
    return [layout for layout in LAYOUTS if layout != "contiguous" and fits(layout, num_dims)]


def large_trials(subject: Subject) -> Iterator[Trial]:
    """Return trials past the numbers that a float can count to."""
    for sizes in subject.large:
        figures = tuple(sizes.items())
        past_int32 = _num_elements(subject, sizes) > 1 << 30
        for dtype in ("bfloat16",) if past_int32 else ("float32",):
            for data in ("ones",) if past_int32 else ("ones", "positive"):
                gradients = _with_gradient(subject) if _num_elements(subject, sizes) < 1 << 26 else ()
                yield _trial(subject, dtype, figures, data, gradients)


def compiled_trials(subject: Subject) -> Iterator[Trial]:
    """Return the trials that are compiled: few, because a compiler takes seconds."""
    figures = [tuple(sizes.items()) for sizes in subject.sizes]
    if subject.family == "pipelines":
        for sizes in figures:
            for layout in ("channels_last", "contiguous"):
                yield _trial(subject, "float32", sizes, "normal", (), layout=layout, compiled=True)
        return
    gradients = _with_gradient(subject)
    longest = max(figures, key=lambda sizes: _num_elements(subject, dict(sizes)))
    yield _trial(subject, "float32", longest, "far", gradients, compiled=True)
    yield _trial(subject, "bfloat16", longest, "ones", gradients, compiled=True)
    yield _trial(subject, "float32", longest, "normal", gradients, compiled=True)


def num_bytes(subject: Subject, trial: Trial) -> int:
    """Return the memory that a trial needs, its references in float64 included."""
    elements = _num_elements(subject, dict(trial.sizes))
    width = DTYPES[trial.dtype].itemsize
    return elements * (2 * width if elements > 1 << 27 else 2 * width + 7 * 8)


def _trial(
    subject: Subject,
    dtype: str,
    sizes: Figures,
    data: str,
    gradients: tuple[str, ...],
    *,
    layout: str = "contiguous",
    num_threads: int = 1,
    compiled: bool = False,
) -> Trial:
    return Trial(
        subject=subject.name,
        dtype=dtype,
        sizes=sizes,
        data=data,
        layout=layout,
        gradients=() if data in NONFINITE else gradients,
        num_threads=num_threads,
        compiled=compiled,
    )


def _with_gradient(subject: Subject) -> tuple[str, ...]:
    if not subject.differentiable:
        return ()
    return tuple(entry.name for entry in subject.inputs if entry.role in ("values", "weight"))


def _num_elements(subject: Subject, sizes: Mapping[str, int]) -> int:
    total = 0
    for entry in subject.inputs:
        count = 1
        for size in entry.shape(sizes):
            count *= size
        total += count
    return total
