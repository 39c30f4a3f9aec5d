"""Checks of matrix products: mm, addmm, bmm, baddbmm, addbmm, mv, addmv, dot, vdot and their variants.

Sampled rows are formed again in float64 and judged element by element; when not every element is, a checksum with
weights of plus and minus one covers the rest.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Check, Probe
from numguard.checks.contraction_examples import FIRES, SILENT
from numguard.checks.freivalds import checksum
from numguard.checks.gemm import Gemm, gemm_of
from numguard.checks.integer_products import exact_comparison, integer_product
from numguard.checks.judged_contractions import judged_contraction
from numguard.checks.judged_products import judged_elements
from numguard.checks.matmul_precision import Precision, precision_now, reads_subnormals_as_zero, with_stored_sums
from numguard.checks.product_blocks import Block, blocks_of
from numguard.numerics.error_bounds.contraction_bounds import product_bound, product_shadow_error
from numguard.shadow.call import OpCall, mutated_arguments
from numguard.shadow.comparison import Comparison, NotCovered


def _blocks_of(gemm: Gemm, probe: Probe) -> tuple[Block, Block | None]:
    is_summed = not gemm.rectified and gemm.a.dtype.is_floating_point
    return blocks_of(gemm.shape, gemm.num_terms, probe, is_summed=is_summed)


def _overwritten(call: OpCall) -> bool:
    """Tell whether C lies in the memory that the operator writes to."""
    added = call.arguments.get("self")
    storage = added.untyped_storage().data_ptr() if isinstance(added, Tensor) and added.numel() else None
    return storage is not None and any(
        storage == call[name].untyped_storage().data_ptr() for name in mutated_arguments(call.overload)
    )


def _capture(call: OpCall, probe: Probe) -> tuple[Tensor, Tensor | None] | None:
    if not _overwritten(call):
        return None
    try:
        gemm = gemm_of(call)
    except NotCovered:
        return None  # judge says so again
    if gemm.added is None:
        return None
    block, summed = _blocks_of(gemm, probe)
    return block.cut(gemm.added).clone(), None if summed is None else summed.cut(gemm.added).clone()


def _elements(gemm: Gemm, result: Tensor, probe: Probe, precision: Precision) -> Comparison:
    arithmetic = probe.arithmetic
    if arithmetic.fused is not None and gemm.num_terms:
        judged = judged_elements(gemm, result, arithmetic, precision)
        if judged is not None:
            return judged
    added = None if gemm.added is None else gemm.added.detach().to(torch.float64).resolve_neg() * gemm.beta
    if gemm.num_terms == 0:
        value = mass = torch.zeros(result.shape, dtype=torch.float64, device=result.device)
        sizes: Tensor | float = 0.0
    else:
        a, b = (x.detach().to(torch.float64).resolve_neg() for x in (gemm.a, gemm.b))
        sizes_a, sizes_b = a.abs(), b.abs()
        value, mass = arithmetic.product(a, b), arithmetic.product(sizes_a, sizes_b)
        sizes = 0.0
        if reads_subnormals_as_zero(gemm.a.dtype):
            sizes = arithmetic.total(sizes_a, (-1,), True) + arithmetic.total(sizes_b, (-2,), True)
    exact, size = (value, mass) if gemm.alpha == 1 else (value * gemm.alpha, mass * abs(gemm.alpha))
    if added is not None:
        exact, size = exact + added, size + added.abs()
    terms = gemm.num_terms + gemm.num_sums
    strict = product_bound(size, terms, gemm.alpha, precision.strict, factor_sizes=sizes)
    permissive = None
    if precision.permissive != precision.strict:
        permissive = product_bound(size, terms, gemm.alpha, precision.permissive, factor_sizes=sizes)
    height = arithmetic.height(gemm.num_terms)
    return Comparison(
        output="result",
        computed=result,
        exact=exact.clamp(min=0.0) if gemm.rectified else exact,
        strict=strict,
        permissive=permissive,
        shadow_error=product_shadow_error(size, height, gemm.alpha),
        model=precision.permissive.model,
        propagates_nonfinite=gemm.a.dtype != torch.float64 and gemm.alpha != 0 and not gemm.rectified,
    )


def _integers(gemm: Gemm, result: Tensor, probe: Probe) -> Comparison:
    bits = 8 * result.element_size()
    if gemm.num_terms == 0:
        value = torch.zeros(result.shape, dtype=torch.int64, device=result.device)
    else:
        value = integer_product(gemm.a.detach(), gemm.b.detach(), bits, probe.arithmetic.product)
    value = value * int(gemm.alpha)
    if gemm.added is not None:
        value = value + gemm.added.detach().to(torch.int64) * int(gemm.beta)
    return exact_comparison("result", result, value.clamp(min=0) if gemm.rectified else value)


def _precision(gemm: Gemm, result: Tensor) -> Precision:
    """Return the models, allowing for products that are stored before the next is added."""
    precision = precision_now(gemm.a.dtype, result.dtype, result.device.type)
    return with_stored_sums(precision, result.dtype, adds=gemm.added is not None, num_sums=gemm.num_sums)


def _judge(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    judged = judged_contraction(call, probe) if captured is None else None
    if judged is not None:
        return judged
    gemm = gemm_of(call)
    batches, rows, columns = gemm.shape
    if batches * rows * columns == 0:
        return ()
    result = call.output.detach().reshape(gemm.shape)
    block, summed = _blocks_of(gemm, probe)
    part, computed = block.of(gemm), block.cut(result)
    if captured is not None:
        part = replace(part, added=captured[0])
    if not result.dtype.is_floating_point:
        return (_integers(part, computed, probe),)
    precision = _precision(gemm, result)
    comparisons = [_elements(part, computed, probe, precision)]
    if summed is not None and gemm.num_terms:
        covered = summed.of(gemm)
        if captured is not None:
            covered = replace(covered, added=captured[1])
        comparisons.append(checksum(covered, summed.cut(result), probe, precision))
    return comparisons


def _cost(call: OpCall) -> float:
    try:
        gemm = gemm_of(call)
    except NotCovered:
        return 0.0
    batches, rows, columns = gemm.shape
    return 2.0 * batches * rows * columns * max(1, gemm.num_terms)


_VARIANTS: Final = {
    "matrix_product": ("mm", "mm.out", "mm.dtype", "mm.dtype_out", "bmm", "bmm.out", "bmm.dtype", "bmm.dtype_out"),
    "matrix_product_and_sum": (
        *("addmm", "addmm.out", "addmm.dtype", "addmm.dtype_out", "addmm_"),
        *("baddbmm", "baddbmm.out", "baddbmm.dtype", "baddbmm.dtype_out", "baddbmm_"),
        *("addbmm", "addbmm.out", "addbmm_", "_addmm_activation", "_addmm_activation.out"),
    ),
    "matrix_vector_product": ("mv", "mv.out", "addmv", "addmv.out", "addmv_"),
    "inner_product": ("dot", "dot.out", "vdot", "vdot.out"),
}

CHECKS: tuple[Check, ...] = tuple(
    Check(
        name=name,
        family="contractions",
        ops=tuple(f"aten::{op}" for op in ops),
        judge=_judge,
        capture=_capture,
        cost=_cost,
        silent=SILENT[name],
        fires=FIRES[name],
        advice="Run the matrix product again on another device or thread count; if it repeats, report the shapes "
        "and strides to the BLAS vendor, otherwise drain the device.",
    )
    for name, ops in _VARIANTS.items()
)
