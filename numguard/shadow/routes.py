"""Five independent routes along which a shadow can be evaluated.

========== ========================================== ========================== ==========
route      sums and products by                       checked families it runs   where
========== ========================================== ========================== ==========
native     the compiled twin on the caller's memory,  none                       CPU
           NumPy for the rest
numpy      NumPy on the same memory                   none                       CPU
pairwise   elementwise additions, halving             none                       any device
ones       products with ones                         contractions, extrema      any device
reduction  ``torch.sum``, ``cumsum``, ``index_add``   sums, cumulative, extrema, any device
                                                      scatters
========== ========================================== ========================== ==========
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from numguard.backends.attention import native_attention, native_attention_gradients
from numguard.backends.dot import native_judged_checksums, native_judged_parts, native_judged_product, native_product
from numguard.backends.judged_sums import native_judged_row_sums, native_judged_slot_sums
from numguard.backends.normalisation import native_layer_norm, native_layer_norm_gradient, native_parameter_gradients
from numguard.backends.pointwise import native_pointwise
from numguard.backends.selection import native_library
from numguard.backends.statistics import native_row_sums
from numguard.shadow.arithmetic import Arithmetic, FusedSums

CHUNK: Final = 1 << 22  # float64 elements of the largest temporary: 32 MiB


def _dims_last(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return ``x`` with ``dims`` merged into one last dimension."""
    reduced = sorted(dim % x.dim() for dim in dims)
    kept = [dim for dim in range(x.dim()) if dim not in reduced]
    return x.permute(*kept, *reduced).reshape(*(x.shape[dim] for dim in kept), -1)


