"""Inner products, and blocks of matrix products with the sums of their magnitudes, in float64 or wider."""

import ctypes
from array import array
from typing import NamedTuple

import torch
from torch import Tensor

from numguard_kernels.native.judgement import NUM_NUMBERS, JudgedElements, memory_for, numbers_at
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


def judged_product(
    library: ctypes.CDLL, a: Tensor, b: Tensor, c: Tensor, added: Tensor | None, by: Judging
) -> JudgedElements:
    """Judge ``c = alpha a @ b + beta added`` element by element; all ``[B, ., .]``, any strides and known dtypes."""
    end = 4 * c.numel()
    out, address = memory_for(end + NUM_NUMBERS)
    operands = _operands(a, b, c, added)
    library.ng_judged_product(
        operands.buffer_info()[0], *_sizes(a, b), ctypes.addressof(by), address, address + 8 * end
    )
    names = _TWO_BOUNDS if by.has_permissive else _ONE_BOUND
    return JudgedElements(out, 0, names, tuple(c.shape), numbers_at(out, end))


def judged_checksums(
    library: ctypes.CDLL, a: Tensor, b: Tensor, c: Tensor, added: Tensor | None, first_sign: int, by: Judging
) -> JudgedElements:
    """Judge the sums over the rows of ``c`` with weights of plus and minus one; rows that are not finite are out.

    Parameters
    ----------
    first_sign
        Number of the first of consecutive weights, an int64: bits of its hash are the signs.
    """
    end = 5 * a.shape[0] * b.shape[2]
    out, address = memory_for(end + NUM_NUMBERS)
    operands = _operands(a, b, c, added)
    library.ng_judged_checksum(
        operands.buffer_info()[0], *_sizes(a, b), first_sign, ctypes.addressof(by), address, address + 8 * end
    )
    return JudgedElements(out, 0, _SUMS, (a.shape[0], 1, b.shape[2]), numbers_at(out, end))


_NOTHING = (0, 0, 0, 0, 0)
_TWO_BOUNDS = ("exact", "strict", "permissive", "shadow_error")
_ONE_BOUND = ("exact", "strict", "", "shadow_error")
_SUMS = (*_TWO_BOUNDS, "computed")


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
    sums, end = 4 * count, 4 * count + 5 * num_sums
    out, address = memory_for(end + 2 * NUM_NUMBERS)
    library.ng_judged_product_and_checksum(
        elements.words.buffer_info()[0],
        elements.sizes.buffer_info()[0],
        None if summed is None else summed.words.buffer_info()[0],
        None if summed is None else summed.sizes.buffer_info()[0],
        first_sign,
        ctypes.addressof(by),
        None if summed_by is None else ctypes.addressof(summed_by),
        address,
        address + 8 * end,
    )
    names = _TWO_BOUNDS if by.has_permissive else _ONE_BOUND
    judged = JudgedElements(out, 0, names, (batches, rows, columns), numbers_at(out, end))
    if summed is None:
        return judged, None
    shape = (summed.sizes[0], 1, summed.sizes[2])
    return judged, JudgedElements(out, sums, _SUMS, shape, numbers_at(out, end + NUM_NUMBERS))


def _operands(a: Tensor, b: Tensor, c: Tensor, added: Tensor | None) -> "array[int]":
    """Return the library's operands, five words each, in one piece."""
    words = array("q", (a.data_ptr(), DTYPES[a.dtype], *a.stride(), b.data_ptr(), DTYPES[b.dtype], *b.stride()))
    words.extend((c.data_ptr(), DTYPES[c.dtype], *c.stride()))
    words.extend(_NOTHING if added is None else (added.data_ptr(), DTYPES[added.dtype], *added.stride()))
    return words


def _sizes(a: Tensor, b: Tensor) -> tuple[int, int, int, int]:
    batches, rows, terms = a.shape
    return batches, rows, b.shape[2], terms
