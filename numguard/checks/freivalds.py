"""Checksums of matrix products with weights of plus and minus one.

``w^T C`` must equal ``(w^T A) B`` up to the sum of the elementwise bounds, at a cost of ``MK + KN + MN`` instead of
``MNK`` (Freivalds, IFIP 1977). A wrong element anywhere in a column shows as soon as it exceeds that sum.
"""

from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from numguard.checks.check import Probe
from numguard.checks.gemm import Gemm
from numguard.checks.judged_products import judged_checksum
from numguard.checks.matmul_precision import Precision, reads_subnormals_as_zero
from numguard.numerics.error_bounds.contraction_bounds import Accumulation, checksum_bound, product_bound
from numguard.numerics.error_bounds.judgement import smallest_rounding
from numguard.shadow.arithmetic import UNIT_ROUNDOFF
from numguard.shadow.comparison import Compared, Comparison


def first_sign(offset: float) -> int:
    """Return the number from which the hash of :func:`signs` counts."""
    return int(offset * 2.0**31) << 20


def signs(count: int, offset: float, device: torch.device) -> Tensor:
    """Return ``count`` weights of plus or minus one, float64, a fixed function of ``offset``.

    Notes
    -----
    Bits of an integer hash (multiply, shift, exclusive or), computed on the device: no generator is touched and
    nothing is copied from the host.
    """
    x = torch.arange(count, dtype=torch.int64, device=device) + first_sign(offset)
    x = x * 0x2545F4914F6CDD1D
    x = (x ^ (x >> 29)) * 0x1B8735939E3779B1
    return 1.0 - 2.0 * ((x >> 40) & 1).to(torch.float64)


def checksum(gemm: Gemm, result: Tensor, probe: Probe, precision: Precision) -> Compared:
    """Return the comparison of the checksums of the columns of ``result``.

    Parameters
    ----------
    gemm
        The product, restricted to the rows and columns that take part.
    result
        Its results, ``[B, M, N]``.
    probe
        Route and offset.
    precision
        Accumulation models.

    Notes
    -----
    Rows of A with a NaN or Inf are left out: they would hide every other row. Columns in which a correct result
    may overflow (``|c_ij| <= |A_i| |B_j|`` by Cauchy and Schwarz) are indeterminate.
    """
    arithmetic = probe.arithmetic
    if arithmetic.fused is not None:
        judged = judged_checksum(gemm, result.detach(), first_sign(probe.offset), arithmetic, precision)
        if judged is not None:
            return judged
    a, b, c = (x.detach().to(torch.float64) for x in (gemm.a, gemm.b, result))
    num_rows = a.shape[-2]
    ones = torch.ones(1, 1, num_rows, dtype=torch.float64, device=a.device)
    weights = signs(num_rows, probe.offset, a.device).reshape(1, 1, -1)

    def column_totals(x: Tensor, by: Tensor) -> Tensor:
        return arithmetic.product(by.expand(x.shape[0], 1, num_rows), x)

    usable = torch.isfinite(arithmetic.total(a.abs(), (-1,), True))
    a, c = torch.where(usable, a, 0.0), torch.where(usable, c, 0.0)
    exact = arithmetic.product(column_totals(a, weights), b) * gemm.alpha
    a_sizes = column_totals(a.abs(), ones)
    mass = arithmetic.product(a_sizes, b.abs())
    sizes: Tensor | float = 0.0
    if reads_subnormals_as_zero(gemm.a.dtype):
        sizes = arithmetic.total(a_sizes, (-1,), True) + num_rows * arithmetic.total(b.abs(), (-2,), True)
    norms = (arithmetic.total(a * a, (-1,), True), arithmetic.total(b * b, (-2,), True))
    largest = (arithmetic.maximum(norms[0], (-2,), True) * norms[1]).sqrt() * max(1.0, abs(gemm.alpha))
    size = mass * abs(gemm.alpha)
    if gemm.added is not None:
        extra = torch.where(usable, gemm.added.detach().to(torch.float64) * gemm.beta, 0.0)
        exact = exact + column_totals(extra, weights)
        size = size + column_totals(extra.abs(), ones)
        largest = largest + arithmetic.maximum(extra.abs(), (-2,), True)
    results = column_totals(torch.where(torch.isfinite(c), c.abs(), 0.0), ones)
    eta = smallest_rounding(result.dtype)

    def bound(accumulation: Accumulation) -> Tensor:
        accumulation = replace(accumulation, partial_largest=inf)  # the norms have taken care of overflow
        columns = product_bound(
            size, gemm.num_terms, gemm.alpha, accumulation, num_results=num_rows, factor_sizes=sizes
        )
        return checksum_bound(columns, results, num_rows, result.dtype, eta)

    height = arithmetic.height(num_rows) + arithmetic.height(gemm.num_terms) + 4
    return Comparison(
        output="checksum",
        computed=column_totals(c, weights),
        exact=torch.where(largest * 1.05 < torch.finfo(result.dtype).max, exact, torch.nan),
        strict=bound(precision.strict),
        permissive=bound(precision.permissive),
        shadow_error=height * UNIT_ROUNDOFF * (size + results),
        model=precision.permissive.model,
    )
