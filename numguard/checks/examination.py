"""Run one check on one call: capture before, judge after, along the route that the caller picks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from numguard.checks.check import Check, Probe
from numguard.shadow.call import OpCall, bind
from numguard.shadow.comparison import Compared
from numguard.shadow.verdict import Verdict, evaluate, read


def perform(
    check: Check, overload: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], probe: Probe
) -> tuple[OpCall, Any]:
    """Run an operator as a guard does: capture what it overwrites, call it, and return the call and the copies."""
    before = OpCall(overload=overload, arguments=bind(overload, args, kwargs))
    with torch.no_grad():
        captured = check.capture(before, probe) if check.capture else None
    output = overload(*args, **kwargs)
    return OpCall(overload=overload, arguments=before.arguments, output=output), captured


def examine(check: Check, call: OpCall, captured: Any, probe: Probe) -> list[tuple[Compared, Verdict]]:
    """Return every comparison of a call with its verdict, read at once.

    Raises
    ------
    NotCovered
        Where the check cannot judge this call.
    """
    with torch.no_grad():
        comparisons = check.judge(call, captured, probe)
        return [(comparison, read(evaluate(comparison))) for comparison in comparisons]
