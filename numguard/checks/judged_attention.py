"""Attention that a fused route forms, bounds and judges in one pass over the caller's memory.

The formulas are those of :mod:`numguard.numerics.error_bounds.attention_bounds`.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from numguard.backends.attention import attending_record
from numguard.numerics.error_bounds.attention_bounds import AttentionModel, sum_height
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, smallest_rounding
from numguard.numerics.formats import accumulator_dtype
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.comparison import JudgedComparison

if TYPE_CHECKING:
    from numguard.backends.attention import Attending, JudgedElements, Rows

Slices = tuple[slice, slice, slice, slice]  # batches, key heads, queries, keys


class AttentionCall(NamedTuple):
    """What is fixed for one call.

    Attributes
    ----------
    sizes
        Batches, key heads, queries per key head, queries and keys of a head, features of a query and of a value.
    scale, causal
        Of the scores.
    strict, permissive, grounds
        The models, and what stands behind the second.
    """

    sizes: tuple[int, int, int, int, int, int, int]
    scale: float
    causal: bool
    strict: AttentionModel
    permissive: AttentionModel
    grounds: Literal["proved", "calibrated", "assumed"]


def _format(dtype: torch.dtype) -> tuple[float, float, float]:
    return UNIT_ROUNDOFF[dtype], smallest_rounding(dtype), float(torch.finfo(dtype).max)


@lru_cache(maxsize=64)
def _attending(
    call: AttentionCall, result: torch.dtype, logsumexp: torch.dtype, num_stores: tuple[float, float]
) -> "Attending":
    return attending_record(
        scale=call.scale,
        shadow=SHADOW_ROUNDOFF / call.strict.unit_roundoff,
        mass_limit=torch.finfo(accumulator_dtype(result)).max,
        key_height=float(sum_height(call.sizes[4])),
        num_stores=num_stores,
        result=_format(result),
        logsumexp=_format(logsumexp),
        strict=call.strict,
        permissive=call.permissive,
        causal=call.causal,
    )


def _every(slices: Slices, call: AttentionCall) -> "Rows":
    """Return first, step and count of what the slices pick."""
    sizes = (call.sizes[0], call.sizes[1], call.sizes[3], call.sizes[4])
    ranges = [range(size)[picked] for size, picked in zip(sizes, slices, strict=True)]
    batches, heads, queries, keys = ((picked.start, picked.step, len(picked)) for picked in ranges)
    return batches, heads, queries, keys


def _comparison(
    name: str, computed: Callable[[], Tensor], judged: "JudgedElements", call: AttentionCall
) -> JudgedComparison:
    return JudgedComparison(name, judged, computed, call.grounds)


def judged_rows(
    call: AttentionCall,
    rows: Slices,
    tensors: Sequence[Tensor | None],
    computed: tuple[Callable[[], Tensor], Callable[[], Tensor]],
    arithmetic: Arithmetic,
) -> Sequence[JudgedComparison] | None:
    """Return the comparisons of output and logsumexp, judged; None where the route cannot read the tensors.

    Parameters
    ----------
    tensors
        Query, key, value, mask, output and logsumexp, ``[B, heads, ...]``; no mask and no logsumexp are None.
    computed
        What returns output and logsumexp of the picked rows.
    """
    output, logsumexp = tensors[-2:]
    if arithmetic.fused is None or output is None:
        return None
    by = _attending(call, output.dtype, output.dtype if logsumexp is None else logsumexp.dtype, (0.0, 0.0))
    judged = arithmetic.fused.attention(call.sizes[2:], _every(rows, call), tensors, by)
    if judged is None:
        return None
    comparisons = [_comparison("output", computed[0], judged[0], call)]
    if logsumexp is not None:
        comparisons.append(_comparison("logsumexp", computed[1], judged[1], call))
    return comparisons


def judged_gradients(
    call: AttentionCall,
    rows: tuple[Slices, Slices],
    tensors: Sequence[Tensor | None],
    computed: tuple[Callable[[], Tensor], Callable[[], Tensor], Callable[[], Tensor]],
    num_stores: tuple[float, float],
    arithmetic: Arithmetic,
) -> Sequence[JudgedComparison] | None:
    """Return the comparisons of the gradients, judged; None where the route cannot read the tensors.

    Parameters
    ----------
    rows
        Queries over all keys, and keys over all queries.
    tensors
        As in :func:`judged_rows`, then the gradients of output, query, key and value.
    computed
        What returns the gradients of the picked queries, keys and values.
    num_stores
        How often a gradient of a query, and of a key or value, is stored while it grows.
    """
    gradient = tensors[-1]
    if arithmetic.fused is None or gradient is None:
        return None
    by = _attending(call, gradient.dtype, gradient.dtype, num_stores)
    by_query, by_key = (_every(picked, call) for picked in rows)
    judged = arithmetic.fused.attention_gradients(call.sizes[2:], by_query, by_key, tensors, by)
    if judged is None:
        return None
    names = ("grad_query", "grad_key", "grad_value")
    return [_comparison(name, result, found, call) for name, result, found in zip(names, computed, judged, strict=True)]
