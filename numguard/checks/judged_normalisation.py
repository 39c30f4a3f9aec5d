"""Layer normalisation that a fused route forms, bounds and judges in one pass over the caller's memory.

The formulas are those of :mod:`numguard.numerics.error_bounds.normalisation_bounds`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from numguard.backends.normalisation import normalising_record, weighing_record
from numguard.checks.normalised_rows import Columns
from numguard.numerics.error_bounds.exponential_bounds import accumulator_of, storage_of
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, smallest_rounding
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.comparison import JudgedComparison

if TYPE_CHECKING:
    from numguard.backends.normalisation import JudgedElements, Normalising, Weighing


def _format(dtype: torch.dtype) -> tuple[float, float, float]:
    return UNIT_ROUNDOFF[dtype], smallest_rounding(dtype), float(torch.finfo(dtype).max)


@lru_cache(maxsize=256)
def _normalising(
    source: torch.dtype, result: torch.dtype, statistics: torch.dtype, eps: float, height: int, taller: float
) -> "Normalising":
    """Return the coefficients; ``eps`` and ``height`` are not asked for by the gradient."""
    accumulator = accumulator_of(source)
    limits, unit = torch.finfo(accumulator), UNIT_ROUNDOFF[accumulator]
    return normalising_record(
        eps=eps,
        height=float(height),
        unit_roundoff=unit,
        smallest_normal=limits.smallest_normal,
        smallest_rounding=smallest_rounding(accumulator),
        limit=0.999 * limits.max,
        shadow=taller * SHADOW_ROUNDOFF / unit,
        result=_format(result),
        statistics=_format(statistics),
    )


def _comparison(
    output: str,
    computed: Tensor,
    judged: "JudgedElements",
    *,
    assumed: bool = False,
    propagates_nonfinite: bool = True,
) -> JudgedComparison:
    return JudgedComparison(output, judged, computed, "assumed" if assumed else "calibrated", propagates_nonfinite)


def judged_layer_norm(
    rows: tuple[Tensor, Tensor, Tensor, Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    height: int,
    taller: float,
    arithmetic: Arithmetic,
) -> Sequence[JudgedComparison] | None:
    """Return the comparisons of results, means and rstd, judged; None where the route cannot read the tensors.

    Parameters
    ----------
    rows
        x, y, mean and rstd of the picked rows.
    weight, bias
        One row each, contiguous.
    height, taller
        Of the operator's sums, and by how much the shadow's are taller.
    """
    if arithmetic.fused is None:
        return None
    x, y, mean, rstd = rows
    by = _normalising(x.dtype, y.dtype, mean.dtype, eps, height, taller)
    judged = arithmetic.fused.layer_norm(rows, weight, bias, by)
    if judged is None:
        return None
    return (
        _comparison("output", y, judged[0]),
        _comparison("mean", mean, judged[1]),
        # A row with an infinite value may give a variance of inf, hence rstd = 0, or NaN.
        _comparison("rstd", rstd, judged[2], propagates_nonfinite=False),
    )


def judged_input_gradient(
    rows: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], weight: Tensor | None, arithmetic: Arithmetic
) -> JudgedComparison | None:
    """Return the comparison of the gradient of x, judged; ``rows`` are dy, x, mean, rstd and that gradient."""
    if arithmetic.fused is None:
        return None
    _, x, mean, _, result = rows
    judged = arithmetic.fused.layer_norm_gradient(
        rows, weight, _normalising(x.dtype, result.dtype, mean.dtype, 0.0, 0, 1.0)
    )
    return None if judged is None else _comparison("grad_input", result, judged)


@lru_cache(maxsize=64)
def _weighing(source: torch.dtype, result: torch.dtype, *, stores: bool) -> "Weighing":
    """Return the coefficients of gradients of weight and bias; ``stores`` says that rows are added in 16 bits."""
    accumulator, storage = accumulator_of(source), storage_of(source) if stores else None

    def buffer(dtype: torch.dtype) -> tuple[float, float, float]:
        return UNIT_ROUNDOFF[dtype], smallest_rounding(dtype), 0.999 * torch.finfo(dtype).max

    return weighing_record(
        smallest_normal=torch.finfo(accumulator).smallest_normal,
        shadow=SHADOW_ROUNDOFF / UNIT_ROUNDOFF[accumulator],
        strict=buffer(accumulator),
        permissive=None if storage is None else buffer(storage),
        result=_format(result),
    )


def judged_parameter_gradients(
    columns: Columns, results: tuple[Tensor | None, Tensor | None], arithmetic: Arithmetic
) -> Sequence[JudgedComparison] | None:
    """Return the comparisons of the gradients of weight and bias, judged; None where the route cannot read the tensors.

    Parameters
    ----------
    results
        Both gradients on the picked columns, or None.
    """
    given = [result for result in results if result is not None]
    if arithmetic.fused is None or not given or any(result.dtype != given[0].dtype for result in given):
        return None
    assumed = columns.mean is None  # a root-mean-square norm
    by = _weighing(columns.dy.dtype, given[0].dtype, stores=not assumed)
    judged = arithmetic.fused.parameter_gradients((columns.dy, columns.x, columns.mean, columns.rstd), results, by)
    if judged is None:
        return None
    return [
        _comparison(name, result, rows, assumed=assumed)
        for name, result, rows in zip(("grad_weight", "grad_bias"), results, judged, strict=True)
        if result is not None
    ]
