"""Clean numbers by the thousand million: every checked operator on random data, and nothing may be called wrong.

Usage, from the repository's root::

    python -m benchmarks.campaigns.clean_elements --elements 1e9

It goes round all subjects with other random data each time, in every dtype and layout, until so many results have
been compared with their shadows or ``--seconds`` are over. In each subject and dtype one fault is planted, and has to
be found. It ends with status 1 for an error, or a fault that was not found.
"""

import argparse
import logging
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import torch

from benchmarks.campaigns.clean_subjects import clean_subjects
from benchmarks.campaigns.planted_control import REFUSALS, fault_is_found, judged_in
from numguard.acceptance.adversaries import LAYOUTS, fits
from numguard.acceptance.subjects import Subject
from numguard.acceptance.trials import DTYPES, Tensors, Trial, draw, run_trial
from numguard.checks import REGISTRY
from numguard.inquiry import Answer, Inquiry

DATA: Final = ("normal", "shifted", "wide", "positive", "outlier", "cancelling")
#: Elements of the largest input that a subject is enlarged to.
ENLARGED: Final = 1 << 18
_BATCHES: Final = ("b", "n", "m")  # dimensions that may grow without a change in what is computed


@dataclass(slots=True)
class CleanElements:
    """What a campaign did.

    Parameters
    ----------
    num_elements, num_calls
        Results that were compared with their shadows, and the calls they came from.
    by_check
        Results by check.
    errors
        What was called wrong without a fault.
    missed
        Faults that were not found.
    num_controls
        Faults that acted.
    seconds
        Wall time.
    worst_ratio
        Largest error over bound.
    refused
        Trials that torch does not take, by reason.
    """

    num_elements: int = 0
    num_calls: int = 0
    by_check: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    num_controls: int = 0
    seconds: float = 0.0
    worst_ratio: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def unreached(self) -> list[str]:
        """Checks of which nothing was judged."""
        return [name for name in REGISTRY if not self.by_check[name]]


