"""Rows of a matrix in kernels: how they are cut into lanes, added in blocks, and how a verdict on them is formed."""

from collections.abc import Sequence
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from numguard_kernels.element_formats import NATIVE, ElementFormat, bf16_bits, element_format
from numguard_kernels.two_float import add_pairs

#: Longest row that is kept in registers.
LONGEST_ON_CHIP: Final = 16384
_ELEMENTS_PER_THREAD: Final = 32
#: Error of :func:`row_sum` in unit roundoffs of the sum of magnitudes: seven plain additions; rounded up.
ROW_SUM_ERROR_IN_ROUNDOFFS: Final = 7.5

#: dtypes that kernels of rows read.
ROW_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)


@triton.jit
def row_sum(x):
    """Return the sum of a tile of threads times adjacent lanes, rounded once: lanes plainly, threads by TwoSum."""
    lanes = tl.sum(x, 1)
    high, low = tl.reduce((lanes, tl.zeros_like(lanes)), 0, add_pairs)
    return tl.where(tl.abs(high) < float("inf"), high + low, high)


@triton.jit
def plain_sum(x):
    """Return the sum as any kernel forms it: every thread all that it holds, then threads in a tree."""
    return tl.sum(tl.reshape(x, (x.numel,)), 0)


@triton.jit
def row_max(x):
    """Return the largest element of a tile; NaN is skipped."""
    return tl.max(tl.reshape(x, (x.numel,)), 0)


@triton.jit
def rounded_to(x, value_ptr, CODE: tl.constexpr):
    """Return fp32 rounded to what a pointer's elements are stored as."""
    if CODE == NATIVE:
        stored = x.to(value_ptr.dtype.element_ty)
    else:
        stored = bf16_bits(x)
    return stored


@triton.jit
def num_outside(difference, bound):
    """Return how many elements of a tile are outside their bound, or not a number; past a row's end all are inside."""
    outside = ~(difference <= bound)
    return plain_sum(outside.to(tl.int32))


def row_format(x: Tensor, kernel: str) -> ElementFormat:
    """Return how rows of a dtype are read.

    Raises
    ------
    TypeError
        For other dtypes than float32, float16 and bfloat16.
    """
    if x.dtype not in ROW_DTYPES:
        raise TypeError(
            f"{kernel} reads float32, float16 and bfloat16, and this tensor is {x.dtype}: convert it, or use the "
            "native backend, which reads float64"
        )
    return element_format(x.dtype, kernel)


def as_rows(x: Tensor, form: ElementFormat) -> Tensor:
    """Return a tensor as a contiguous matrix of rows along the last dimension, under the type it is stored by."""
    return form.stored(x.detach().reshape(-1, x.shape[-1]).contiguous())


def check_shapes(kernel: str, expected: Sequence[int], **tensors: Tensor | None) -> None:
    """Raise ValueError where a tensor that was given has another shape."""
    for name, tensor in tensors.items():
        if tensor is not None and tuple(tensor.shape) != tuple(expected):
            raise ValueError(f"{kernel} got {name} of shape {tuple(tensor.shape)}: give it the shape {tuple(expected)}")


def check_result_dtype(kernel: str, x: Tensor, computed: Tensor | None) -> None:
    """Raise TypeError where results that were given have another dtype than the input."""
    if computed is not None and computed.dtype is not x.dtype:
        raise TypeError(f"{kernel} judges results in the dtype of the input, {x.dtype}, and got {computed.dtype}")


def results_of(computed: Tensor | None, x: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the results that were given, contiguous, or room for those that the kernel forms."""
    return torch.empty(shape, dtype=x.dtype, device=x.device) if computed is None else computed.detach().contiguous()


def check_row_length(kernel: str, x: Tensor) -> None:
    """Raise ValueError where there are no rows, or empty ones."""
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(
            f"{kernel} reads rows along the last dimension and got shape {tuple(x.shape)}: give it rows of at least "
            "1 element"
        )


def on_chip_shape(num_columns: int, form: ElementFormat) -> tuple[dict[str, int], int]:
    """Return the shape of a tile that holds a row, 16 bytes by the lane, and the threads that share it."""
    vectors = 1 << max(0, -(-num_columns // form.lanes) - 1).bit_length()
    num_threads = min(1024, max(128, vectors * form.lanes // _ELEMENTS_PER_THREAD))
    return {"THREADS": vectors, "LANES": form.lanes}, num_threads


def tree_height(num_columns: int) -> int:
    """Return the height of the summation trees that a correct kernel may use along a row.

    Lanes of at least 128 threads that add one after another, and a tree above: ``n / 128 + 32`` covers the reductions
    of torch and of Triton; fewer columns than that cannot be added in more steps than there are.
    """
    return min(max(1, num_columns), -(-num_columns // 128) + 32)
