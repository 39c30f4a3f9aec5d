"""Matrix products that a fused route forms, bounds and judges in one pass over the caller's memory.

The formulas are those of :mod:`numguard.numerics.error_bounds.contraction_bounds`, taken as coefficients of the sum of
magnitudes: every bound there is affine in it, and infinite from a limit on.
"""

from dataclasses import replace
from functools import lru_cache
from math import inf

import torch
from torch import Tensor

from numguard.checks.gemm import Gemm
from numguard.checks.matmul_precision import Precision, reads_subnormals_as_zero
from numguard.numerics.error_bounds.contraction_bounds import (
    Accumulation,
    product_bound,
    product_shadow_error,
)
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, smallest_rounding
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.arithmetic import Arithmetic, Bound, JudgedElements, Judging
from numguard.shadow.comparison import Comparison

_ZERO = torch.zeros((), dtype=torch.float64)
_ONE = torch.ones((), dtype=torch.float64)


def _limit(accumulation: Accumulation, alpha: float) -> float:
    return min(accumulation.largest * (min(1.0, abs(alpha)) or 1.0), accumulation.partial_largest)


def _bound(accumulation: Accumulation, terms: int, alpha: float, num_results: int, flushes: bool) -> Bound:
    """Return the coefficients of :func:`product_bound`, read off at sums of magnitudes of zero and one."""
    wide = replace(accumulation, largest=inf, partial_largest=inf)
    floor = float(product_bound(_ZERO, terms, alpha, wide, num_results))
    return Bound(
        relative=float(product_bound(_ONE, terms, alpha, replace(wide, smallest_normal=0.0, partial_smallest=0.0))),
        floor=floor,
        factor=abs(alpha) * accumulation.smallest_normal if flushes else 0.0,
        limit=_limit(accumulation, alpha),
    )


@lru_cache(maxsize=1024)
def _judging(
    precision: Precision,
    dtype: torch.dtype,
    terms: int,
    num_results: int,
    alpha: float,
    beta: float,
    heights: tuple[int, int],
    flushes: bool,
    rectified: bool,
    propagates: bool,
) -> Judging:
    """Return what elements (``num_results == 1``, ``heights[0] == 0``) or checksums over rows are judged by."""
    sums_rows = heights[0] > 0
    strict, permissive = precision
    if sums_rows:  # the norms of the factors take care of overflow
        strict, permissive = replace(strict, partial_largest=inf), replace(permissive, partial_largest=inf)
        error_relative, error_floor = (sum(heights) + 4) * SHADOW_ROUNDOFF, 0.0
    else:
        tiny = float(product_shadow_error(_ZERO, heights[1], alpha))
        error_relative, error_floor = float(product_shadow_error(_ONE, heights[1], alpha)), tiny
    judged = torch.float64 if sums_rows else dtype  # a checksum is a number in float64
    eta = smallest_rounding(dtype)
    return Judging(
        alpha=alpha,
        beta=beta,
        error_relative=error_relative,
        error_floor=error_floor,
        unit_roundoff=UNIT_ROUNDOFF[judged],
        smallest_rounding=smallest_rounding(judged),
        largest=float(torch.finfo(judged).max),
        result_largest=float(torch.finfo(dtype).max),
        output_relative=UNIT_ROUNDOFF[dtype] if sums_rows else 0.0,
        output_floor=num_results * eta if sums_rows else 0.0,
        strict=_bound(strict, terms, alpha, num_results, flushes),
        permissive=_bound(permissive, terms, alpha, num_results, flushes),
        has_permissive=int(sums_rows or permissive != strict),
        rectified=int(rectified),
        propagates_nonfinite=int(propagates),
    )


def _comparison(output: str, computed: Tensor, judged: JudgedElements, by: Judging, precision: Precision) -> Comparison:
    return Comparison(
        output=output,
        computed=computed,
        exact=judged.exact,
        strict=judged.strict,
        permissive=judged.permissive if by.has_permissive else None,
        shadow_error=judged.shadow_error,
        model=precision.permissive.model,
        propagates_nonfinite=bool(by.propagates_nonfinite),
        verdict=judged.verdict,
    )


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def judged_elements(gemm: Gemm, result: Tensor, arithmetic: Arithmetic, precision: Precision) -> Comparison | None:
    """Return the comparison of all elements of a product, judged; None where the route cannot read the operands."""
    assert arithmetic.fused is not None
    by = _judging(
        precision,
        result.dtype,
        gemm.num_terms + gemm.num_sums,
        1,
        float(gemm.alpha),
        float(gemm.beta),
        (0, arithmetic.height(gemm.num_terms)),
        reads_subnormals_as_zero(gemm.a.dtype),
        gemm.rectified,
        gemm.a.dtype != torch.float64 and gemm.alpha != 0 and not gemm.rectified,
    )
    judged = arithmetic.fused.elements(gemm.a.detach(), gemm.b.detach(), result, _detached(gemm.added), by)
    return None if judged is None else _comparison("result", result, judged, by, precision)


def judged_checksum(
    gemm: Gemm, result: Tensor, weights: Tensor, arithmetic: Arithmetic, precision: Precision
) -> Comparison | None:
    """Return the comparison of the checksums of a product, judged; None where the route cannot read the operands."""
    assert arithmetic.fused is not None
    num_rows = gemm.a.shape[-2]
    by = _judging(
        precision,
        result.dtype,
        gemm.num_terms,
        num_rows,
        float(gemm.alpha),
        float(gemm.beta),
        (arithmetic.height(num_rows), arithmetic.height(gemm.num_terms)),
        reads_subnormals_as_zero(gemm.a.dtype),
        False,
        False,
    )
    judged = arithmetic.fused.checksums(gemm.a.detach(), gemm.b.detach(), result, _detached(gemm.added), weights, by)
    if judged is None or judged.computed is None:
        return None
    return _comparison("checksum", judged.computed, judged, by, precision)
