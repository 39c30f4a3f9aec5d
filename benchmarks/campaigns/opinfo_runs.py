"""PyTorch's own sample inputs of one operator in one dtype: every checked call judged, and a fault under each."""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.campaigns.planted_control import REFUSALS, fault_is_found, judged_in
from numguard.inquiry import Answer, Inquiry

DTYPES: Final = {str(dtype)[6:]: dtype for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}
MOST_CONTROLS: Final = 6  # samples in which a fault under one operator is tried until one is found


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """An ``error`` or ``degraded`` finding without a planted fault: a defect of PyTorch, or a false alarm.

    Parameters
    ----------
    kind, op, output, phase, message
        As the finding says.
    sample
        Position among the samples.
    ratio
        Error over bound; None where there is no figure.
    """

    kind: str
    op: str
    output: str
    phase: str
    sample: int
    ratio: float | None
    message: str


@dataclass(slots=True)
class Tally:
    """What was judged of one operator."""

    num_calls: int = 0
    num_elements: int = 0
    worst_ratio: float = 0.0


@dataclass(slots=True)
class SampleRun:
    """All samples of one entry of PyTorch's list in one dtype.

    Parameters
    ----------
    entry, dtype
        Name in the list, and dtype of the inputs.
    num_samples, num_backward
        Samples that ran, and those of them that were differentiated.
    operators
        What was judged, by operator.
    alarms
        Errors without a planted fault.
    warned
        Other findings, by kind, operator, output.
    controls
        Whether the fault under an operator was found, by operator; None where no sample gave a judged number to it.
    refused
        Samples that torch did not take, by reason.
    uncovered
        Calls of checked operators without a verdict, by reason.
    seconds
        Processor time.
    """

    entry: str
    dtype: str
    num_samples: int = 0
    num_backward: int = 0
    operators: dict[str, Tally] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    warned: dict[str, int] = field(default_factory=dict)
    controls: dict[str, bool | None] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    uncovered: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def num_elements(self) -> int:
        """Results that were compared with their shadows."""
        return sum(tally.num_elements for tally in self.operators.values())


@cache
def entries() -> tuple[Any, ...]:
    """Return PyTorch's list of operators with sample inputs, always in the same order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    return tuple(op_db)


def entry_name(entry: Any) -> str:
    """Return the name of an entry with its variant."""
    return f"{entry.name}.{entry.variant_test_name}" if entry.variant_test_name else str(entry.name)


def run_samples(
    entry: Any, dtype_name: str, *, seed: int = 0, most: int | None = None, with_controls: bool = True
) -> SampleRun:
    """Judge every checked call in the samples of an entry, then those of the same samples with faults.

    Parameters
    ----------
    entry
        Of :func:`entries`.
    dtype_name
        Of :data:`DTYPES`.
    seed
        Of the samples.
    most
        Samples to take, from the first; None for all.
    with_controls
        Whether faults are planted afterwards.
    """
    began, dtype = time.process_time(), DTYPES[dtype_name]
    run = SampleRun(entry=entry_name(entry), dtype=dtype_name)
    if dtype not in entry.supported_dtypes("cpu"):
        return run
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _judge_samples(run, entry, dtype, seed, most, with_controls)
    run.seconds = time.process_time() - began
    return run


def _samples(entry: Any, dtype: torch.dtype, seed: int, most: int | None) -> Iterator[Any]:
    torch.manual_seed(seed)
    differentiable = entry.supports_autograd and dtype in entry.supported_backward_dtypes("cpu")
    return islice(entry.sample_inputs("cpu", dtype, requires_grad=differentiable), most)


def _judge_samples(
    run: SampleRun, entry: Any, dtype: torch.dtype, seed: int, most: int | None, with_controls: bool
) -> None:
    inquiry = Inquiry()
    tried: Counter[str] = Counter()
    samples = _samples(entry, dtype, seed, most)
    for number in range(1 << 30):
        try:
            sample = next(samples)
        except StopIteration:
            return
        except REFUSALS as refusal:
            _count(run.refused, _reason(refusal))
            return
        try:
            answer = inquiry.ask(_computed, (entry, sample, seed + number), {})
        except REFUSALS as refusal:
            _count(run.refused, _reason(refusal))
            continue
        run.num_samples += 1
        run.num_backward += bool(answer.result)
        _enter(run, answer, number)
        for op, when in judged_in(answer).items() if with_controls else ():
            if not run.controls.get(op) and tried[op] < MOST_CONTROLS:
                tried[op] += 1
                run.controls[op] = fault_is_found(op, when, partial(_computed, entry, sample, seed + number))


def _computed(entry: Any, sample: Any, seed: int) -> bool:
    """Run a sample in every way that torch offers; return whether it was differentiated."""
    torch.manual_seed(seed)
    output = entry.op(sample.input, *sample.args, **sample.kwargs)
    with torch.no_grad():
        if entry.inplace_variant is not None and isinstance(sample.input, Tensor):
            with suppress(*REFUSALS):
                entry.inplace_variant(sample.input.detach().clone(), *sample.args, **sample.kwargs)
        if entry.supports_out:
            with suppress(*REFUSALS):
                room = [torch.empty_like(leaf) for leaf in tree_leaves(output)]
                entry.op(sample.input, *sample.args, **sample.kwargs, out=room[0] if len(room) == 1 else tuple(room))
    ends = [leaf for leaf in tree_leaves(sample.output_process_fn_grad(output)) if _is_differentiable(leaf)]
    starts = [leaf for leaf in tree_leaves((sample.input, sample.args, sample.kwargs)) if _is_differentiable(leaf)]
    if not ends or not starts:
        return False
    torch.autograd.grad(ends, starts, [torch.randn_like(end) for end in ends], allow_unused=True)
    return True


def _is_differentiable(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad


def _count(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


def _reason(refusal: Exception) -> str:
    return f"{type(refusal).__name__}: {str(refusal).partition(chr(10))[0][:120]}"


def _enter(run: SampleRun, answer: Answer, number: int) -> None:
    for judged in answer.judged:
        tally = run.operators.setdefault(judged.call.op, Tally())
        tally.num_calls += 1
        for verdict in judged.verdicts:
            tally.num_elements += int(verdict.num_elements)
            tally.worst_ratio = max(tally.worst_ratio, verdict.worst_ratio)
    for reason in answer.reasons:
        _count(run.uncovered, reason)
    for finding in answer.findings:
        output = str(finding.evidence.get("output", "")).partition("[")[0]
        if finding.severity == "error" or finding.kind == "degraded":
            run.alarms.append(
                Alarm(
                    kind=finding.kind,
                    op=finding.op,
                    output=output,
                    phase=finding.phase,
                    sample=number,
                    ratio=finding.ratio,
                    message=finding.message,
                )
            )
        else:
            _count(run.warned, f"{finding.kind} {finding.op} {output}")


Progress = Callable[[SampleRun], object]


def run_entries(chosen: Sequence[Any], dtypes: Sequence[str], seed: int, tell: Progress) -> None:
    """Run entries in each dtype and hand on every run in which something was judged or refused."""
    for entry in chosen:
        for dtype in dtypes:
            run = run_samples(entry, dtype, seed=seed)
            if run.operators or run.alarms or run.refused:
                tell(run)
