"""What a shadow needs to add, multiply and scatter in float64, whichever route does it.

A shadow never runs an operator of the family that it checks, and the confirmation takes yet another route. So the
shadow code of a check is written once against :class:`Arithmetic` and evaluated along different routes
(:mod:`numguard.shadow.routes`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from array import array
    from collections.abc import Sequence

    from numguard.backends.attention import Attending, Rows, Sizes
    from numguard.backends.dot import JudgedElements, Judging
    from numguard.backends.judged_sums import Slotting, Summing
    from numguard.backends.normalisation import (
        Columns,
        GradientRows,
        JudgedNorm,
        Normalising,
        NormRows,
        Weighing,
    )
    from numguard.backends.pointwise import Pointwise

Part = tuple["array[int]", "array[int]"]  # words and sizes of a part of a product
UNIT_ROUNDOFF = 2.0**-53  # of the float64 that every shadow is evaluated in


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedSums:
    """Sums that a route forms from the caller's own memory in one pass, whatever the dtype and the strides.

    Each returns None for tensors that it cannot read; then the caller takes the general functions of the route. Terms
    are added one after the other or in lanes: ``height`` of the route bounds the additions.

    Parameters
    ----------
    rows
        ``rows(x, num_kept)``: sums and sums of magnitudes over all but the first ``num_kept`` dimensions.
    product
        ``product(a, b)``: ``a @ b`` and ``|a| @ |b|`` of ``[B, M, K]`` and ``[B, K, N]``.
    elements, checksums
        Elements and checksums of a product with bounds and verdict:
        :func:`~numguard.backends.dot.native_judged_product`, :func:`~numguard.backends.dot.native_judged_checksums`.
    parts
        Both of one product at once: :func:`~numguard.backends.dot.native_judged_parts`.
    layer_norm, layer_norm_gradient
        Rows of a layer norm with bounds and verdicts: :func:`~numguard.backends.normalisation.native_layer_norm`,
        :func:`~numguard.backends.normalisation.native_layer_norm_gradient`.
    parameter_gradients
        Columns of a norm: :func:`~numguard.backends.normalisation.native_parameter_gradients`.
    row_sums, slot_sums
        Sums with bounds and verdict: :func:`~numguard.backends.judged_sums.native_judged_row_sums`,
        :func:`~numguard.backends.judged_sums.native_judged_slot_sums`.
    pointwise
        Elementwise operators: :func:`~numguard.backends.pointwise.native_pointwise`.
    attention, attention_gradients
        Rows of attention: :func:`~numguard.backends.attention.native_attention`,
        :func:`~numguard.backends.attention.native_attention_gradients`.
    """

    rows: Callable[[Tensor, int], tuple[Tensor, Tensor] | None]
    product: Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None]
    elements: "Callable[[Tensor, Tensor, Tensor, Tensor | None, Judging], JudgedElements | None]"
    checksums: "Callable[[Tensor, Tensor, Tensor, Tensor | None, int, Judging], JudgedElements | None]"
    parts: (
        "Callable[[Sequence[Tensor | None], Part, Judging, Part | None, Judging | None, int], "
        "tuple[JudgedElements, JudgedElements | None] | None]"
    )
    layer_norm: "Callable[[NormRows, Tensor | None, Tensor | None, Normalising], JudgedNorm | None]"
    layer_norm_gradient: "Callable[[GradientRows, Tensor | None, Normalising], JudgedElements | None]"
    parameter_gradients: (
        "Callable[[Columns, tuple[Tensor | None, Tensor | None], Weighing], "
        "tuple[JudgedElements, JudgedElements] | None]"
    )
    row_sums: "Callable[[Tensor, int, Tensor, Summing], JudgedElements | None]"
    slot_sums: "Callable[[int, Tensor, Tensor, Tensor | None, Tensor, Slotting], JudgedElements | None]"
    pointwise: "Callable[[Tensor, Sequence[Tensor], Pointwise], JudgedElements | None]"
    attention: (
        "Callable[[Sizes, Rows, Sequence[Tensor | None], Attending], tuple[JudgedElements, JudgedElements] | None]"
    )
    attention_gradients: (
        "Callable[[Sizes, Rows, Rows, Sequence[Tensor | None], Attending], "
        "tuple[JudgedElements, JudgedElements, JudgedElements] | None]"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Arithmetic:
    """One route. All tensors are float64; dimensions are as in torch; nothing synchronises with the host.

    Parameters
    ----------
    name
        ``"native"``, ``"numpy"``, ``"pairwise"``, ``"ones"`` or ``"reduction"``.
    families
        Families of checked operators that this route runs, so that it may not judge them.
    total
        ``total(x, dims, keepdim)``: sums over ``dims`` (a tuple; empty means no dimension).
    product
        ``product(a, b)``: matrix product ``[..., m, k] @ [..., k, n]`` with broadcasting over leading dimensions.
    maximum
        ``maximum(x, dims, keepdim)``: largest element, NaN propagates.
    prefix_totals
        ``prefix_totals(x, dim)``: cumulative sums.
    slot_totals
        ``slot_totals(slots, index, source)``: ``[slots, ...]``, the sums of the rows of ``source [n, ...]`` by slot
        number ``index [n]``.
    height
        ``height(n)``: additions that a term passes through in a sum of ``n`` terms: the error of ``total`` is at
        most ``height(n) * UNIT_ROUNDOFF`` times the sum of absolute values (Higham, ASNA 2nd ed., section 4.2).
    fused
        What the route does in one pass over the caller's memory; None where it has nothing of the kind.
    """

    name: str
    families: frozenset[str]
    total: Callable[[Tensor, tuple[int, ...], bool], Tensor]
    product: Callable[[Tensor, Tensor], Tensor]
    maximum: Callable[[Tensor, tuple[int, ...], bool], Tensor]
    prefix_totals: Callable[[Tensor, int], Tensor]
    slot_totals: Callable[[int, Tensor, Tensor], Tensor]
    height: Callable[[int], int]
    fused: FusedSums | None = None

    @property
    def is_numpy(self) -> bool:
        """Whether elementwise formulas are evaluated by NumPy, so that no kernel of torch takes part."""
        return self.name in ("numpy", "native")
