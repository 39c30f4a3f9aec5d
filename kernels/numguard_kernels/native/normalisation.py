"""Rows of layer normalisation, forward and backward, with bounds and verdicts from one read."""

import ctypes
from array import array
from typing import Final

from torch import Tensor

from numguard_kernels.native.judgement import NUM_NUMBERS, JudgedElements, memory_for, numbers_at
from numguard_kernels.native.library import DTYPES, Normalising

_ROWS: Final = ("exact", "strict", "shadow_error")
_GRADIENTS: Final = ("exact", "strict", "permissive", "shadow_error")


def judged_layer_norm(
    library: ctypes.CDLL,
    rows: tuple[Tensor, Tensor, Tensor, Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    by: Normalising,
) -> tuple[JudgedElements, JudgedElements, JudgedElements]:
    """Judge results, means and reciprocal standard deviations of rows.

    Parameters
    ----------
    rows
        x, y, mean and rstd: the same leading dimensions, elements of a row last and adjacent, one for the last two.
    weight, bias
        Contiguous, any known dtype.
    by
        Coefficients.
    """
    x, _, mean, _ = rows
    all_of, few = x.numel(), mean.numel()
    places = (0, 3 * all_of, 3 * (all_of + few))
    end = 3 * (all_of + 2 * few)
    out, address = memory_for(end + 3 * NUM_NUMBERS)
    words = _words(rows, (weight, bias))
    library.ng_judged_layer_norm(
        words.buffer_info()[0],
        x.shape[-1],
        ctypes.addressof(by),
        address,
        address + 8 * end,
    )
    shapes = (tuple(x.shape), tuple(mean.shape))
    return (
        JudgedElements(out, places[0], _ROWS, shapes[0], numbers_at(out, end)),
        JudgedElements(out, places[1], _ROWS, shapes[1], numbers_at(out, end + NUM_NUMBERS)),
        JudgedElements(out, places[2], _ROWS, shapes[1], numbers_at(out, end + 2 * NUM_NUMBERS)),
    )


def judged_layer_norm_gradient(
    library: ctypes.CDLL, rows: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], weight: Tensor | None, by: Normalising
) -> JudgedElements:
    """Judge gradients of x; ``rows`` are dy, x, mean, rstd and the gradients, as in :func:`judged_layer_norm`."""
    end = 4 * rows[0].numel()
    out, address = memory_for(end + NUM_NUMBERS)
    words = _words(rows, (weight,))
    library.ng_judged_layer_norm_gradient(
        words.buffer_info()[0],
        rows[0].shape[-1],
        ctypes.addressof(by),
        address,
        address + 8 * end,
    )
    return JudgedElements(out, 0, _GRADIENTS, tuple(rows[0].shape), numbers_at(out, end))


def _words(rows: tuple[Tensor, ...], parameters: tuple[Tensor | None, ...]) -> "array[int]":
    """Return number and sizes of the leading dimensions, then data, dtype and strides of each tensor.

    A parameter is a row that stands for all.
    """
    leading = rows[0].shape[:-1]
    words = array("q", (len(leading), *leading))
    for tensor in rows:
        words.extend((tensor.data_ptr(), DTYPES[tensor.dtype], *tensor.stride()[:-1]))
    for parameter in parameters:
        words.extend((0, 0) if parameter is None else (parameter.data_ptr(), DTYPES[parameter.dtype]))
        words.extend((0,) * len(leading))
    return words
