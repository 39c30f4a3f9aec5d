"""Matrix products that a fused route forms, bounds and judges in one pass over the caller's memory.

The formulas are those of :mod:`numguard.numerics.error_bounds.contraction_bounds`, taken as coefficients of the sum of
magnitudes: every bound there is affine in it, and infinite from a limit on.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from math import inf
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from numguard.backends.dot import bound_record, judging_record
from numguard.checks.gemm import Gemm
from numguard.checks.matmul_precision import Precision, reads_subnormals_as_zero
from numguard.numerics.error_bounds.contraction_bounds import (
    Accumulation,
    product_bound,
    product_shadow_error,
)
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, smallest_rounding
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.comparison import JudgedComparison

if TYPE_CHECKING:
    from numguard.backends.dot import Bound, JudgedElements, Judging

_ZERO = torch.zeros((), dtype=torch.float64)
_ONE = torch.ones((), dtype=torch.float64)


@lru_cache(maxsize=1024)
def _coefficients(accumulation: Accumulation, terms: int, alpha: float) -> tuple[float, float]:
    """Return slope and floor of :func:`product_bound` for one result, read off at masses of one and zero."""
    wide = replace(accumulation, largest=inf, partial_largest=inf)
    slope = product_bound(_ONE, terms, alpha, replace(wide, smallest_normal=0.0, partial_smallest=0.0))
    return float(slope), float(product_bound(_ZERO, terms, alpha, wide))


@lru_cache(maxsize=1024)
def _shadow_coefficients(height: int, alpha: float) -> tuple[float, float]:
    """Return :func:`product_shadow_error` at sums of magnitudes of one and zero."""
    return float(product_shadow_error(_ONE, height, alpha)), float(product_shadow_error(_ZERO, height, alpha))


def _bound(
    accumulation: Accumulation, terms: int, alpha: float, num_results: int, flushes: bool, *, partials_fit: bool
) -> "Bound":
    """Return the bound on a sum of results; ``partials_fit`` says that no partial result overflows."""
    relative, floor = _coefficients(accumulation, terms, alpha)
    largest = accumulation.largest * (min(1.0, abs(alpha)) or 1.0)
    return bound_record(
        relative=relative,
        floor=num_results * floor,
        factor=abs(alpha) * accumulation.smallest_normal if flushes else 0.0,
        limit=largest if partials_fit else min(largest, accumulation.partial_largest),
    )


@lru_cache(maxsize=1024)
def judging(
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
) -> "Judging":
    """Return what elements (``num_results == 1``, ``heights[0] == 0``) or checksums over rows are judged by."""
    sums_rows = heights[0] > 0
    strict, permissive = precision
    error_relative, error_floor = _shadow_coefficients(heights[1], alpha)
    if sums_rows:
        error_relative, error_floor = (sum(heights) + 4) * SHADOW_ROUNDOFF, 0.0
    judged = torch.float64 if sums_rows else dtype  # a checksum is a number in float64
    eta = smallest_rounding(dtype)
    return judging_record(
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
        strict=_bound(strict, terms, alpha, num_results, flushes, partials_fit=sums_rows),
        permissive=_bound(permissive, terms, alpha, num_results, flushes, partials_fit=sums_rows),
        has_permissive=int(sums_rows or permissive != strict),
        rectified=int(rectified),
        propagates_nonfinite=int(propagates),
    )


def comparison_of(
    output: str,
    computed: Tensor | Callable[[], Tensor],
    judged: "JudgedElements",
    by: "Judging",
    precision: Precision,
) -> JudgedComparison:
    """Return the comparison of what has been judged by some coefficients."""
    return JudgedComparison(output, judged, computed, precision.permissive.model, bool(by.propagates_nonfinite))


def _sums(judged: "JudgedElements") -> Tensor:
    computed = judged.computed
    assert computed is not None
    return computed


def checksum_of(judged: "JudgedElements", by: "Judging", precision: Precision) -> JudgedComparison:
    """Return the comparison of checksums that have been judged."""
    return comparison_of("checksum", partial(_sums, judged), judged, by, precision)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def judged_elements(
    gemm: Gemm, result: Tensor, arithmetic: Arithmetic, precision: Precision
) -> JudgedComparison | None:
    """Return the comparison of all elements of a product, judged; None where the route cannot read the operands."""
    assert arithmetic.fused is not None
    by = judging(
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
    return None if judged is None else comparison_of("result", result, judged, by, precision)


def judged_checksum(
    gemm: Gemm, result: Tensor, first_sign: int, arithmetic: Arithmetic, precision: Precision
) -> JudgedComparison | None:
    """Return the comparison of the checksums of a product, judged; None where the route cannot read the operands."""
    assert arithmetic.fused is not None
    num_rows = gemm.a.shape[-2]
    by = judging(
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
    judged = arithmetic.fused.checksums(gemm.a.detach(), gemm.b.detach(), result, _detached(gemm.added), first_sign, by)
    return None if judged is None else checksum_of(judged, by, precision)
