"""Calls of coalescing that its check must be silent about, and faults it must find."""

from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.check import Example, Examples
from numguard.checks.planted_faults import Corruption, flipped_bit, planted_nan

aten = torch.ops.aten


def _sparse(*dense: int, integers: bool = False) -> Any:
    def call(dtype: torch.dtype, generator: Generator) -> Any:
        indices = torch.stack([torch.randint(0, size, (60,), generator=generator) for size in (3, 5)])
        values = torch.randn((60, *dense), generator=generator, dtype=torch.float64)
        values = (values * 9.0).round() if integers else values
        made = torch.sparse_coo_tensor(indices, values.to(dtype), (3, 5, *dense), check_invariants=True)
        return aten._coalesce.default, (made,), {}

    return call


def _with_values(corrupt: Corruption) -> Corruption:
    """Return a corruption of the values of a sparse tensor."""

    def changed(output: Tensor, args: tuple[Any, ...]) -> Tensor:
        values = corrupt(output._values(), args)
        return _rebuilt(output._indices(), values, output)

    return changed


def _rebuilt(indices: Tensor, values: Tensor, like: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(indices, values, like.shape, check_invariants=False, is_coalesced=True)


def _wrong_index(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return the last entry at the place of the one before it."""
    indices = output._indices().clone()
    indices[:, -1] = indices[:, -2]
    return _rebuilt(indices, output._values(), output)


EXAMPLES: Final = {
    "coalesce": Examples(
        silent=(
            Example(name="numbers", call=_sparse()),
            Example(name="rows", call=_sparse(4)),
            Example(name="integers", call=_sparse(integers=True), dtypes=(torch.int64, torch.int32)),
        ),
        fires=(
            Example(
                name="flipped bit",
                call=_sparse(4),
                corrupt=_with_values(flipped_bit),
                dtypes=(torch.float32, torch.float64),
            ),
            Example(name="nan", call=_sparse(), corrupt=_with_values(planted_nan)),
            Example(name="wrong index", call=_sparse(4), corrupt=_wrong_index),
        ),
    ),
}
