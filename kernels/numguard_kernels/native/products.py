"""Inner products, and blocks of matrix products with the sums of their magnitudes, in float64 or wider."""

import ctypes
from array import array
from typing import NamedTuple

import torch
from torch import Tensor

from numguard_kernels.native.judgement import NUM_NUMBERS
from numguard_kernels.native.library import DTYPES, Judging, Operand


class InnerProduct(NamedTuple):
    """``high + low`` is the value, unevaluated; ``mass`` the sum of the magnitudes of the products."""

    high: float
    low: float
    mass: float


def inner_product(library: ctypes.CDLL, x: Tensor, y: Tensor) -> InnerProduct:
    """Return the compensated inner product of two vectors of any known dtypes."""
    x, y = x.contiguous(), y.contiguous()
    out = (ctypes.c_double * 3)()
    library.ng_dot(x.data_ptr(), DTYPES[x.dtype], y.data_ptr(), DTYPES[y.dtype], x.numel(), ctypes.addressof(out))
    return InnerProduct(*out)


def product_and_mass(library: ctypes.CDLL, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``a @ b`` and ``|a| @ |b|`` in float64, summed term after term, from ``[B, M, K]`` and ``[B, K, N]``.

    The operands may have any strides and known dtypes; nothing is copied.
    """
    batches, rows, terms = a.shape
    columns = b.shape[2]
    out = torch.empty((2, batches, rows, columns), dtype=torch.float64)
    if out.numel():
        library.ng_product(
            ctypes.addressof(left := Operand(a.data_ptr(), DTYPES[a.dtype], *a.stride())),
            ctypes.addressof(right := Operand(b.data_ptr(), DTYPES[b.dtype], *b.stride())),
            batches,
            rows,
            columns,
            terms,
            a.element_size(),
            b.element_size(),
            out.data_ptr(),
            out.data_ptr() + 8 * (out.numel() // 2),
        )
        del left, right
    return out[0], out[1]


class JudgedElements(NamedTuple):
    """Comparisons that have been judged already, float64: elements or checksums, their bounds, and the verdict."""

    exact: Tensor
    strict: Tensor
    permissive: Tensor
    shadow_error: Tensor
    computed: Tensor | None
    verdict: Tensor


def judged_product(
    library: ctypes.CDLL, a: Tensor, b: Tensor, c: Tensor, added: Tensor | None, by: Judging
) -> JudgedElements:
    """Judge ``c = alpha a @ b + beta added`` element by element; all ``[B, ., .]``, any strides and known dtypes."""
    out = torch.empty((4, *c.shape), dtype=torch.float64)
    verdict = torch.empty(NUM_NUMBERS, dtype=torch.float64)
    operands = _operands(a, b, c, added)
    library.ng_judged_product(
        operands.buffer_info()[0], *_sizes(a, b), ctypes.addressof(by), out.data_ptr(), verdict.data_ptr()
    )
    exact, strict, permissive, shadow_error = out.unbind()
    return JudgedElements(exact, strict, permissive, shadow_error, None, verdict)


def judged_checksums(
    library: ctypes.CDLL, a: Tensor, b: Tensor, c: Tensor, added: Tensor | None, first_sign: int, by: Judging
) -> JudgedElements:
    """Judge the sums over the rows of ``c`` with weights of plus and minus one; rows that are not finite are out.

    Parameters
    ----------
    first_sign
        Number of the first of consecutive weights, an int64: bits of its hash are the signs.
    """
    out = torch.empty((5, a.shape[0], 1, b.shape[2]), dtype=torch.float64)
    verdict = torch.empty(NUM_NUMBERS, dtype=torch.float64)
    operands = _operands(a, b, c, added)
    library.ng_judged_checksum(
        operands.buffer_info()[0], *_sizes(a, b), first_sign, ctypes.addressof(by), out.data_ptr(), verdict.data_ptr()
    )
    exact, strict, permissive, shadow_error, computed = out.unbind()
    return JudgedElements(exact, strict, permissive, shadow_error, computed, verdict)


_NOTHING = (0, 0, 0, 0, 0)


class Factors(NamedTuple):
    """Part of a product in the caller's memory.

    Attributes
    ----------
    words
        Factors, results and addend as the library's operands: address, dtype, strides of batches, rows and columns
        each; zeros where nothing is added.
    sizes
        Batches, rows, columns and terms.
    """

    words: "array[int]"
    sizes: "array[int]"


def judged_parts(
    library: ctypes.CDLL,
    elements: Factors,
    by: Judging,
    summed: Factors | None,
    summed_by: Judging | None,
    first_sign: int,
) -> tuple[JudgedElements, JudgedElements | None]:
    """Judge elements of one part of a product and checksums of another, as the two functions above, by one call."""
    batches, rows, columns, _ = elements.sizes
    count = batches * rows * columns
    num_sums = 0 if summed is None else summed.sizes[0] * summed.sizes[2]
    out = torch.empty(4 * count + 5 * num_sums + 2 * NUM_NUMBERS, dtype=torch.float64)
    address = out.data_ptr()
    library.ng_judged_product_and_checksum(
        elements.words.buffer_info()[0],
        elements.sizes.buffer_info()[0],
        None if summed is None else summed.words.buffer_info()[0],
        None if summed is None else summed.sizes.buffer_info()[0],
        first_sign,
        ctypes.addressof(by),
        None if summed_by is None else ctypes.addressof(summed_by),
        address,
        address + 8 * (4 * count + 5 * num_sums),
    )
    of_elements, of_sums, verdict, summed_verdict = out.split([4 * count, 5 * num_sums, NUM_NUMBERS, NUM_NUMBERS])
    exact, strict, permissive, shadow_error = of_elements.view(4, batches, rows, columns).unbind()
    judged = JudgedElements(exact, strict, permissive, shadow_error, None, verdict)
    if summed is None:
        return judged, None
    exact, strict, permissive, shadow_error, computed = of_sums.view(5, summed.sizes[0], 1, summed.sizes[2]).unbind()
    return judged, JudgedElements(exact, strict, permissive, shadow_error, computed, summed_verdict)


def _operands(a: Tensor, b: Tensor, c: Tensor, added: Tensor | None) -> "array[int]":
    """Return the library's operands, five words each, in one piece."""
    words = array("q", (a.data_ptr(), DTYPES[a.dtype], *a.stride(), b.data_ptr(), DTYPES[b.dtype], *b.stride()))
    words.extend((c.data_ptr(), DTYPES[c.dtype], *c.stride()))
    words.extend(_NOTHING if added is None else (added.data_ptr(), DTYPES[added.dtype], *added.stride()))
    return words


def _sizes(a: Tensor, b: Tensor) -> tuple[int, int, int, int]:
    batches, rows, terms = a.shape
    return batches, rows, b.shape[2], terms
