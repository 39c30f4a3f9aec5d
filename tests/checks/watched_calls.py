"""Runs code under a mode that examines every operator that the given checks cover."""

import math
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from numguard.checks.check import Check, Example, Probe
from numguard.checks.examination import examine, perform
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall, overload_name
from numguard.shadow.comparison import Comparison, NotCovered
from numguard.shadow.routes import NUMPY, PAIRWISE, REDUCTION
from numguard.shadow.verdict import Verdict
from tests.checks.hard_images import DTYPES

ROUTES: tuple[Arithmetic, ...] = (NUMPY, PAIRWISE, REDUCTION)
SYNCHRONISING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::item"}


class Watch(TorchDispatchMode):
    """Captures and examines every covered operator that runs inside."""

    def __init__(self, checks: tuple[Check, ...], probe: Probe) -> None:
        super().__init__()
        self.by_op = {op: check for check in checks for op in check.ops}
        self.probe = probe
        self.checked: Counter[str] = Counter()
        self.not_covered: list[str] = []
        self.wrong: list[str] = []
        self.inaccurate: dict[str, float] = {}
        self.num_judged = 0
        self.num_indeterminate = 0
        self.worst_ratio = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        check = self.by_op.get(overload_name(func))
        if check is None:
            return func(*args, **kwargs)
        call, captured = perform(check, func, args, kwargs, self.probe)
        try:
            for comparison, verdict in examine(check, call, captured, self.probe):
                self.checked[call.op] += 1
                self.num_judged += int(verdict.num_elements)
                self.num_indeterminate += int(verdict.num_indeterminate)
                self.worst_ratio = max(self.worst_ratio, verdict.worst_ratio)
                if verdict.inaccurate:
                    self.inaccurate[call.op] = max(verdict.worst_strict_ratio, self.inaccurate.get(call.op, 0.0))
                if verdict.wrong:
                    self.wrong.append(f"{call.op} {comparison.output} {comparison.computed.dtype} {verdict}")
        except NotCovered as reason:
            self.not_covered.append(str(reason))
        return call.output


class Unsynchronised(TorchDispatchMode):
    """Refuses what would make an accelerator wait or move a generator."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = overload_name(func)
        tags = torch.Tag.nondeterministic_seeded
        if name.partition(".")[0] in SYNCHRONISING or tags in func.tags:
            raise AssertionError(f"{name} inside a shadow")
        if name.startswith("aten::index.Tensor") and any(x is not None and x.dtype == torch.bool for x in args[1]):
            raise AssertionError("boolean index inside a shadow")
        return func(*args, **(kwargs or {}))


def watches(
    checks: tuple[Check, ...], *, limits: tuple[float, float] = (math.inf, math.inf), offset: float = 0.0
) -> Iterator[tuple[torch.dtype, Watch]]:
    """Yield every dtype with a watch for it, along two routes in turn.

    The first limit is that of float64 and float32, the second that of 16 bits.
    """
    for number, dtype in enumerate(DTYPES):
        route, limit = (NUMPY, PAIRWISE)[number % 2], limits[number // 2]
        yield dtype, Watch(checks, Probe(arithmetic=route, limit=limit, offset=offset))


def examples(checks: tuple[Check, ...], kind: str) -> list[Any]:
    """Return the ``"silent"`` or ``"fires"`` examples of checks as pytest parameters: check, example, dtype."""
    return [
        pytest.param(check, example, dtype, id=f"{check.name}-{example.name}-{dtype}")
        for check in checks
        for example in getattr(check, kind)
        for dtype in example.dtypes
    ]


def verdicts_of(
    check: Check, example: Example, dtype: torch.dtype, probe: Probe, seed: int = 0
) -> list[tuple[Comparison, Verdict]]:
    """Run an example and return its verdicts, corrupted first where the example says how."""
    overload, args, kwargs = example.call(dtype, torch.Generator().manual_seed(seed))
    call, captured = perform(check, overload, args, kwargs, probe)
    if example.corrupt is not None:
        wrong = example.corrupt(call.output, args)
        call = OpCall(overload=call.overload, arguments=call.arguments, output=wrong)
    return examine(check, call, captured, probe)


def run_samples(name: str, dtype: torch.dtype, watch: Watch, most: int = 40) -> int:
    """Run PyTorch's own sample inputs of an operator, forward and backward, inside ``watch``; return how many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db

        count = 0
        torch.manual_seed(17)
        for op in (op for op in op_db if op.name == name):
            for sample in _samples(op, dtype, most):
                with watch:
                    result = op.op(sample.input, *sample.args, **sample.kwargs)
                    if isinstance(result, torch.Tensor) and result.requires_grad:
                        result.backward(torch.randn_like(result))
                count += 1
        return count


def _samples(op: Any, dtype: torch.dtype, most: int) -> Iterator[Any]:
    if dtype not in op.supported_dtypes("cpu"):
        return
    for number, sample in enumerate(op.sample_inputs("cpu", dtype, requires_grad=dtype.is_floating_point)):
        if number >= most:
            return
        yield sample