def _keep(result: Tensor, x: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    if not keepdim:
        return result
    reduced = {dim % x.dim() for dim in dims}
    return result.reshape([1 if dim in reduced else size for dim, size in enumerate(x.shape)])


def _over_last(reduce: Callable[[Tensor], Tensor]) -> Callable[[Tensor, tuple[int, ...], bool], Tensor]:
    def reduction(x: Tensor, dims: tuple[int, ...], keepdim: bool = False) -> Tensor:
        return _keep(reduce(_dims_last(x, dims)), x, dims, keepdim) if dims else x

    return reduction


def _by_rows(product: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Multiply a few rows at a time where the product forms every term in memory."""

    def chunked(a: Tensor, b: Tensor) -> Tensor:
        terms = max(1, b.shape[-1] * b.shape[-2] * max(1, a[..., 0, 0].numel()))
        step = max(1, CHUNK // terms)
        if step >= a.shape[-2]:
            return product(a, b)
        return torch.cat([product(rows, b) for rows in torch.split(a, step, dim=-2)], dim=-2)

    return chunked


def _terms(a: Tensor, b: Tensor) -> Tensor:
    return (a.unsqueeze(-1) * b.unsqueeze(-3)).transpose(-1, -2)


# numpy ----------------------------------------------------------------------------------------------------------


def _numpy(function: Callable[..., Any]) -> Callable[..., Tensor]:
    def call(x: Tensor, dims: tuple[int, ...], keepdim: bool = False) -> Tensor:
        with np.errstate(all="ignore"):  # Inf - Inf is for the judge, not for the user's terminal
            return torch.from_numpy(np.asarray(function(x.numpy(), axis=dims, keepdims=keepdim))) if dims else x

    return call


def _numpy_product(a: Tensor, b: Tensor) -> Tensor:
    with np.errstate(all="ignore"):
        return torch.from_numpy(np.asarray(np.matmul(a.numpy(), b.numpy())))


def _numpy_prefix_totals(x: Tensor, dim: int) -> Tensor:
    with np.errstate(all="ignore"):
        return torch.from_numpy(np.add.accumulate(x.numpy(), axis=dim)) if x.dim() else x


def _numpy_slot_totals(slots: int, index: Tensor, source: Tensor) -> Tensor:
    totals = np.zeros((slots, *source.shape[1:]))
    if index.numel():
        numbers = index.numpy()
        order = np.argsort(numbers, kind="stable")
        numbers = numbers[order]
        starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1))
        with np.errstate(all="ignore"):
            totals[numbers[starts]] = np.add.reduceat(source.numpy()[order], starts, axis=0)
    return torch.from_numpy(totals)


# pairwise -------------------------------------------------------------------------------------------------------


def _halve(combine: Callable[[Tensor, Tensor], Tensor], empty: float) -> Callable[[Tensor], Tensor]:
    def reduce(x: Tensor) -> Tensor:
        if x.shape[-1] == 0:
            return x.new_full(x.shape[:-1], empty)
        while x.shape[-1] > 1:
            half = x.shape[-1] // 2
            folded = combine(x[..., :half], x[..., half : 2 * half])
            if x.shape[-1] % 2:
                folded = torch.cat([combine(folded[..., :1], x[..., -1:]), folded[..., 1:]], dim=-1)
            x = folded
        return x[..., 0]

    return reduce


_pairwise_total = _over_last(_halve(torch.add, 0.0))


def _pairwise_prefix_totals(x: Tensor, dim: int) -> Tensor:
    if x.dim() == 0:
        return x
    y, shift = x.movedim(dim, -1), 1
    while shift < y.shape[-1]:
        y = torch.cat([y[..., :shift], y[..., shift:] + y[..., :-shift]], dim=-1)
        shift *= 2
    return y.movedim(-1, dim)


def _by_slots(total: Callable[[Tensor, Tensor], Tensor]) -> Callable[[int, Tensor, Tensor], Tensor]:
    """Form one-hot rows for a few slots at a time and let ``total(one_hot, source)`` add."""

    def slot_totals(slots: int, index: Tensor, source: Tensor) -> Tensor:
        flat = source.reshape(source.shape[0], -1)
        step = max(1, CHUNK // max(1, len(index)))
        parts = [
            total(index == torch.arange(first, min(slots, first + step), device=index.device).unsqueeze(-1), flat)
            for first in range(0, slots, step)
        ]
        result = torch.cat(parts) if parts else flat.new_zeros((0, flat.shape[1]))
        return result.reshape(slots, *source.shape[1:])

    return slot_totals


def _pairwise_slot_totals(slots: int, index: Tensor, source: Tensor) -> Tensor:
    """Sort the rows by slot and add neighbours of the same slot at distances of 1, 2, 4, ..."""
    numbers, order = torch.sort(index, stable=True)
    shape = (-1,) + (1,) * (source.dim() - 1)
    totals, shift = source[order], 1
    while shift < len(numbers):
        same = (numbers[shift:] == numbers[:-shift]).reshape(shape)
        totals = torch.cat([totals[:shift], totals[shift:] + torch.where(same, totals[:-shift], 0.0)])
        shift *= 2
    every = torch.arange(slots, device=index.device)
    last = torch.searchsorted(numbers, every, right=True) - 1
    if not len(numbers):
        return source.new_zeros((slots, *source.shape[1:]))
    last = last.clamp(min=0)
    return torch.where((numbers[last] == every).reshape(shape), totals[last], 0.0)


# ones -----------------------------------------------------------------------------------------------------------


def _ones_prefix_totals(x: Tensor, dim: int) -> Tensor:
    """A product lets a NaN of a later place through (0 * NaN), hence the correction by where."""
    if x.dim() == 0:
        return x
    hits = _triangle_product((~torch.isfinite(x)).to(x.dtype), dim)
    finite = torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
    return torch.where(hits > 0, torch.nan, _triangle_product(finite, dim))


def _triangle_product(x: Tensor, dim: int) -> Tensor:
    """Multiply blocks of 1,024 by a triangle of ones, carrying the last column."""
    y, parts, carry = x.movedim(dim, -1), [], None
    for block in torch.split(y, 1024, dim=-1):
        size = block.shape[-1]
        sums = block.unsqueeze(-2) @ torch.ones(size, size, dtype=x.dtype, device=x.device).triu()
        sums = sums.squeeze(-2) if carry is None else sums.squeeze(-2) + carry
        parts.append(sums)
        carry = sums[..., -1:]
    return (torch.cat(parts, dim=-1) if parts else y).movedim(-1, dim)


def _one_hot_product(one_hot: Tensor, source: Tensor) -> Tensor:
    """A product lets a NaN of another slot through (0 * NaN), hence the correction by where."""
    return one_hot.to(source.dtype) @ torch.nan_to_num(source, nan=0.0, posinf=0.0, neginf=0.0) + torch.where(
        (one_hot.to(source.dtype) @ (~torch.isfinite(source)).to(source.dtype)) > 0, torch.nan, 0.0
    )


def _linear_height(n: int) -> int:
    return max(1, n)


def _halving_height(n: int) -> int:
    return 2 * max(1, n).bit_length()


NUMPY: Final = Arithmetic(
    name="numpy",
    families=frozenset(),
    total=_numpy(np.add.reduce),
    product=_numpy_product,
    maximum=_numpy(np.max),
    prefix_totals=_numpy_prefix_totals,
    slot_totals=_numpy_slot_totals,
    height=_linear_height,
)
NATIVE: Final = replace(
    NUMPY,
    name="native",
    fused=FusedSums(
        rows=native_row_sums,
        product=native_product,
        elements=native_judged_product,
        checksums=native_judged_checksums,
        parts=native_judged_parts,
        layer_norm=native_layer_norm,
        layer_norm_gradient=native_layer_norm_gradient,
        parameter_gradients=native_parameter_gradients,
        row_sums=native_judged_row_sums,
        slot_sums=native_judged_slot_sums,
        pointwise=native_pointwise,
        attention=native_attention,
        attention_gradients=native_attention_gradients,
    ),
)
PAIRWISE: Final = Arithmetic(
    name="pairwise",
    families=frozenset(),
    total=_pairwise_total,
    product=_by_rows(lambda a, b: _halve(torch.add, 0.0)(_terms(a, b))),
    maximum=_over_last(_halve(torch.maximum, -torch.inf)),
    prefix_totals=_pairwise_prefix_totals,
    slot_totals=_pairwise_slot_totals,
    height=_halving_height,
)
ONES: Final = Arithmetic(
    name="ones",
    families=frozenset({"contractions", "attention", "extrema"}),
    total=_over_last(lambda x: (x.unsqueeze(-2) @ x.new_ones(x.shape[-1], 1))[..., 0, 0]),
    product=torch.matmul,
    maximum=_over_last(lambda x: x.amax(-1)),
    prefix_totals=_ones_prefix_totals,
    slot_totals=_by_slots(_one_hot_product),
    height=_linear_height,
)
REDUCTION: Final = Arithmetic(
    name="reduction",
    families=frozenset({"sums", "cumulative", "scatters", "extrema"}),
    total=_over_last(lambda x: x.sum(-1)),
    product=_by_rows(lambda a, b: _terms(a, b).sum(-1)),
    maximum=_over_last(lambda x: x.amax(-1)),
    prefix_totals=lambda x, dim: x.cumsum(dim) if x.dim() else x,
    slot_totals=lambda slots, index, source: source.new_zeros((slots, *source.shape[1:])).index_add(0, index, source),
    height=_linear_height,
)


def routes_for(family: str, device_type: str) -> tuple[Arithmetic, Arithmetic]:
    """Return the route of the shadow and the route of its confirmation for a family on a device.

    The two differ, and neither runs an operator of ``family``.
    """
    if device_type == "cpu":
        return (NUMPY if native_library("statistics") is None else NATIVE), PAIRWISE
    return (ONES if family not in ONES.families else REDUCTION), PAIRWISE
