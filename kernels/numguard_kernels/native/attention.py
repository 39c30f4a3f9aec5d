"""Sampled rows of attention, forward and backward, with bounds and verdicts from one read."""

import ctypes
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from numguard_kernels.native.judgement import NUM_NUMBERS, JudgedElements, memory_for, numbers_at
from numguard_kernels.native.library import DTYPES, Attending

_TRUTH: Final = 100  # the library's number of a mask of truth values
_NOTHING: Final = (0, 0, 0, 0, 0, 0)
_ROWS: Final = ("exact", "strict", "shadow_error")
_ONE_BOUND: Final = ("exact", "strict", "", "shadow_error")
_TWO_BOUNDS: Final = ("exact", "strict", "permissive", "shadow_error")
Every = tuple[int, int, int]  # first, step and count of evenly spaced positions


class AttentionShape(NamedTuple):
    """Query heads per key head, queries and keys of a head, features of a query and of a value."""

    group: int
    num_queries: int
    num_keys: int
    features: int
    width: int


class Picked(NamedTuple):
    """Evenly spaced batches, key heads, queries and keys that are judged."""

    batches: Every
    heads: Every
    queries: Every
    keys: Every

    @property
    def num_heads(self) -> int:
        """Pairs of a batch and a key head."""
        return self.batches[2] * self.heads[2]


def judged_attention(
    library: ctypes.CDLL, shape: AttentionShape, picked: Picked, tensors: Sequence[Tensor | None], by: Attending
) -> tuple[JudgedElements, JudgedElements]:
    """Judge output and logsumexp of picked queries; ``permissive`` stays None.

    Parameters
    ----------
    shape, picked
        Sizes, and which rows are judged; every key counts.
    tensors
        Query, key, value, mask, output, logsumexp: ``[B, heads, rows, columns]``, any strides and known dtypes; the
        mask additive or of truth values, or None; the logsumexp with one column, or None.
    by
        Coefficients.
    """
    rows = (picked.batches[2], picked.heads[2], shape.group, picked.queries[2])
    num_rows = rows[0] * rows[1] * rows[2] * rows[3]
    n = num_rows * shape.width
    end = 3 * (n + num_rows)
    out, address = memory_for(end + 2 * NUM_NUMBERS)
    words = _words(shape, picked, tensors)
    library.ng_judged_attention(
        words.buffer_info()[0],
        ctypes.addressof(by),
        address,
        address + 8 * end,
    )
    return (
        JudgedElements(out, 0, _ROWS, (*rows, shape.width), numbers_at(out, end)),
        JudgedElements(out, 3 * n, _ROWS, rows, numbers_at(out, end + NUM_NUMBERS)),
    )


def judged_attention_gradients(
    library: ctypes.CDLL,
    shape: AttentionShape,
    by_query: Picked,
    by_key: Picked,
    tensors: Sequence[Tensor | None],
    by: Attending,
) -> tuple[JudgedElements, JudgedElements, JudgedElements]:
    """Judge gradients of query, key and value.

    Parameters
    ----------
    by_query, by_key
        Which queries are judged over all keys, and which keys over all queries.
    tensors
        As in :func:`judged_attention`, then the gradients of output, query, key and value.
    """
    rows = by_query.num_heads * shape.group * by_query.queries[2]
    keys = by_key.num_heads * by_key.keys[2]
    sizes = [rows * shape.features, keys * shape.features, keys * shape.width]
    end = 4 * sum(sizes)
    out, address = memory_for(end + 3 * NUM_NUMBERS)
    words = [_words(shape, picked, tensors) for picked in (by_query, by_key)]
    library.ng_judged_attention_gradients(
        words[0].buffer_info()[0],
        words[1].buffer_info()[0],
        ctypes.addressof(by),
        address,
        address + 8 * end,
    )
    shapes = (
        (by_query.batches[2], by_query.heads[2], shape.group, by_query.queries[2], shape.features),
        (by_key.batches[2], by_key.heads[2], by_key.keys[2], shape.features),
        (by_key.batches[2], by_key.heads[2], by_key.keys[2], shape.width),
    )
    names = _TWO_BOUNDS if by.has_permissive else _ONE_BOUND
    places = (0, 4 * sizes[0], 4 * (sizes[0] + sizes[1]))
    judged = [
        JudgedElements(out, first, names, like, numbers_at(out, end + number * NUM_NUMBERS))
        for number, (first, like) in enumerate(zip(places, shapes, strict=True))
    ]
    return judged[0], judged[1], judged[2]


def _words(shape: AttentionShape, picked: Picked, tensors: Sequence[Tensor | None]) -> "array[int]":
    words = array("q", shape)
    for every in picked:
        words.extend(every)
    for tensor in (*tensors, *(None,) * (10 - len(tensors))):
        if tensor is None:
            words.extend(_NOTHING)
            continue
        strides = tensor.stride() if tensor.dim() == 4 else (*tensor.stride(), 0)
        dtype = _TRUTH if tensor.dtype == torch.bool else DTYPES[tensor.dtype]
        words.extend((tensor.data_ptr(), dtype, *strides))
    return words
