"""Coalescing of sparse tensors: the values at equal indices are added up, and every index stands once, in order."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.check import Check, Example, Probe
from numguard.checks.planted_faults import flipped_bit, planted_nan
from numguard.checks.reduced_rows import model_of, require_numbers
from numguard.checks.sign_rules import of_one_sign
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.numerics.error_bounds.scatter_bounds import slot_bound
from numguard.numerics.formats import accumulator_dtype
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

COST: Final = 16.0
EXACT_INTEGERS: Final = 2.0**53

aten = torch.ops.aten


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
        _same("indices", kept.take(place), given),
        _same("order", ascending, torch.ones_like(ascending)),
        _same("presence", (hits > 0).reshape(-1), torch.ones_like(hits).reshape(-1)),
    )


def _same(output: str, computed: Tensor, exact: Tensor) -> Comparison:
    wide = (computed.to(torch.float64), exact.to(torch.float64))
    return Comparison(output=output, computed=wide[0], exact=wide[1], strict=0.0, rounds_output=False)


def _sums(result: Tensor, exact: Tensor, mass: Tensor, hits: Tensor, probe: Probe) -> list[Comparison]:
    if not result.dtype.is_floating_point:
        largest = min(EXACT_INTEGERS, float(torch.iinfo(result.dtype).max))
        exact = torch.where(mass <= largest, exact, torch.nan)
        return [_same("values", result, exact)]

    def bound(dtype: torch.dtype) -> Tensor:
        limits = torch.finfo(dtype)
        return slot_bound(mass, hits, UNIT_ROUNDOFF[dtype], limits.smallest_normal, limits.max, scaled=False)

    wide = accumulator_dtype(result.dtype)
    compared = Comparison(
        output="values",
        computed=result,
        exact=exact,
        strict=bound(wide),
        permissive=None if wide == result.dtype else bound(result.dtype),
        shadow_error=SHADOW_ROUNDOFF * (hits + 4.0) * mass,
        model=model_of(result),
        propagates_nonfinite=result.dtype != torch.float64,
    )
    return [compared] if wide == result.dtype else [compared, of_one_sign("values", result, exact, mass, hits)]


def _cost(call: OpCall) -> float:
    return COST * float(call["self"]._values().numel()) if call["self"].layout == torch.sparse_coo else 0.0


# examples -------------------------------------------------------------------------------------------------------


def _sparse(*dense: int, integers: bool = False) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        indices = torch.stack([torch.randint(0, size, (60,), generator=generator) for size in (3, 5)])
        values = torch.randn((60, *dense), generator=generator, dtype=torch.float64)
        values = (values * 9.0).round() if integers else values
        made = torch.sparse_coo_tensor(indices, values.to(dtype), (3, 5, *dense), check_invariants=True)
        return aten._coalesce.default, (made,), {}

    return call


def _with_values(corrupt: Any) -> Any:
    """Return a corruption of the values of a sparse tensor."""

    def changed(output: Tensor, args: tuple[Any, ...]) -> Tensor:
        values = corrupt(output._values(), args)
        return _rebuilt(output._indices(), values, output)

    return changed


def _rebuilt(indices: Tensor, values: Tensor, like: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(indices, values, like.shape, check_invariants=False, is_coalesced=True)


def _wrong_index(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return the last entry at the place of the one before it."""
    indices = output._indices().clone()
    indices[:, -1] = indices[:, -2]
    return _rebuilt(indices, output._values(), output)


CHECKS: tuple[Check, ...] = (
    Check(
        name="coalesce",
        family="scatters",
        ops=("aten::_coalesce",),
        judge=_judge,
        cost=_cost,
        reads_sparse=True,
        advice="Coalesce in float32: if only the 16-bit sums are off, keep this gradient wider; else drain the device.",
        silent=(
            Example(name="numbers", call=_sparse()),
            Example(name="rows", call=_sparse(4)),
            Example(name="integers", call=_sparse(integers=True), dtypes=(torch.int64, torch.int32)),
        ),
        fires=(
            Example(
                name="flipped bit",
                call=_sparse(4),
                corrupt=_with_values(flipped_bit),
                dtypes=(torch.float32, torch.float64),
            ),
            Example(name="nan", call=_sparse(), corrupt=_with_values(planted_nan)),
            Example(name="wrong index", call=_sparse(4), corrupt=_wrong_index),
        ),
    ),
)
