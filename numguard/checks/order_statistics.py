"""Sorting, selection and running maxima, judged by counting: what a result claims is checked, not computed again.

A sort is right when its values are the elements at its indices, in order, and its indices are a permutation. The k-th
smallest is right when fewer than k elements lie below it and at least k do not lie above. NaN counts as the greatest.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, checks_of, cost_per_element
from numguard.checks.exact_results import claims, exact_values
from numguard.checks.extremum_rows import Lines, lines_of
from numguard.checks.order_examples import EXAMPLES
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison

COST: Final = 6.0


def _above(a: Tensor, b: Tensor) -> Tensor:
    """Return where ``a`` ranks above ``b``: NaN above everything else."""
    return (a > b) | (a.isnan() & ~b.isnan())


def _distinct(lines: Lines, indices: Tensor, probe: Probe) -> Tensor:
    """Return how many results of each row name an element that another names too, ``[rows]``."""
    count = lines.values.shape[-1]
    marks = torch.zeros_like(lines.values).scatter(1, indices.clamp(0, max(0, count - 1)), 1.0)
    return indices.shape[1] - probe.arithmetic.total(marks, (1,), False)


def _count(flags: Tensor, probe: Probe) -> Tensor:
    return probe.arithmetic.total(flags.to(torch.float64), (-1,), False)


def _sort(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    lines = lines_of(call, call.output, call["dim"], COST, probe)
    if lines is None:
        return ()
    values, indices = lines.results
    before, after = values[:, :-1], values[:, 1:]
    descending = bool(call["descending"])
    disorder = _above(after, before) if descending else _above(before, after)
    found = [
        exact_values("values", values, lines.at(indices)),
        claims("order", _count(disorder, probe)),
        claims("indices", _distinct(lines, indices, probe)),
    ]
    if call.arguments.get("stable"):
        tied = ~_above(before, after) & ~_above(after, before) & (indices[:, 1:] < indices[:, :-1])
        found.append(claims("stability", _count(tied, probe)))
    return found


def _topk(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    if not call["k"]:
        return ()
    lines = lines_of(call, call.output, call["dim"], COST, probe)
    if lines is None:
        return ()
    values, indices = lines.results
    largest = bool(call["largest"])

    def better(a: Tensor, b: Tensor) -> Tensor:
        return _above(a, b) if largest else _above(b, a)

    found = [
        exact_values("values", values, lines.at(indices)),
        claims("indices", _distinct(lines, indices, probe)),
    ]
    if values.shape[1] == 1:
        return [*found, claims("selection", _count(better(lines.values, values), probe))]
    if call["sorted"]:
        last = values[:, -1:]
        found.append(claims("order", _count(better(values[:, 1:], values[:, :-1]), probe)))
        # As many elements rank above the last one as there are results that do.
        missed = _count(better(lines.values, last), probe) - _count(better(values, last), probe)
        found.append(claims("selection", missed))
    return found


def _rank(lines: Lines, values: Tensor, rank: Tensor | float, valid: Tensor, probe: Probe) -> Comparison:
    """Claim that ``values [rows, 1]`` have rank ``rank``, from one, among the valid elements of their row."""
    below = _count(_above(values, lines.values) & valid, probe)
    not_above = _count(~_above(lines.values, values) & valid, probe)
    return claims("rank", (below >= rank).to(torch.float64) + (not_above < rank).to(torch.float64))


def _kth(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    lines = lines_of(call, call.output, call["dim"], COST, probe)
    if lines is None:
        return ()
    values, indices = lines.results
    everything = torch.ones_like(lines.values, dtype=torch.bool)
    return (
        exact_values("values", values, lines.at(indices)),
        _rank(lines, values, float(call["k"]), everything, probe),
    )


def _median(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    skips_nan = "nanmedian" in call.op
    lines = lines_of(call, call.output, call.arguments.get("dim"), COST, probe)
    if lines is None or not lines.values.shape[-1]:
        return ()
    values, *indices = lines.results
    valid = ~lines.values.isnan()
    count = _count(valid, probe)
    length = float(lines.values.shape[-1])
    if skips_nan:
        empty, rank = count == 0, ((count + 1.0) / 2.0).floor()
    else:
        empty, rank = count < length, torch.full_like(count, float(int(length + 1) // 2))
    claimed = _rank(lines, values, rank, valid, probe)
    wrong = torch.where(empty, (~values[:, 0].isnan()).to(torch.float64), claimed.computed)
    found = [claims("rank", wrong)]
    if indices:
        found.append(exact_values("values", values, lines.at(indices[0])))
    return found


def _running(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    """Running extrema by doubling: after k steps every place holds the extremum of the last 2^k elements."""
    lines = lines_of(call, call.output, call["dim"], 2.0 * COST, probe)
    if lines is None:
        return ()
    values, indices = lines.results
    sign = 1.0 if "cummax" in call.op else -1.0
    best, reach = lines.values * sign, 1
    while reach < best.shape[-1]:
        best = torch.cat([best[:, :reach], torch.maximum(best[:, reach:], best[:, :-reach])], dim=1)
        reach *= 2
    places = torch.arange(indices.shape[-1], device=indices.device)
    return (
        exact_values("values", values, best * sign),
        exact_values("indices", lines.at(indices), best * sign),
        claims("reach", _count(indices > places, probe)),
    )


_ADVICE: Final = "Selecting must be exact: repeat it on another device, and drain this one if the results differ."

CHECKS: tuple[Check, ...] = checks_of(
    "extrema",
    {
        "sort": (_sort, ("sort", "sort.stable", "sort.values", "sort.values_stable")),
        "topk": (_topk, ("topk", "topk.values")),
        "kthvalue": (_kth, ("kthvalue", "kthvalue.values")),
        "median": (_median, ("median", "median.dim", "median.dim_values", "nanmedian", "nanmedian.dim")),
        "cummax": (_running, ("cummax", "cummax.out", "cummin", "cummin.out")),
    },
    EXAMPLES,
    cost=cost_per_element("self", COST),
    advice=_ADVICE,
)
