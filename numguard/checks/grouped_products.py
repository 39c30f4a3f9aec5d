"""The check of grouped matrix products, which mixtures of experts are made of.

Each group is judged as a matrix product of its own: this build calls ``mm`` for each (torch 2.13.0,
``GroupedMMUtils.h``), so that the models of a matrix product hold. Rows that belong to no group are left alone.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, checks_of
from numguard.checks.gemm import Gemm
from numguard.checks.grouped_examples import EXAMPLES
from numguard.checks.product_comparisons import compared_product
from numguard.checks.product_groups import Groups, Span, groups_of, spans_of
from numguard.checks.unread_groups import compared_unread
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Compared, NotCovered

GROUP_COST: Final = 4096.0  # operations that take as long as the verdict on a group itself


def _sampled(groups: Groups, spans: Sequence[Span], probe: Probe) -> list[tuple[Span, Probe]]:
    """Return the groups to judge, each with its share of the limit: as many as a row of each can be paid for."""
    costs = [GROUP_COST + groups.operations(span) for span in spans]
    if sum(costs) <= probe.limit:
        return [(span, probe) for span in spans]
    num_rows = [groups.shape[0] if groups.by_terms else span.end - span.start for span in spans]
    row = max(groups.operations(span) / rows for span, rows in zip(spans, num_rows, strict=True))
    chosen = probe.rows(len(spans), GROUP_COST + row)
    total = sum(costs[chosen])
    offset = probe.offset * (chosen.step or 1) % 1.0  # what is left of it picks the rows inside of a group
    return [
        (span, replace(probe, limit=probe.limit * cost / total, offset=offset))
        for span, cost in zip(spans[chosen], costs[chosen], strict=True)
    ]


def _host_values(ends: Tensor) -> list[int] | None:
    """Return the offsets where they lie in host memory."""
    return [int(end) for end in ends.numpy()] if ends.is_cpu else None


def _judge(call: OpCall, captured: Any, probe: Probe) -> Sequence[Compared]:
    a, b, result = call["self"], call["mat2"], call.output
    if call["bias"] is not None:
        raise NotCovered("grouped products with a bias")
    if not all(x.layout == torch.strided and x.dtype.is_floating_point and x.element_size() > 1 for x in (a, b)):
        raise NotCovered("grouped products of other than 16 bits or more")
    if not result.numel():
        return ()
    if call["offs"] is None:
        return compared_product(Gemm(a=a.detach(), b=b.detach()), result.detach(), probe)
    groups = groups_of(call)
    if not len(groups.ends):
        return ()
    ends = _host_values(groups.ends)
    if ends is None:
        return (compared_unread(groups, probe),)
    picked = _sampled(groups, spans_of(groups, ends), probe)
    return [compared for span, own in picked for compared in compared_product(*groups.piece(span), own)]


def _cost(call: OpCall) -> float:
    a, b = call["self"], call["mat2"]
    rows = a[0] if a.dim() > b.dim() else a
    return 2.0 * float(rows.numel() * b.shape[-1])


CHECKS: tuple[Check, ...] = checks_of(
    "contractions",
    {"grouped_matrix_product": (_judge, ("_grouped_mm",))},
    EXAMPLES,
    cost=_cost,
    advice="Multiply the groups one by one with torch.mm; if that is right, report the shapes, strides and offsets to "
    "PyTorch; if it is as wrong, run it on another device or thread count.",
)
