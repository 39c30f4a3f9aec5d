"""Largest and smallest elements and their places: max, min, amax, amin, aminmax, argmax, argmin."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, checks_of, cost_per_element
from numguard.checks.exact_results import exact_values
from numguard.checks.extremum_examples import EXAMPLES
from numguard.checks.extremum_rows import Lines, largest, lines_of
from numguard.checks.reduced_rows import require_numbers, rows_of
from numguard.shadow.call import OpCall, tensors_in
from numguard.shadow.comparison import Comparison, NotCovered

COST: Final = 2.0


def _refuse_long_integers(source: Tensor) -> None:
    require_numbers(source)
    if source.dtype == torch.int64:
        raise NotCovered("64-bit integers, which float64 cannot tell apart")


def _extreme(rows: Tensor, sign: float, probe: Probe) -> Tensor:
    return sign * largest(probe.arithmetic, sign * rows)


def _values(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    """Compare amax, amin, aminmax and the plain max and min over any dimensions."""
    results = tensors_in(call.output)
    _refuse_long_integers(call["self"])
    name = call.op.removeprefix("aten::").partition(".")[0]
    signs = (-1.0, 1.0) if name == "aminmax" else (1.0 if "max" in name else -1.0,)
    comparisons = []
    for result, sign in zip(results, signs, strict=True):
        rows = rows_of(call["self"], result, call.arguments.get("dim"), probe, cost=COST, in_pieces=False)
        if not rows.result.numel() or not rows.num_terms:
            continue
        flat = rows.source.to(torch.float64).reshape(rows.result.numel(), -1)
        exact = _extreme(flat, sign, probe).reshape(rows.result.shape)
        comparisons.append(exact_values("max" if sign > 0 else "min", rows.result, exact))
    return comparisons


def _placed(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    """Compare values and the elements at their indices; argmax and argmin have only the latter."""
    _refuse_long_integers(call["self"])
    lines = lines_of(call, call.output, call["dim"], COST, probe)
    if lines is None:
        return ()
    sign = 1.0 if "max" in call.op.partition("::")[2] else -1.0
    exact = _extreme(lines.values, sign, probe).unsqueeze(-1)
    *values, indices = lines.results
    found = [exact_values("values", value, exact) for value in values]
    return (*found, exact_values("indices", _chosen(lines, indices, sign), exact))


def _chosen(lines: Lines, indices: Tensor, sign: float) -> Tensor:
    """Return the elements at the indices; one that is out of range is the worst possible choice."""
    count = lines.values.shape[-1]
    inside = (indices >= 0) & (indices < count)
    return torch.where(inside, lines.at(indices), -sign * torch.inf)


_ADVICE: Final = (
    "An extremum is one of its elements and must be exact: repeat it on another device, then drain this one."
)

CHECKS: tuple[Check, ...] = checks_of(
    "extrema",
    {
        "extreme_values": (_values, ("max", "min", "amax", "amin", "aminmax", "amax.out", "amin.out")),
        "extreme_places": (_placed, ("max.dim", "min.dim", "max.dim_max", "min.dim_min", "argmax", "argmin")),
    },
    EXAMPLES,
    cost=cost_per_element("self", COST),
    advice=_ADVICE,
)
