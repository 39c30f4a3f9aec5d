"""One clean training under an exhaustive guard, and the planted fault that shows that the guard was looking."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

import numguard
from numguard import Finding
from numguard.shadow.call import tensors_in
from numguard.testing import KernelCall, faulty_kernel
from tests.models import Recipe, Training
from tests.models.precision import Precision

#: Ways in which AdamW runs, taken in turn.
OPTIMIZERS: Final = ("fused", "foreach", "plain")
_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "plain": {"foreach": False},
}

#: Operators under which a fault is planted, taken in turn among those that a run executes.
CONTROLS: Final = (
    "aten::mm",
    "aten::native_layer_norm",
    "aten::embedding",
    "aten::sum.dim_IntList",
    "aten::addmm",
    "aten::_softmax",
    "aten::_log_softmax",
    "aten::bmm",
    "aten::embedding_dense_backward",
    "aten::nll_loss_forward",
    "aten::native_layer_norm_backward",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::convolution",
    "aten::convolution_backward",
    "aten::_grouped_mm",
)

#: Operators whose own kernels call one of :data:`CONTROLS`, so that its fault makes them as wrong (torch 2.13.0).
_BUILT_ON: Final = {"aten::sum.dim_IntList": frozenset({"aten::sum"})}


@dataclass(frozen=True, kw_only=True, slots=True)
class Warned:
    """A finding that is no error: what it says, without its place."""

    kind: str
    op: str
    output: str
    dtype: str
    ratio: float | None
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """What became of the planted fault: the operator it lay under, and the operators that errors named."""

    op: str
    named: tuple[str, ...]
    degraded: tuple[str, ...] = ()

    @property
    def found(self) -> bool:
        """The operator was named, none was that does not call it, and no check broke on the way."""
        others = set(self.named) - {self.op} - _BUILT_ON.get(self.op, frozenset())
        return self.op in self.named and not others and not self.degraded


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanRun:
    """One clean training.

    Parameters
    ----------
    subject, precision, optimizer, num_threads, num_steps
        What was trained, and how.
    num_calls, num_checks
        Calls of checked operators, and checks made.
    worst_ratio
        Largest error of an operator over its permissive bound: at most 1 where there is no error.
    seconds
        Processor time, both trainings and checks.
    errors
        Messages of ``error`` and ``degraded`` findings: false alarms, unless a defect of PyTorch is behind them.
    warned
        Every other finding.
    uncovered
        Calls without a verdict, by reason.
    control
        The planted fault.
    """

    subject: str
    precision: str
    optimizer: str
    num_threads: int
    num_steps: int
    num_calls: int
    num_checks: int
    worst_ratio: float
    seconds: float
    errors: tuple[str, ...]
    warned: tuple[Warned, ...]
    uncovered: dict[str, int]
    control: Control


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A run to be made.

    Parameters
    ----------
    subject, build
        Name, and what makes the model.
    precision, optimizer, num_threads, num_steps
        How it is trained; ``num_steps`` clean steps, then the one with the fault.
    turn
        Number of this run within a campaign: it picks the operator under which the fault lies.
    """

    subject: str
    build: Callable[[], Recipe]
    precision: Precision
    optimizer: str
    num_threads: int
    num_steps: int
    turn: int


def run_clean(plan: Plan) -> CleanRun:
    """Train with every call checked, then one step more with a fault under one operator.

    Raises
    ------
    RuntimeError
        If the fault never fired, so that the control says nothing.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(plan.num_threads)
    try:
        return _run(plan)
    finally:
        torch.set_num_threads(num_threads)


def _run(plan: Plan) -> CleanRun:
    began = time.process_time()
    training = Training(plan.build(), plan.precision, lr=1e-3, **_OPTIONS[plan.optimizer])
    with numguard.guard(training.model, training.optimizer, budget=None) as guard:
        for step in range(plan.num_steps):
            guard.step(training.step(step))
        clean, coverage = guard.findings, guard.coverage
        executed = {site.op for site in coverage.sites if site.checked}
        candidates = [op for op in CONTROLS if op in executed]
        op = candidates[plan.turn % len(candidates)]
        with faulty_kernel(op, _corrupt, when=_is_real) as fault:
            guard.step(training.step(plan.num_steps))
        control = _control(op, clean, guard.findings)
    if not fault.num_fired:
        raise RuntimeError(f"{op} did not run in the last step of {plan.subject}: the control says nothing")
    grave = [finding for finding in clean if finding.severity == "error" or finding.kind == "degraded"]
    return CleanRun(
        subject=plan.subject,
        precision=plan.precision,
        optimizer=plan.optimizer,
        num_threads=plan.num_threads,
        num_steps=plan.num_steps,
        num_calls=coverage.num_calls_seen,
        num_checks=coverage.num_checks,
        worst_ratio=max((site.worst_ratio for site in coverage.sites if not _is_region(site.op)), default=0.0),
        seconds=time.process_time() - began,
        errors=tuple(f"{finding.kind}: {finding.message}" for finding in grave),
        warned=tuple(_warned(finding) for finding in clean if finding not in grave),
        uncovered=dict(coverage.uncovered),
        control=control,
    )


def _is_region(op: str) -> bool:
    """Regions are measured by what one-ulp changes of their inputs do: their ratios may exceed 1."""
    return op.startswith("region ")


def _is_real(arguments: Mapping[str, Any]) -> bool:
    """Leave the counts and positions alone that a model indexes with: they would end the training, not wrong it."""
    tensors = [tensor for value in arguments.values() for tensor in tensors_in(value)]
    return bool(tensors) and tensors[0].is_floating_point()


def _corrupt(call: KernelCall) -> None:
    """Put the largest element of the first result far outside any bound."""
    result = call.results[0]
    if result.numel():
        index = tuple(int(i) for i in torch.unravel_index(result.abs().argmax(), result.shape))
        result[index] = 16.0 * float(result[index]) + 1.0


def _control(op: str, before: tuple[Finding, ...], after: tuple[Finding, ...]) -> Control:
    known = {finding.id for finding in before}
    new = [finding for finding in after if finding.id not in known]
    return Control(
        op=op,
        named=tuple(sorted({finding.op for finding in new if finding.severity == "error"})),
        degraded=tuple(finding.message for finding in new if finding.kind == "degraded"),
    )


def _warned(finding: Finding) -> Warned:
    evidence: Any = finding.evidence
    return Warned(
        kind=finding.kind,
        op=finding.op,
        output=str(evidence.get("output", "")).split("[")[0],
        dtype=str(evidence.get("dtype", "")),
        ratio=finding.ratio,
        message=finding.message,
    )