def trial_of(subject: Subject, turn: int, seed: int, *, enlarged: int = ENLARGED) -> Trial:
    """Return the trial of a subject in a round, the same for the same seed.

    Sizes grow along the first dimension that only repeats the computation, up to ``enlarged`` elements.
    """
    choose = random.Random(f"{seed} {turn} {subject.name}")
    dtype = list(DTYPES)[turn % len(DTYPES)]
    sizes = dict(choose.choice(subject.sizes))
    batch = next((name for name in _BATCHES if name in sizes), None)
    if batch is not None:
        largest = max(_num_elements(subject, sizes), 1)
        sizes[batch] *= max(1, choose.choice((1, enlarged // 16, enlarged)) // largest)
    num_dims = max(len(entry.dims) for entry in subject.inputs)
    layouts = [name for name in LAYOUTS if name != "repeated" and fits(name, num_dims)]
    if (
        subject.family == "optimizers"
    ):  # whose fused kernels take gradients in the order of memory: a defect, docs/opinfo.md
        layouts = ["contiguous"]
    return Trial(
        subject=subject.name,
        dtype=dtype,
        sizes=tuple(sizes.items()),
        data=choose.choice(DATA),
        layout=choose.choice(layouts),
        gradients=_differentiated(subject),
    )


def _differentiated(subject: Subject) -> tuple[str, ...]:
    names = tuple(entry.name for entry in subject.inputs if entry.role not in ("index", "mask", "signs"))
    return names if subject.differentiable else ()


def control_trial_of(subject: Subject, dtype: str) -> Trial:
    """Return the smallest trial of a subject, where a bound is narrow even for additions in 16 bits."""
    sizes = tuple(subject.sizes[0].items())
    return Trial(subject=subject.name, dtype=dtype, sizes=sizes, gradients=_differentiated(subject))


def _num_elements(subject: Subject, sizes: dict[str, int]) -> int:
    counts = []
    for entry in subject.inputs:
        count = 1
        for size in entry.shape(sizes):
            count *= size
        counts.append(count)
    return max(counts)


def _drawn(subject: Subject, trial: Trial, seed: int) -> Tensors:
    torch.manual_seed(seed)
    return {entry.name: draw(entry, trial) for entry in subject.inputs}


def examine(done: CleanElements, subject: Subject, trial: Trial, seed: int) -> None:
    """Judge one trial, and add what became of it."""
    answer = _asked(done, subject, trial, seed)
    if answer is None:
        return
    for judged in answer.judged:
        count = sum(int(verdict.num_elements - verdict.num_indeterminate) for verdict in judged.verdicts)
        done.num_calls += 1
        done.num_elements += count
        done.worst_ratio = max([done.worst_ratio, *(verdict.worst_ratio for verdict in judged.verdicts)])
        for check in judged.checks:
            done.by_check[check] += count
    done.errors += [
        f"{trial}, seed {seed}: {finding}"
        for finding in answer.findings
        if finding.severity == "error" or finding.kind == "degraded"
    ]


def _computed(subject: Subject, trial: Trial, tensors: Tensors) -> Tensors:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of what some subjects ask for on purpose
        return run_trial(subject, trial, tensors)


def _asked(done: CleanElements, subject: Subject, trial: Trial, seed: int) -> Answer | None:
    try:
        return Inquiry().ask(_computed, (subject, trial, _drawn(subject, trial, seed)), {})
    except REFUSALS as refusal:
        done.refused[f"{subject.name} in {trial.dtype}: {str(refusal).partition(chr(10))[0]}"] += 1
        return None


def plant(done: CleanElements, subject: Subject, dtype: str, seed: int) -> None:
    """Plant a fault under one of the operators that a subject is judged by, another for each seed."""
    trial = control_trial_of(subject, dtype)
    answer = _asked(done, subject, trial, seed)
    judged = {} if answer is None else judged_in(answer)
    ops = sorted(judged)
    first = seed % max(1, len(ops))
    for op in ops[first:] + ops[:first]:
        tensors = _drawn(subject, trial, seed)
        found = fault_is_found(op, judged[op], partial(_computed, subject, trial, tensors))
        if found is None:
            continue
        done.num_controls += 1
        if not found:
            done.missed.append(f"{op} in {trial}, seed {seed}")
        return


def _is_defective(subject: Subject, trial: Trial) -> bool:
    """Leave out what torch 2.13.0 computes wrong on any data, which is a finding and not a clean number."""
    return "SGD" in subject.name and "fused=True" in subject.name and trial.dtype in ("bfloat16", "float16")


def run(
    *, num_elements: float, seconds: float = float("inf"), seed: int = 0, enlarged: int = ENLARGED
) -> CleanElements:
    """Go round the subjects until so many results were compared, or the time is over."""
    done, began, turn = CleanElements(), time.monotonic(), 0
    every = clean_subjects()
    while done.num_elements < num_elements and time.monotonic() - began < seconds:
        for number, subject in enumerate(every):
            trial = trial_of(subject, turn + number, seed + turn, enlarged=enlarged)
            if _is_defective(subject, trial):
                continue
            examine(done, subject, trial, seed + 1000 * turn + number)
            if turn < len(DTYPES):
                plant(done, subject, trial.dtype, turn)
            if turn and time.monotonic() - began > seconds:
                break
        turn += 1
    done.seconds = time.monotonic() - began
    return done


def main(given: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=float, default=1e9)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    logging.getLogger("numguard").setLevel(logging.CRITICAL)  # the controls are found, loudly
    done = run(num_elements=arguments.elements, seconds=arguments.seconds, seed=arguments.seed)
    for line in (*done.errors, *(f"not found: {line}" for line in done.missed)):
        print(line)
    for reason, count in done.refused.most_common():
        print(f"refused {count} times: {reason}")
    print(
        f"{done.num_elements:,} clean element checks of {done.num_calls:,} calls in {done.seconds:.0f} s "
        f"({done.num_elements / max(done.seconds, 1e-9):,.0f} a second): {len(done.errors)} errors, worst ratio "
        f"{done.worst_ratio:.6f}; {done.num_controls - len(done.missed)} of {done.num_controls} faults found; "
        f"{len(REGISTRY) - len(done.unreached)} of {len(REGISTRY)} checks reached"
        + (f", not {', '.join(done.unreached)}" if done.unreached else "")
    )
    return int(bool(done.errors or done.missed))


if __name__ == "__main__":
    sys.exit(main())
