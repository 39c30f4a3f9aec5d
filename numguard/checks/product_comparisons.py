"""What is compared of one batched product: sampled elements with their bounds, and checksums of the rest."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from numguard.checks.check import Probe
from numguard.checks.exact_results import exact_integers
from numguard.checks.freivalds import checksum
from numguard.checks.gemm import Gemm
from numguard.checks.integer_products import integer_product
from numguard.checks.judged_products import judged_elements
from numguard.checks.matmul_precision import Precision, precision_now, reads_subnormals_as_zero, with_stored_sums
from numguard.checks.product_blocks import Block, blocks_of
from numguard.numerics.error_bounds.contraction_bounds import Accumulation, product_bound, product_shadow_error
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.comparison import Compared, Comparison


def product_precision(gemm: Gemm, result: Tensor) -> Precision:
    """Return the models, allowing for products that are stored before the next is added."""
    precision = precision_now(gemm.a.dtype, result.dtype, result.device.type)
    return with_stored_sums(precision, result.dtype, adds=gemm.added is not None, num_sums=gemm.num_sums)


def parts_of(gemm: Gemm, probe: Probe) -> tuple[Block, Block | None]:
    """Return the elements to form again and, where these are not all, what a checksum covers beside them."""
    is_summed = not gemm.rectified and gemm.a.dtype.is_floating_point
    return blocks_of(gemm.shape, gemm.num_terms, probe, is_summed=is_summed)


class FormedSums(NamedTuple):
    """The inner products of a result, formed again in float64.

    Attributes
    ----------
    value, mass
        ``A @ B`` and ``|A| @ |B|``.
    factor_sizes
        As in :func:`~numguard.numerics.error_bounds.contraction_bounds.product_bound`.
    num_terms
        Length of the inner products; a tensor where they differ.
    height
        Additions that a term passes through.
    """

    value: Tensor
    mass: Tensor
    factor_sizes: Tensor | float
    num_terms: int | Tensor
    height: int


def _formed(gemm: Gemm, result: Tensor, arithmetic: Arithmetic) -> FormedSums:
    height = arithmetic.height(gemm.num_terms)
    if gemm.num_terms == 0:
        nothing = torch.zeros(result.shape, dtype=torch.float64, device=result.device)
        return FormedSums(nothing, nothing, 0.0, 0, height)
    a, b = (x.detach().to(torch.float64).resolve_neg() for x in (gemm.a, gemm.b))
    sizes_a, sizes_b = a.abs(), b.abs()
    sizes: Tensor | float = 0.0
    if reads_subnormals_as_zero(gemm.a.dtype):
        sizes = arithmetic.total(sizes_a, (-1,), True) + arithmetic.total(sizes_b, (-2,), True)
    return FormedSums(arithmetic.product(a, b), arithmetic.product(sizes_a, sizes_b), sizes, gemm.num_terms, height)


def bounded_elements(gemm: Gemm, result: Tensor, sums: FormedSums, precision: Precision) -> Comparison:
    """Return the comparison of all elements of a product whose inner products have been formed again.

    Parameters
    ----------
    gemm
        The product: what is added to the inner products, and their factor.
    result
        Its results, of the shape of ``sums.value``.
    sums
        The inner products.
    precision
        Accumulation models.
    """
    exact, size = sums.value, sums.mass
    if gemm.alpha != 1:
        exact, size = exact * gemm.alpha, size * abs(gemm.alpha)
    if gemm.added is not None:
        added = gemm.added.detach().to(torch.float64).resolve_neg() * gemm.beta
        exact, size = exact + added, size + added.abs()

    def bound(accumulation: Accumulation) -> Tensor:
        terms = sums.num_terms + gemm.num_sums
        return product_bound(size, terms, gemm.alpha, accumulation, factor_sizes=sums.factor_sizes)

    return Comparison(
        output="result",
        computed=result,
        exact=exact.clamp(min=0.0) if gemm.rectified else exact,
        strict=bound(precision.strict),
        permissive=None if precision.permissive == precision.strict else bound(precision.permissive),
        shadow_error=product_shadow_error(size, sums.height, gemm.alpha),
        model=precision.permissive.model,
        propagates_nonfinite=gemm.a.dtype != torch.float64 and gemm.alpha != 0 and not gemm.rectified,
    )


def formed_elements(gemm: Gemm, result: Tensor, arithmetic: Arithmetic, precision: Precision) -> Comparison:
    """Return the comparison of all elements of a product of floating-point numbers, ``[B, M, N]``."""
    return bounded_elements(gemm, result, _formed(gemm, result, arithmetic), precision)


def _elements(gemm: Gemm, result: Tensor, arithmetic: Arithmetic, precision: Precision) -> Compared:
    judged = None
    if arithmetic.fused is not None and gemm.num_terms:
        judged = judged_elements(gemm, result, arithmetic, precision)
    return formed_elements(gemm, result, arithmetic, precision) if judged is None else judged


def _integers(gemm: Gemm, result: Tensor, probe: Probe) -> Comparison:
    bits = 8 * result.element_size()
    if gemm.num_terms == 0:
        value = torch.zeros(result.shape, dtype=torch.int64, device=result.device)
    else:
        value = integer_product(gemm.a.detach(), gemm.b.detach(), bits, probe.arithmetic.product)
    value = value * int(gemm.alpha)
    if gemm.added is not None:
        value = value + gemm.added.detach().to(torch.int64) * int(gemm.beta)
    return exact_integers("result", result, value.clamp(min=0) if gemm.rectified else value)


def compared_product(
    gemm: Gemm, result: Tensor, probe: Probe, added: tuple[Tensor, Tensor | None] | None = None
) -> Sequence[Compared]:
    """Return the comparisons of a product: of its elements, and of its checksums where elements are left out.

    Parameters
    ----------
    gemm
        The product.
    result
        Its results, ``[B, M, N]``.
    probe
        Route, limit and offset.
    added
        C at the elements and at the checksums, where the operator has overwritten it.
    """
    if not result.numel():
        return ()
    block, summed = parts_of(gemm, probe)
    part, computed = block.of(gemm), block.cut(result)
    if added is not None:
        part = replace(part, added=added[0])
    if not result.dtype.is_floating_point:
        return (_integers(part, computed, probe),)
    precision = product_precision(gemm, result)
    comparisons = [_elements(part, computed, probe.arithmetic, precision)]
    if summed is not None and gemm.num_terms:
        covered = summed.of(gemm)
        if added is not None:
            covered = replace(covered, added=added[1])
        comparisons.append(checksum(covered, summed.cut(result), probe, precision))
    return comparisons
