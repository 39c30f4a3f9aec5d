"""Products in groups whose offsets lie on an accelerator: the host never reads which group a row or a term is in.

Sampled rows are multiplied by the matrices of their groups, sampled terms are added up by group. No checksum covers
the rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from numguard.checks.check import Probe
from numguard.checks.gemm import Gemm
from numguard.checks.matmul_precision import precision_now, reads_subnormals_as_zero
from numguard.checks.product_blocks import blocks_of
from numguard.checks.product_comparisons import FormedSums, bounded_elements, formed_elements
from numguard.checks.product_groups import Groups
from numguard.shadow.comparison import Comparison

HELD: Final = 1 << 22  # float64 elements of the largest temporary: 32 MiB


def _members(groups: Groups) -> tuple[Tensor, Tensor]:
    """Return the group of every row or term, G for those in none, and whether no offset decreases."""
    ends = groups.ends.to(torch.int64).contiguous()
    starts = torch.cat((ends.new_zeros(1), ends[:-1]))
    places = torch.arange(groups.num_members, device=ends.device)
    return torch.searchsorted(ends, places, right=True), (ends >= starts).all()


def _changed(compared: Comparison, change: Callable[[str], Tensor]) -> Comparison:
    """Return a comparison with other tensors, ``change(name)``."""
    return replace(
        compared,
        computed=change("computed"),
        exact=change("exact"),
        strict=change("strict"),
        permissive=None if compared.permissive is None else change("permissive"),
        shadow_error=change("shadow_error"),
    )


def _given(compared: Comparison, is_given: Tensor) -> Comparison:
    """Return a comparison that says nothing of results that are not given."""
    return _changed(compared, lambda name: torch.where(is_given, getattr(compared, name), 0.0))


def _joined(parts: Sequence[Comparison], dim: int) -> Comparison:
    """Return the comparisons of parts of one result as one."""
    return _changed(parts[0], lambda name: torch.cat([getattr(part, name) for part in parts], dim))


def _by_rows(groups: Groups, probe: Probe) -> Comparison:
    block, _ = blocks_of((1, *groups.shape), groups.a.shape[1], probe, is_summed=False)
    a, matrices = groups.a[block.rows], groups.b[:, :, block.columns]
    result = groups.result[block.rows, block.columns]
    member, is_usable = _members(groups)
    precision = precision_now(a.dtype, result.dtype, result.device.type)
    step = max(1, HELD // max(1, matrices.shape[1] * matrices.shape[2]))
    parts = []
    for rows, own, computed in zip(*(torch.split(x, step) for x in (a, member[block.rows], result)), strict=True):
        taken = matrices.index_select(0, own.clamp(max=len(matrices) - 1))
        gemm = Gemm(a=rows.unsqueeze(1), b=taken)
        compared = formed_elements(gemm, computed.unsqueeze(1), probe.arithmetic, precision)
        parts.append(_given(compared, ((own < len(matrices)) & is_usable).reshape(-1, 1, 1)))
    return _joined(parts, 0)


def _by_terms(groups: Groups, probe: Probe) -> Comparison:
    block, _ = blocks_of((1, *groups.shape), groups.num_members, probe, is_summed=False)
    a, b = groups.a[block.rows].to(torch.float64), groups.b[:, block.columns].to(torch.float64)
    result = groups.result[:, block.rows, block.columns]
    member, is_usable = _members(groups)
    num_groups, height = len(groups.ends), probe.arithmetic.height(groups.num_members)

    def totals(source: Tensor) -> Tensor:
        return probe.arithmetic.slot_totals(num_groups + 1, member, source)[:-1]

    num_terms = totals(torch.ones_like(member, dtype=torch.float64)).reshape(-1, 1, 1)
    precision = precision_now(groups.a.dtype, result.dtype, result.device.type)
    step = max(1, HELD // max(1, b.numel()))
    parts = []
    for rows, computed in zip(torch.split(a, step), torch.split(result, step, dim=1), strict=True):
        products = rows.t().unsqueeze(2) * b.unsqueeze(1)
        sizes: Tensor | float = 0.0
        if reads_subnormals_as_zero(groups.a.dtype):
            sizes = totals(rows.t().abs()).unsqueeze(2) + totals(b.abs()).unsqueeze(1)
        sums = FormedSums(totals(products), totals(products.abs()), sizes, num_terms, height)
        compared = bounded_elements(Gemm(a=groups.a, b=groups.b), computed, sums, precision)
        parts.append(_given(compared, is_usable))
    return _joined(parts, 1)


def compared_unread(groups: Groups, probe: Probe) -> Comparison:
    """Return the comparison of sampled elements of groups, without reading an offset.

    Parameters
    ----------
    groups
        What the operator multiplied, and its results.
    probe
        Route, limit and offset.

    Notes
    -----
    Nothing is said where an offset decreases: its rows would belong to two groups.
    """
    return _by_terms(groups, probe) if groups.by_terms else _by_rows(groups, probe)
