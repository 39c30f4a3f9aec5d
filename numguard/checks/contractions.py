"""Checks of matrix products: mm, addmm, bmm, baddbmm, addbmm, mv, addmv, dot, vdot and their variants.

Sampled rows are formed again in float64 and judged element by element; when not every element is, a checksum with
weights of plus and minus one covers the rest.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from numguard.checks.check import Check, Probe, checks_of
from numguard.checks.contraction_examples import EXAMPLES
from numguard.checks.gemm import gemm_of
from numguard.checks.judged_contractions import judged_contraction
from numguard.checks.overwritten_operands import is_overwritten
from numguard.checks.product_comparisons import compared_product, parts_of
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Compared, NotCovered


def _overwritten(call: OpCall) -> bool:
    """Tell whether C lies in the memory that the operator writes to."""
    added = call.arguments.get("self")
    return isinstance(added, Tensor) and bool(added.numel()) and is_overwritten(call)


def _capture(call: OpCall, probe: Probe) -> tuple[Tensor, Tensor | None] | None:
    if not _overwritten(call):
        return None
    try:
        gemm = gemm_of(call)
    except NotCovered:
        return None  # judge says so again
    if gemm.added is None:
        return None
    block, summed = parts_of(gemm, probe)
    return block.cut(gemm.added).clone(), None if summed is None else summed.cut(gemm.added).clone()


def _judge(call: OpCall, captured: Any, probe: Probe) -> Sequence[Compared]:
    judged = judged_contraction(call, probe) if captured is None else None
    if judged is not None:
        return judged
    gemm = gemm_of(call)
    return compared_product(gemm, call.output.detach().reshape(gemm.shape), probe, captured)


def _cost(call: OpCall) -> float:
    try:
        gemm = gemm_of(call)
    except NotCovered:
        return 0.0
    batches, rows, columns = gemm.shape
    return 2.0 * batches * rows * columns * max(1, gemm.num_terms)


CHECKS: tuple[Check, ...] = checks_of(
    "contractions",
    {
        "matrix_product": (
            _judge,
            ("mm", "mm.out", "mm.dtype", "mm.dtype_out", "bmm", "bmm.out", "bmm.dtype", "bmm.dtype_out"),
        ),
        "matrix_product_and_sum": (
            _judge,
            (
                *("addmm", "addmm.out", "addmm.dtype", "addmm.dtype_out", "addmm_"),
                *("baddbmm", "baddbmm.out", "baddbmm.dtype", "baddbmm.dtype_out", "baddbmm_"),
                *("addbmm", "addbmm.out", "addbmm_", "_addmm_activation", "_addmm_activation.out"),
            ),
        ),
        "matrix_vector_product": (_judge, ("mv", "mv.out", "addmv", "addmv.out", "addmv_")),
        "inner_product": (_judge, ("dot", "dot.out", "vdot", "vdot.out")),
    },
    EXAMPLES,
    capture=_capture,
    cost=_cost,
    advice="Run the matrix product again on another device or thread count; if it repeats, report the shapes and "
    "strides to the BLAS vendor, otherwise drain the device.",
)
