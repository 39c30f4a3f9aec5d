"""Rows of layer normalisation, forward and backward, with bounds and verdicts from one read."""

import ctypes
from array import array
from typing import NamedTuple

import torch
from torch import Tensor

from numguard_kernels.native.judgement import NUM_NUMBERS
from numguard_kernels.native.library import DTYPES, Normalising


class JudgedRows(NamedTuple):
    """Results that have been judged, float64: shadows, bounds, error of the shadow, and the verdict."""

    exact: Tensor
    strict: Tensor
    permissive: Tensor | None
    shadow_error: Tensor
    verdict: Tensor


def judged_layer_norm(
    library: ctypes.CDLL,
    rows: tuple[Tensor, Tensor, Tensor, Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    by: Normalising,
) -> tuple[JudgedRows, JudgedRows, JudgedRows]:
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
    out = torch.empty(3 * all_of + 6 * few, dtype=torch.float64)
    verdicts = torch.empty((3, NUM_NUMBERS), dtype=torch.float64)
    words = _words(rows, (weight, bias))
    library.ng_judged_layer_norm(
        words.buffer_info()[0],
        x.shape[-1],
        ctypes.addressof(by),
        out.data_ptr(),
        verdicts.data_ptr(),
    )
    pieces = torch.split(out, [3 * all_of, 3 * few, 3 * few])
    judged = []
    for piece, like, verdict in zip(pieces, (x, mean, mean), verdicts.unbind(), strict=True):
        exact, strict, error = piece.view(3, *like.shape).unbind()
        judged.append(JudgedRows(exact, strict, None, error, verdict))
    return judged[0], judged[1], judged[2]


def judged_layer_norm_gradient(
    library: ctypes.CDLL, rows: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], weight: Tensor | None, by: Normalising
) -> JudgedRows:
    """Judge gradients of x; ``rows`` are dy, x, mean, rstd and the gradients, as in :func:`judged_layer_norm`."""
    out = torch.empty((4, *rows[0].shape), dtype=torch.float64)
    verdict = torch.empty(NUM_NUMBERS, dtype=torch.float64)
    words = _words(rows, (weight,))
    library.ng_judged_layer_norm_gradient(
        words.buffer_info()[0],
        rows[0].shape[-1],
        ctypes.addressof(by),
        out.data_ptr(),
        verdict.data_ptr(),
    )
    exact, strict, permissive, shadow_error = out.unbind()
    return JudgedRows(exact, strict, permissive, shadow_error, verdict)


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
