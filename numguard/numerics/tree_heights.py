"""How many additions a term of a sum passes through, in each implementation whose order of additions is known.

A sum in any order of additions has an error of at most ``h * u`` times the sum of absolute values, where h is the
height of the tree of additions (:mod:`numguard.numerics.error_bounds.summation_bounds`). Order unknown: ``h = n - 1``.
The heights here are smaller and rest on knowledge of the implementation; each errs on the large side.

The CPU kernel of ``torch.sum`` (``aten/src/ATen/native/cpu/SumKernel.cpp``) sums in a cascade of four levels with
``2**P`` additions on each of the lower three, spread over four independent rows and the lanes of a vector register,
and adds one such partial sum per run of adjacent elements to the output, in the dtype of the output.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal, NamedTuple

import torch

from numguard.errors import UsageError
from numguard.numerics.formats import accumulator_dtype

LEVELS: Final = 4  # of the cascade
ROWS: Final = 4  # independent partial sums beside each other
REGISTER_BYTES: Final = (16, 32, 64)  # NEON; AVX2, also in AVX-512 builds; AVX-512, SVE
GRAIN: Final = 32768  # elements from which ATen splits a sum with one result over threads


class ReductionLayout(NamedTuple):
    """How the elements that are reduced to one result lie in memory.

    Attributes
    ----------
    num_terms
        Elements per result.
    num_chunks
        Runs of equal stride that these elements form; each is summed by itself and then added to the output.
    adjacent
        True where the elements of a run touch each other.
    """

    num_terms: int
    num_chunks: int
    adjacent: bool


def reduction_layout(shape: Sequence[int], strides: Sequence[int], dims: Sequence[int]) -> ReductionLayout:
    """Return how the elements reduced over ``dims`` lie in memory.

    Parameters
    ----------
    shape, strides
        Of the reduced tensor, strides in elements.
    dims
        Reduced dimensions; empty means all, as in ``torch.sum``.

    Raises
    ------
    UsageError
        Where a dimension does not exist.
    """
    rank = len(shape)
    for dim in dims:
        if not -max(rank, 1) <= dim < max(rank, 1):
            raise UsageError(f"dim {dim} does not exist in shape {tuple(shape)}; use {-rank} to {rank - 1}")
    reduced = {dim % rank for dim in dims} if dims and rank else range(rank)
    num_terms = math.prod(shape[dim] for dim in reduced)
    runs: list[tuple[int, int]] = []  # (size, stride), ascending strides, merged where one continues the other
    for stride, size in sorted((strides[dim], shape[dim]) for dim in reduced if shape[dim] != 1):
        if runs and stride == runs[-1][0] * runs[-1][1]:
            runs[-1] = (runs[-1][0] * size, runs[-1][1])
        else:
            runs.append((size, stride))
    if len(runs) > 1 and runs[0][1] == 0:  # expanded: ATen's order of the dimensions is not determined by strides
        return ReductionLayout(num_terms, max(1, num_terms), adjacent=False)
    num_chunks = math.prod(size for size, _ in runs[1:])
    return ReductionLayout(num_terms, max(1, num_chunks), adjacent=not runs or runs[0][1] == 1)


def summation_height(
    num_terms: int,
    *,
    dtype: torch.dtype,
    device_type: str = "cpu",
    num_threads: int = 1,
    contiguous: bool = True,
    adjacent: bool = False,
    num_chunks: int = 1,
) -> int:
    """Return the height of the tree in which ``torch.sum``, ``mean`` and ``nansum`` add, or an over-estimate of it.

    Parameters
    ----------
    num_terms
        Elements per result.
    dtype
        Dtype of the elements.
    device_type
        ``"cpu"`` and ``"cuda"`` have known trees; any other device gets ``num_terms - 1``.
    num_threads
        ``torch.get_num_threads()``; matters only for a CPU sum with a single result.
    contiguous
        False where nothing is known of the layout: returns ``num_terms - 1``.
    adjacent
        True promises that the elements of a run touch each other (the innermost dimension is reduced). The tree
        is lower then. False covers every stride.
    num_chunks
        From :func:`reduction_layout`, for dimensions that do not merge.

    Returns
    -------
    int
        At least 0, at most ``num_terms - 1``.

    Notes
    -----
    CPU: read in ``SumKernel.cpp`` and compared with the depths that swamping tests reveal (the method of FPRev,
    arXiv 2411.00442) for torch 2.13. CUDA: read in ``Reduce.cuh``, not compared with hardware: at least 32 threads
    times four accumulators share an innermost sum, four accumulators any other, then trees of at most 40 levels.
    """
    any_order = max(0, num_terms - 1)
    if num_terms <= 2 or not contiguous:
        return any_order
    if device_type == "cuda":
        height = -(-num_terms // 128) + 32 if adjacent else -(-num_terms // 4) + 40
        return min(any_order, height + (num_chunks if num_chunks > 1 else 0))
    if device_type != "cpu":
        return any_order
    split = num_threads > 1 and num_terms >= GRAIN
    height = _tallest_run(-(-num_terms // num_chunks), dtype, adjacent, split)
    if num_chunks > 1:
        height += num_chunks
    return min(any_order, height + (num_threads if split else 0))


def height_model(device_type: str) -> Literal["proved", "calibrated", "assumed"]:
    """Return what :func:`summation_height` rests on for a device, in the words of ``Finding.model``."""
    if device_type == "cpu":
        return "calibrated"
    return "assumed" if device_type == "cuda" else "proved"


def num_stored_partials(
    num_terms: int, *, dtype: torch.dtype, device_type: str = "cpu", num_threads: int = 1, num_chunks: int = 1
) -> int:
    """Return how often a partial sum may be rounded to ``dtype`` before the final rounding of the result.

    ATen on the CPU adds each run, and each thread's share of a sum with a single result, to memory of the output's
    dtype. With a 16-bit dtype each such store costs one unit roundoff of that dtype, not of the accumulator.

    Parameters
    ----------
    num_terms, dtype, device_type, num_threads, num_chunks
        As in :func:`summation_height`.
    """
    if device_type != "cpu" or accumulator_dtype(dtype) == dtype:
        return 0
    split = num_threads > 1 and num_terms >= GRAIN
    return num_chunks if num_chunks > 1 or split else 0


def contraction_height(num_terms: int, *, block: int = 1) -> int:
    """Return the number of roundings that a product in an inner product of ``num_terms`` terms passes through.

    Parameters
    ----------
    num_terms
        K, the contracted size.
    block
        Products that the hardware adds at once: 1 without tensor cores, 4 (V100), 8 (A100), 16 (H100 and later).

    Notes
    -----
    ``block=1``: K - 1 additions and the product. Block fused multiply-add: ``ceil(K / block) + block`` (Blanchard,
    Higham, Lopez, Mary, Pranesh, SIAM J. Sci. Comput. 42, 2020); such units may truncate, which doubles u.
    """
    return num_terms if block <= 1 else min(num_terms, -(-num_terms // block) + block)


def row_reduction_height(num_terms: int, *, block_size: int) -> int:
    """Return the height of a Triton row reduction: a loop over blocks, then a tree over the block.

    Parameters
    ----------
    num_terms
        Elements of the row.
    block_size
        Elements that one program holds, a power of two.
    """
    levels = max(1, block_size - 1).bit_length()
    return min(max(0, num_terms - 1), max(0, -(-num_terms // block_size) - 1) + levels)


def pairwise_height(num_terms: int) -> int:
    """Return ``ceil(log2(num_terms))``, the height of a balanced tree (Higham, ASNA 2nd ed., section 4.2)."""
    return max(0, num_terms - 1).bit_length()


def _cascade_height(size: int) -> int:
    """Rounding additions of one row: each level's first addition is to zero, and the levels are added at the end."""
    power = max(4, max(0, size - 1).bit_length() // LEVELS)
    step = 1 << power
    height, filled = 0, size
    for level in range(LEVELS):
        top = level == LEVELS - 1
        height += max(0, (filled if top else min(step, filled)) - 1)
        filled >>= power
    return height + LEVELS - 1


def _strided_height(size: int) -> int:
    """Four rows beside each other, at most three elements left over, and the four rows added."""
    return _cascade_height(size // ROWS) + size % ROWS + ROWS - 1


def _vector_height(size: int, dtype: torch.dtype, register_bytes: int) -> int:
    """The same over registers, whose lanes are then added one by one to the sum of the elements left over."""
    lanes = register_bytes // accumulator_dtype(dtype).itemsize
    loaded = register_bytes // dtype.itemsize
    if size < loaded:
        return _strided_height(size)
    by_register = loaded // lanes - 1 + _strided_height(size // loaded) + lanes
    return max(by_register, size % loaded + lanes)


@lru_cache(maxsize=4096)
def _tallest_run(size: int, dtype: torch.dtype, adjacent: bool, split: bool) -> int:
    if not split:
        return _run_height(size, dtype, adjacent)
    sizes = {size} | _steepest_sizes(size)
    left_over = ROWS - 1  # a share may end in up to three elements more than the sizes looked at
    return max(_run_height(candidate, dtype, adjacent) for candidate in sizes) + left_over


def _run_height(size: int, dtype: torch.dtype, adjacent: bool) -> int:
    height = max(_vector_height(size, dtype, register_bytes) for register_bytes in REGISTER_BYTES)
    return height if adjacent else max(height, _strided_height(size), _cascade_height(size))


def _steepest_sizes(size: int) -> set[int]:
    """Sizes below ``size`` with the highest trees: the last ones before the cascade takes larger steps.

    A thread's share may have any size, and the height is not monotonic in it.
    """
    rows = {1, ROWS} | {ROWS * register // width for register in REGISTER_BYTES for width in (2, 4, 8)}
    last = [1 << power for power in range(3, 63, LEVELS)]
    return {
        candidate
        for row in rows
        for steps in last
        for candidate in (steps * row + row - 1, steps * row)
        if 2 < candidate < size
    }
