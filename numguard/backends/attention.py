"""Sampled rows of attention judged in one pass over the caller's memory, where the twin is there."""

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from numguard.backends.selection import native_library_for
from numguard.numerics.error_bounds.attention_bounds import AttentionModel

if TYPE_CHECKING:
    from numguard_kernels.native import Attending as Attending
    from numguard_kernels.native import JudgedElements as JudgedElements

Numbers = tuple[float, float, float]
Every = tuple[int, int, int]
Rows = tuple[Every, Every, Every, Every]  # batches, key heads, queries, keys
Sizes = tuple[int, int, int, int, int]  # query heads per key head, queries, keys, features of a query and of a value


def attending_record(
    *,
    scale: float,
    shadow: float,
    mass_limit: float,
    key_height: float,
    num_stores: tuple[float, float],
    result: Numbers,
    logsumexp: Numbers,
    strict: AttentionModel,
    permissive: AttentionModel,
    causal: bool,
) -> "Attending":
    """Return what the twin judges attention by; fields as in :class:`numguard_kernels.native.Attending`.

    ``result`` and ``logsumexp`` are unit roundoff, smallest rounding and largest number of a format.
    """
    import numguard_kernels.native as native

    models = (
        native.AttentionModel(
            model.unit_roundoff,
            model.smallest_normal,
            model.exponential,
            model.weight_roundoff,
            model.weight_smallest,
            model.weight_largest,
            model.factor_roundoff,
            model.store_roundoff,
            model.store_smallest,
        )
        for model in (strict, permissive)
    )
    formats = (native.Format(*numbers) for numbers in (result, logsumexp))
    return native.Attending(
        scale, shadow, mass_limit, key_height, *num_stores, *formats, *models, int(strict != permissive), int(causal)
    )


def native_attention(
    sizes: Sizes, rows: Rows, tensors: Sequence[Tensor | None], by: "Attending"
) -> "tuple[JudgedElements, JudgedElements] | None":
    """Judge queries, as :func:`numguard_kernels.native.judged_attention`; None without the twin."""
    library = _library_for(tensors)
    if library is None:
        return None
    import numguard_kernels.native as native

    return native.judged_attention(library, native.AttentionShape(*sizes), native.Picked(*rows), tensors, by)


def native_attention_gradients(
    sizes: Sizes, by_query: Rows, by_key: Rows, tensors: Sequence[Tensor | None], by: "Attending"
) -> "tuple[JudgedElements, JudgedElements, JudgedElements] | None":
    """Judge gradients, as :func:`numguard_kernels.native.judged_attention_gradients`; None without the twin."""
    library = _library_for(tensors)
    if library is None:
        return None
    import numguard_kernels.native as native

    shape = native.AttentionShape(*sizes)
    return native.judged_attention_gradients(
        library, shape, native.Picked(*by_query), native.Picked(*by_key), tensors, by
    )


def _library_for(tensors: Sequence[Tensor | None]) -> ctypes.CDLL | None:
    """Masks of truth values are read as well as numbers."""
    plain = [x for x in tensors if x is None or x.dtype != torch.bool]
    if any(not x.is_cpu or x.layout is not torch.strided for x in tensors if x is not None):
        return None
    return native_library_for("dot", *plain)
