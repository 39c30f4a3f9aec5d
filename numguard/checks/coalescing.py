"""Coalescing of sparse tensors: the values at equal indices are added up, and every index stands once, in order."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, checks_of
from numguard.checks.coalescing_examples import EXAMPLES
from numguard.checks.exact_results import exact_numbers, exact_sums
from numguard.checks.reduced_rows import require_numbers
from numguard.checks.sign_rules import of_one_sign
from numguard.checks.two_bounds import bounded_twice
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.numerics.error_bounds.scatter_bounds import slot_bound
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

COST: Final = 16.0


def _keys(tensor: Tensor) -> Tensor:
    """Return one number for the place of each entry of a sparse tensor, ``[n]``, in the order of memory."""
    indices = tensor._indices()
    keys = torch.zeros(indices.shape[1], dtype=torch.int64, device=indices.device)
    for row, size in zip(indices.unbind(0), tensor.shape, strict=False):
        keys = keys * size + row
    return keys


def _judge(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    source, output = call["self"].detach(), call.output.detach()
    if source.layout != torch.sparse_coo or output.layout != torch.sparse_coo:
        raise NotCovered("coalescing of other layouts")
    values, result = source._values(), output._values()
    require_numbers(values, result)
    if values.dtype == torch.bool:
        raise NotCovered("sums of booleans")
    if not values.numel() or not result.numel():
        return ()
    probe.afford(COST * values.numel())
    given, kept = _keys(source), _keys(output)
    place = torch.searchsorted(kept, given).clamp(max=len(kept) - 1)
    table = values.to(torch.float64).reshape(len(given), -1)
    width = table.shape[1]
    columns = (table, table.abs(), table.new_ones(len(given), 1))
    totals = probe.arithmetic.slot_totals(len(kept), place, torch.cat(columns, dim=1))
    exact, mass, hits = totals[:, :width], totals[:, width:-1], totals[:, -1:]
    ascending = kept[1:] > kept[:-1]
    return (
        *_sums(result.reshape(len(kept), -1), exact, mass, hits, probe),
        exact_numbers("indices", kept.take(place), given),
        exact_numbers("order", ascending, torch.ones_like(ascending)),
        exact_numbers("presence", (hits > 0).reshape(-1), torch.ones_like(hits).reshape(-1)),
    )


def _sums(result: Tensor, exact: Tensor, mass: Tensor, hits: Tensor, probe: Probe) -> list[Comparison]:
    if not result.dtype.is_floating_point:
        return [exact_sums("values", result, exact, mass)]

    def bound(dtype: torch.dtype) -> Tensor:
        limits = torch.finfo(dtype)
        return slot_bound(mass, hits, UNIT_ROUNDOFF[dtype], limits.smallest_normal, limits.max, scaled=False)

    compared = bounded_twice("values", result, exact, bound, SHADOW_ROUNDOFF * (hits + 4.0) * mass)
    if compared.permissive is None:
        return [compared]
    return [compared, of_one_sign("values", result, exact, mass, hits)]


def _cost(call: OpCall) -> float:
    return COST * float(call["self"]._values().numel()) if call["self"].layout == torch.sparse_coo else 0.0


CHECKS: tuple[Check, ...] = checks_of(
    "scatters",
    {"coalesce": (_judge, ("_coalesce",))},
    EXAMPLES,
    cost=_cost,
    reads_sparse=True,
    advice="Coalesce in float32: if only the 16-bit sums are off, keep this gradient wider; else drain the device.",
)
