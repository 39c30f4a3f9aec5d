"""A dispatch mode that examines every covered call inside it, along the route that is asked for."""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from numguard.checks import checks_for
from numguard.checks.check import Probe
from numguard.checks.examination import examine, perform
from numguard.shadow.call import overload_name
from numguard.shadow.comparison import NotCovered
from numguard.shadow.routes import NUMPY


class Watch(TorchDispatchMode):
    """Captures and examines the calls of some checks.

    Parameters
    ----------
    names
        Checks to run.
    probe
        How.
    """

    def __init__(self, *names: str, probe: Probe | None = None) -> None:
        super().__init__()
        self.names = names
        self.probe = Probe(arithmetic=NUMPY) if probe is None else probe
        self.wrong: list[str] = []
        self.inaccurate: dict[str, float] = {}
        self.not_covered: Counter[str] = Counter()
        self.checked: Counter[str] = Counter()
        self.judged = 0
        self.indeterminate = 0
        self.worst = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = overload_name(func), kwargs or {}
        check = next((check for check in checks_for(name) if check.name in self.names), None)
        if check is None:
            return func(*args, **kwargs)
        call, captured = perform(check, func, args, kwargs, self.probe)
        try:
            results = examine(check, call, captured, self.probe)
        except NotCovered as reason:
            self.not_covered[f"{name}: {reason}"] += 1
            return call.output
        self.checked[name] += 1
        for comparison, verdict in results:
            self.worst = max(self.worst, verdict.worst_ratio)
            self.judged += int(verdict.num_elements)
            self.indeterminate += int(verdict.num_indeterminate)
            where = f"{name} {[describe(value) for value in (*args, *kwargs.items())]}"
            if verdict.wrong:
                self.wrong.append(f"{where} {comparison.output} {verdict}")
            elif verdict.inaccurate:
                self.inaccurate[where] = verdict.worst_strict_ratio
        return call.output


def describe(value: Any) -> str:
    """Return shape, strides and dtype of a tensor, or the value itself."""
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)}/{value.stride()} {value.dtype}"
    return str(value)
