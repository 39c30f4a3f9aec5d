"""Vector norms of any order, one tensor at a time or a list at once, as gradient clipping takes them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe
from numguard.checks.norm_examples import FOREACH_NORM, VECTOR_NORM
from numguard.checks.overwritten_operands import keep_overwritten
from numguard.checks.reduced_rows import model_of, require_numbers, row_totals, rows_of
from numguard.numerics.error_bounds.norm_bounds import PowerNorm, is_exact_order, power_norm_bound
from numguard.numerics.error_bounds.reduction_bounds import count_growth, guarded
from numguard.numerics.error_bounds.summation_bounds import Quantity, growth_factor, norm_bound
from numguard.numerics.formats import accumulator_dtype, unit_roundoff
from numguard.numerics.tree_heights import summation_height
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

COST: Final = 2.0
_STORES: Final = 4.0  # roundings to 16 bits of a norm that is composed of operators in its dtype
_TINY: Final = 2.0**-1022


class Norm(NamedTuple):
    """Norms in float64 with their bounds, all of one shape.

    Attributes
    ----------
    exact, strict, shadow_error
        As in :class:`~numguard.shadow.comparison.Comparison`.
    permissive
        For any order of additions, and stored in 16 bits on the way where the result has 16 bits.
    """

    exact: Tensor
    strict: Tensor
    permissive: Tensor
    shadow_error: Tensor


class _Sums(NamedTuple):
    """Totals of some terms of the elements, by :func:`_terms`, with what is known of the additions of the operator.

    For the norms of a list every quantity is a vector, for those of one tensor all but the totals are numbers.
    """

    totals: Sequence[Tensor]
    own_height: Quantity
    num_terms: Quantity
    tree_height: Quantity
    dtype: torch.dtype

    @property
    def accumulator(self) -> torch.dtype:
        return accumulator_dtype(self.dtype)

    @property
    def unit(self) -> float:
        return unit_roundoff(self.accumulator)

    @property
    def heights(self) -> tuple[Quantity, Quantity]:
        """Of a tree of additions, and of any order."""
        return self.tree_height, self.num_terms

    def growth(self, height: Quantity) -> Quantity:
        return growth_factor(height, self.unit, self.num_terms)


def _terms(order: float, dtype: torch.dtype) -> Callable[[Tensor], Iterator[Tensor]]:
    """Return what yields the terms of a norm in ``dtype``, and in float64 a zero for every finite number."""

    def terms(piece: Tensor) -> Iterator[Tensor]:
        x = piece.to(torch.float64)
        if order == 2.0:
            yield x * x
        elif order == 0.0:
            yield (x != 0.0).to(torch.float64)  # NaN is not zero
        else:
            magnitude = x.abs()
            power = magnitude if order == 1.0 else magnitude**order
            yield power
            if not is_exact_order(order, accumulator_dtype(dtype)):
                yield torch.where(magnitude > 0.0, power * magnitude.log().abs(), 0.0)
        if dtype == torch.float64:
            yield x - x

    return terms


def _tree_height(num_terms: int, result: Tensor) -> int:
    """Return the height of ``torch.sum`` on the CPU, the best sibling, and of any order elsewhere."""
    if result.device.type != "cpu":
        return max(0, num_terms - 1)
    dtype = accumulator_dtype(result.dtype)
    return summation_height(num_terms, dtype=dtype, num_threads=torch.get_num_threads())


def _euclidean(sums: _Sums) -> Norm:
    square = _without_overflow(sums)
    exact = square.sqrt()
    limits = torch.finfo(sums.accumulator)

    def bound(height: Quantity, stored: float) -> Tensor:
        error = norm_bound(
            exact,
            height,
            sums.unit,
            num_terms=sums.num_terms,
            smallest_normal=limits.smallest_normal,
            storage_roundoff=stored,
        )
        return guarded(torch.as_tensor(error), square * (1.0 + sums.growth(height + 1)), limits.max)

    tree, any_order = sums.heights
    terms = sums.num_terms + sums.own_height
    shadow = norm_bound(exact, sums.own_height, SHADOW_ROUNDOFF, num_terms=terms, smallest_normal=_TINY)
    return Norm(exact, bound(tree, 0.0), bound(any_order, _storage(sums.dtype)), torch.as_tensor(shadow))


def _absolute(sums: _Sums) -> Norm:
    exact = _without_overflow(sums)
    largest = torch.finfo(sums.accumulator).max

    def bound(height: Quantity, stored: float) -> Tensor:
        growth = sums.growth(height) + _STORES * stored
        return guarded(growth * exact, (1.0 + growth) * exact, largest)

    tree, any_order = sums.heights
    own = sums.own_height * SHADOW_ROUNDOFF * exact
    return Norm(exact, bound(tree, 0.0), bound(any_order, _storage(sums.dtype)), own)


def _count(sums: _Sums) -> Norm:
    exact = sums.totals[0]
    growth = count_growth(sums.num_terms, sums.unit)
    stored = _STORES * _storage(sums.dtype)
    return Norm(exact, growth * exact, (growth + stored) * exact, torch.zeros_like(exact))


def _of_powers(sums: _Sums, order: float) -> Norm:
    total = _without_overflow(sums)
    logarithms = None if is_exact_order(order, sums.accumulator) else sums.totals[1]
    exact = total ** (1.0 / order)
    limits, stored = torch.finfo(sums.accumulator), _STORES * _storage(sums.dtype)

    def bound(growth: Quantity, unit: float, smallest: float, largest: float) -> Tensor:
        powers = PowerNorm(total, order, sums.num_terms, growth, logarithms)
        return power_norm_bound(exact, powers, unit, smallest, largest)

    strict, permissive = (
        bound(sums.growth(height), sums.unit, limits.smallest_normal, limits.max) for height in sums.heights
    )
    shadow = bound(sums.own_height * SHADOW_ROUNDOFF, SHADOW_ROUNDOFF, _TINY, math.inf)
    return Norm(exact, strict, permissive + stored * (exact + permissive), shadow)


def _without_overflow(sums: _Sums) -> Tensor:
    """Return the first total; where only finite float64 numbers made it infinite, the largest number instead."""
    total = sums.totals[0]
    if sums.dtype != torch.float64:
        return total
    overflowed = (sums.totals[-1] == 0.0) & ~torch.isfinite(total)
    return torch.where(overflowed, torch.finfo(torch.float64).max, total)


def _storage(dtype: torch.dtype) -> float:
    return 0.0 if accumulator_dtype(dtype) == dtype else unit_roundoff(dtype)


def _norm(sums: _Sums, order: float) -> Norm:
    if order == 2.0:
        return _euclidean(sums)
    if order == 1.0:
        return _absolute(sums)
    return _count(sums) if order == 0.0 else _of_powers(sums, order)


def _extremum(rows: Tensor, num_kept: int, order: float, arithmetic: Arithmetic) -> Tensor:
    """Return the largest or smallest absolute value, which is exact; zero where there is none."""
    magnitude = rows.to(torch.float64).abs()
    dims = tuple(range(num_kept, magnitude.dim()))
    if not rows.numel():
        return magnitude.new_zeros(rows.shape[:num_kept])
    if order > 0.0:
        return arithmetic.maximum(magnitude, dims, False)
    return -arithmetic.maximum(-magnitude, dims, False)


def _order(call: OpCall) -> float:
    order = call["ord"] if "ord" in call.arguments else call["p"]
    if isinstance(order, complex | str):
        raise NotCovered(f"a norm of order {order!r}")
    return 2.0 if order is None else float(order)


def _judge(call: OpCall, captured: Tensor | None, probe: Probe) -> Sequence[Comparison]:
    order, source = _order(call), call["self"] if captured is None else captured
    in_pieces = not math.isinf(order)
    rows = rows_of(source, call.output, call.arguments.get("dim"), probe, cost=COST, in_pieces=in_pieces)
    if not rows.result.numel():
        return ()
    if math.isinf(order):
        return (_exact(rows.result, _extremum(rows.source, rows.num_kept, order, probe.arithmetic)),)
    dtype, count = rows.result.dtype, rows.num_terms
    totals, own = row_totals(rows.source, rows.num_kept, _terms(order, dtype), probe.arithmetic)
    sums = _Sums(totals, own, count, _tree_height(count, rows.result), dtype)
    return (_bounded(rows.result, _norm(sums, order), order),)


def _exact(computed: Tensor, exact: Tensor) -> Comparison:
    return Comparison(
        output="result",
        computed=computed,
        exact=exact,
        strict=0.0,
        model=model_of(computed),
        rounds_output=False,
        propagates_nonfinite=True,
    )


def _bounded(computed: Tensor, norm: Norm, order: float, segments: tuple[tuple[str, int], ...] = ()) -> Comparison:
    return Comparison(
        output="result",
        computed=computed,
        exact=norm.exact,
        strict=norm.strict,
        permissive=norm.permissive,
        shadow_error=norm.shadow_error,
        model=model_of(computed),
        # A power of negative order turns infinities into zeros.
        propagates_nonfinite=order > 0.0,
        segments=segments,
    )


def _judge_list(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    """Compare the norms of some tensors of a list; the norms of one dtype are joined."""
    order, tensors = _order(call), call["self"]
    picked = range(len(tensors))[probe.rows(len(tensors), COST * _numel(tensors) / max(1, len(tensors)))]
    groups: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for number in picked:
        require_numbers(tensors[number], call.output[number])
        probe.afford(COST * tensors[number].numel(), in_pieces=not math.isinf(order))
        groups.setdefault((call.output[number].dtype, call.output[number].device), []).append(number)
    return [_joined(call, numbers, order, probe.arithmetic) for numbers in groups.values()]


def _joined(call: OpCall, numbers: Sequence[int], order: float, arithmetic: Arithmetic) -> Comparison:
    tensors = [call["self"][number].detach() for number in numbers]
    rows = [tensor if tensor.dim() else tensor.reshape(1) for tensor in tensors]
    computed = torch.stack([call.output[number].detach() for number in numbers])
    segments = tuple((f"result[{number}]", 1) for number in numbers)
    if math.isinf(order):
        exact = torch.stack([_extremum(row, 0, order, arithmetic) for row in rows])
        return replace(_exact(computed, exact), segments=segments)
    terms = _terms(order, computed.dtype)
    parts = [row_totals(row, 0, terms, arithmetic) for row in rows]
    counts = [tensor.numel() for tensor in tensors]
    facts = [(own, count, _tree_height(count, computed)) for (_, own), count in zip(parts, counts, strict=True)]
    own, count, tree = torch.tensor(facts, dtype=torch.float64, device=computed.device).unbind(1)
    totals = [torch.stack(column) for column in zip(*(part[0] for part in parts), strict=True)]
    return _bounded(computed, _norm(_Sums(totals, own, count, tree, computed.dtype), order), order, segments)


def _numel(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _cost(call: OpCall) -> float:
    tensors = call["self"]
    return COST * float(tensors.numel() if isinstance(tensors, Tensor) else _numel(tensors))


_ADVICE: Final = (
    "Take this norm of smaller pieces and combine them, or in float64: the CPU kernel adds the squares of a long "
    "float32 tensor one after the other."
)

CHECKS: tuple[Check, ...] = (
    Check(
        name="vector_norm",
        family="norms",
        ops=(
            "aten::linalg_vector_norm",
            "aten::linalg_vector_norm.out",
            "aten::norm.Scalar",
            "aten::norm.ScalarOpt_dim",
            "aten::norm.ScalarOpt_dtype",
            "aten::norm.ScalarOpt_dim_dtype",
            "aten::norm.out",
            "aten::norm.dtype_out",
        ),
        judge=_judge,
        capture=keep_overwritten,
        cost=_cost,
        silent=VECTOR_NORM.silent,
        fires=VECTOR_NORM.fires,
        advice=_ADVICE,
    ),
    Check(
        name="foreach_norm",
        family="norms",
        ops=("aten::_foreach_norm.Scalar",),
        judge=_judge_list,
        cost=_cost,
        silent=FOREACH_NORM.silent,
        fires=FOREACH_NORM.fires,
        advice=_ADVICE,
    ),
)
