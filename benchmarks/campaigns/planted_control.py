"""The positive control of a campaign: one wrong number under an operator, which its check has to find."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from numguard.errors import UsageError
from numguard.finding import Finding
from numguard.inquiry import Answer, Inquiry
from numguard.shadow.call import tensors_in
from numguard.testing import KernelCall, faulty_kernel

Arguments = Mapping[str, Any]
When = Callable[[Arguments], bool]

#: What torch raises where it does not take a call: nothing was computed, so nothing is judged.
REFUSALS: Final = (NotImplementedError, RuntimeError, TypeError, ValueError, IndexError, AssertionError)

#: Operators that also take Python numbers for tensors, which a kernel in Python cannot hand on.
_UNREPLACEABLE: Final = frozenset(
    f"aten::{name}{end}.Tensor" for name in ("add", "sub", "mul", "div") for end in ("", "_")
)


def judged_in(answer: Answer) -> dict[str, When]:
    """Return the operators of which some number was compared with a bound, with the calls that a fault may act in."""
    judged: dict[str, When] = {}
    for call in answer.judged:
        if any(verdict.num_elements > verdict.num_indeterminate for verdict in call.verdicts):
            floats = _has_numbers(call.call.arguments)
            judged[call.call.op] = _has_numbers if floats else judged.get(call.call.op, _has_elements)
    return judged


def _has_numbers(arguments: Arguments) -> bool:
    """Leave counts alone that torch itself needs: a wrong one ends the call before anything is judged."""
    tensors = [tensor for value in arguments.values() for tensor in tensors_in(value)]
    return any(tensor.numel() and tensor.is_floating_point() for tensor in tensors)


def _has_elements(arguments: Arguments) -> bool:
    return any(tensor.numel() for value in arguments.values() for tensor in tensors_in(value))


def fault_is_found(op: str, when: When, run: Callable[[], object]) -> bool | None:
    """Return whether a fault under an operator is found while code runs; None where it cannot be planted or never acts.

    Parameters
    ----------
    op
        Operator under which the fault lies, and that an ``error`` has to name.
    when
        The calls of it that go wrong.
    run
        The code. What the wrong number leads to, an index out of range for instance, may end it: by then the call
        itself has been judged.
    """
    found: list[Finding] = []

    def attempt() -> None:
        try:
            run()
        except REFUSALS:
            return

    try:
        with faulty_kernel(op, corrupt, when=when) as fault:
            found += Inquiry().ask(attempt, (), {}).findings
    except UsageError:
        return None
    if not fault.num_fired:
        return None
    seen = any(finding.severity == "error" and finding.op == op for finding in found)
    return None if op in _UNREPLACEABLE and not seen else seen  # it may have ended before anything was judged


def corrupt(call: KernelCall) -> None:
    """Put the largest finite element of the first result that has one far outside any bound."""
    for result in call.results:
        if result.numel() and spoil(result):
            return


def spoil(result: Tensor) -> bool:
    """Make one element of a tensor wrong; return False where it has none that could be."""
    if not result.is_floating_point():
        first = (0,) * result.ndim
        result[first] = 1 if int(result[first]) == 0 else 0
        return True
    magnitude = result.detach().double().abs()
    magnitude = torch.where(torch.isfinite(magnitude), magnitude, -1.0)
    index = tuple(int(i) for i in torch.unravel_index(magnitude.argmax(), result.shape))
    if float(magnitude[index]) < 0.0:
        return False
    result[index] = 16.0 * float(result[index]) + 1.0
    return True
