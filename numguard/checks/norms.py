"""Vector norms of any order, one tensor at a time or a list at once, as gradient clipping takes them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe
from numguard.checks.norm_examples import FOREACH_NORM, VECTOR_NORM
from numguard.checks.reduced_rows import Rows, keep_overwritten, model_of, require_numbers, row_totals, rows_of
from numguard.numerics.error_bounds.norm_bounds import PowerNorm, is_exact_order, power_norm_bound
from numguard.numerics.error_bounds.reduction_bounds import count_growth, guarded
from numguard.numerics.error_bounds.summation_bounds import growth_factor, norm_bound
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
    """Rows and the route along which they are added, with the growth of a tree and of any order."""

    rows: Rows
    arithmetic: Arithmetic
    heights: tuple[int, int]

    @property
    def num_terms(self) -> int:
        return self.rows.num_terms

    @property
    def dtype(self) -> torch.dtype:
        """Dtype to which the operator casts its input first."""
        return self.rows.result.dtype

    @property
    def accumulator(self) -> torch.dtype:
        return accumulator_dtype(self.dtype)

    @property
    def unit(self) -> float:
        return unit_roundoff(self.accumulator)

    def totals(self, *terms: Callable[[Tensor], Tensor]) -> tuple[list[Tensor], int]:
        """Return totals of functions of the absolute values, and the height of their additions."""

        def parts(piece: Tensor) -> Iterator[Tensor]:
            magnitude = piece.to(self.dtype).to(torch.float64).abs()
            for term in terms:
                yield term(magnitude)

        return row_totals(self.rows.source, self.rows.num_kept, parts, self.arithmetic)


def _sums(rows: Rows, arithmetic: Arithmetic) -> _Sums:
    any_order = max(0, rows.num_terms - 1)
    if rows.source.device.type != "cpu":
        return _Sums(rows, arithmetic, (any_order, any_order))
    dtype = accumulator_dtype(rows.result.dtype)
    tree = summation_height(rows.num_terms, dtype=dtype, num_threads=torch.get_num_threads())
    return _Sums(rows, arithmetic, (tree, any_order))


def _square(x: Tensor) -> Tensor:
    return x * x


def _itself(x: Tensor) -> Tensor:
    return x


def _excuse(x: Tensor) -> Tensor:
    return x - x


def _euclidean(sums: _Sums) -> Norm:
    wanted = (_square, _excuse) if sums.dtype == torch.float64 else (_square,)
    totals, own = sums.totals(*wanted)
    square = _without_overflow(totals)
    exact = square.sqrt()
    limits = torch.finfo(sums.accumulator)
    storage = _storage(sums.dtype)

    def bound(height: int, stored: float) -> Tensor:
        error = norm_bound(
            exact,
            height,
            sums.unit,
            num_terms=sums.num_terms,
            smallest_normal=limits.smallest_normal,
            storage_roundoff=stored,
        )
        growth = growth_factor(height + 1, sums.unit, sums.num_terms + 1)
        return guarded(torch.as_tensor(error), square * (1.0 + growth), limits.max)

    shadow = norm_bound(exact, own, SHADOW_ROUNDOFF, num_terms=max(sums.num_terms, own), smallest_normal=_TINY)
    return Norm(exact, bound(sums.heights[0], 0.0), bound(sums.heights[1], storage), torch.as_tensor(shadow))


def _absolute(sums: _Sums) -> Norm:
    wanted = (_itself, _excuse) if sums.dtype == torch.float64 else (_itself,)
    totals, own = sums.totals(*wanted)
    exact = _without_overflow(totals)
    largest, storage = torch.finfo(sums.accumulator).max, _storage(sums.dtype)

    def bound(height: int, stored: float) -> Tensor:
        growth = float(growth_factor(height, sums.unit, sums.num_terms)) + _STORES * stored
        return guarded(growth * exact, (1.0 + growth) * exact, largest)

    return Norm(exact, bound(sums.heights[0], 0.0), bound(sums.heights[1], storage), own * SHADOW_ROUNDOFF * exact)


def _count(sums: _Sums) -> Norm:
    """Count the elements that are not zero; NaN is not."""
    (exact,), _ = sums.totals(lambda x: (x != 0.0).to(torch.float64))
    growth = count_growth(sums.num_terms, sums.unit)
    stored = _STORES * _storage(sums.dtype)
    return Norm(exact, growth * exact, (growth + stored) * exact, torch.zeros_like(exact))


def _of_powers(sums: _Sums, order: float) -> Norm:
    wanted: list[Callable[[Tensor], Tensor]] = [lambda x: x**order]
    exact_order = is_exact_order(order, sums.accumulator)
    if not exact_order:
        wanted.append(lambda x: torch.where(x > 0.0, x**order * x.log().abs(), 0.0))
    if sums.dtype == torch.float64:
        wanted.append(_excuse)
    totals, own = sums.totals(*wanted)
    logarithms = None if exact_order else totals[1]
    total = _without_overflow([totals[0], totals[-1]]) if sums.dtype == torch.float64 else totals[0]
    exact = total ** (1.0 / order)
    limits, storage = torch.finfo(sums.accumulator), _storage(sums.dtype)

    def bound(growth: float, unit: float, smallest: float, largest: float) -> Tensor:
        powers = PowerNorm(total, order, sums.num_terms, growth, logarithms)
        return power_norm_bound(exact, powers, unit, smallest, largest)

    def of_height(height: int) -> Tensor:
        growth = float(growth_factor(height, sums.unit, sums.num_terms))
        return bound(growth, sums.unit, limits.smallest_normal, limits.max)

    shadow = bound(own * SHADOW_ROUNDOFF, SHADOW_ROUNDOFF, _TINY, math.inf)
    permissive = of_height(sums.heights[1])
    return Norm(exact, of_height(sums.heights[0]), permissive + _STORES * storage * (exact + permissive), shadow)


def _without_overflow(totals: Sequence[Tensor]) -> Tensor:
    """Return the first total; where only finite float64 numbers made it infinite, the largest number instead.

    The second is zero for finite numbers, and present where the first may overflow.
    """
    total = totals[0]
    for excuse in totals[1:]:
        overflowed = (excuse == 0.0) & ~torch.isfinite(total)
        total = torch.where(overflowed, torch.finfo(torch.float64).max, total)
    return total


def _storage(dtype: torch.dtype) -> float:
    return 0.0 if accumulator_dtype(dtype) == dtype else unit_roundoff(dtype)


def _finite_order(rows: Rows, order: float, arithmetic: Arithmetic) -> Norm:
    sums = _sums(rows, arithmetic)
    if order == 2.0:
        return _euclidean(sums)
    if order == 1.0:
        return _absolute(sums)
    return _count(sums) if order == 0.0 else _of_powers(sums, order)


def _extremum(rows: Rows, order: float, arithmetic: Arithmetic) -> Tensor:
    """Return the largest or smallest absolute value, which is exact; zero where there is none."""
    magnitude = rows.source.to(rows.result.dtype).to(torch.float64).abs()
    dims = tuple(range(rows.num_kept, magnitude.dim()))
    if rows.num_terms == 0:
        return torch.zeros(rows.result.shape, dtype=torch.float64, device=magnitude.device)
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
    rows = rows_of(source, call.output, call.arguments.get("dim"), probe, cost=COST)
    if not rows.result.numel():
        return ()
    if math.isinf(order):
        return (_exact(rows.result, _extremum(rows, order, probe.arithmetic)),)
    return (_bounded(rows.result, _finite_order(rows, order, probe.arithmetic), order),)


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
        model="proved" if computed.dtype == torch.float64 and computed.device.type == "cpu" else model_of(computed),
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
        groups.setdefault((call.output[number].dtype, call.output[number].device), []).append(number)
    return [_joined(call, numbers, order, probe.arithmetic) for numbers in groups.values()]


def _joined(call: OpCall, numbers: Sequence[int], order: float, arithmetic: Arithmetic) -> Comparison:
    everything = Probe(arithmetic=arithmetic)
    rows = [rows_of(call["self"][number], call.output[number], None, everything, cost=COST) for number in numbers]
    computed = torch.stack([row.result for row in rows])
    segments = tuple((f"result[{number}]", 1) for number in numbers)
    if math.isinf(order):
        comparison = _exact(computed, torch.stack([_extremum(row, order, arithmetic) for row in rows]))
        return replace(comparison, segments=segments)
    norms = [_finite_order(row, order, arithmetic) for row in rows]
    joined = Norm(*(torch.stack(parts) for parts in zip(*norms, strict=True)))
    return _bounded(computed, joined, order, segments)


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
