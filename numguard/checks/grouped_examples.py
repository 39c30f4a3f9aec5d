"""Calls on which the check of grouped matrix products must be silent, and faults on which it must fire."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.check import Example, Examples

Arguments = tuple[torch._ops.OpOverload, tuple[Any, ...], dict[str, Any]]
Call = Callable[[torch.dtype, Generator], Arguments]
aten = torch.ops.aten


def _normal(generator: Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def _grouped(a_shape: Sequence[int], b_shape: Sequence[int], *ends: int) -> Call:
    """Return a call; where ends are given, they are the offsets."""

    def call(dtype: torch.dtype, generator: Generator) -> Arguments:
        a, b = _normal(generator, dtype, *a_shape), _normal(generator, dtype, *b_shape)
        offsets = torch.tensor(ends, dtype=torch.int32) if ends else None
        return aten._grouped_mm.default, (a, b, offsets), {}

    return call


def _transposed(dtype: torch.dtype, generator: Generator) -> Arguments:
    """The gradient of the matrices, as autograd asks for it."""
    a, b = _normal(generator, dtype, 24, 16), _normal(generator, dtype, 24, 8)
    return aten._grouped_mm.default, (a.t(), b, torch.tensor([5, 5, 18, 24], dtype=torch.int32)), {}


def _nonfinite(dtype: torch.dtype, generator: Generator) -> Arguments:
    overload, (a, b, ends), options = _rows(dtype, generator)
    a[1, 3], b[1, 0, 4], b[3, 2, 2] = torch.nan, torch.inf, -torch.inf
    return overload, (a, b, ends), options


_rows: Final = _grouped((24, 16), (4, 16, 8), 5, 5, 18, 24)
_columns: Final = _grouped((4, 8, 16), (16, 24), 5, 5, 18, 24)
_terms: Final = _grouped((8, 24), (24, 16), 5, 5, 18, 24)
_batched: Final = _grouped((3, 8, 16), (3, 16, 8))


# corruptions ----------------------------------------------------------------------------------------------------


def _doubled(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    wrong = output.clone()
    wrong.view(-1)[int(output.double().abs().argmax())] *= 2
    return wrong


def _poisoned(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    wrong = output.clone()
    wrong[..., -1, -1] = torch.nan
    return wrong


def _of_the_neighbour(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Multiply the first row of the third group by the matrix of the second, as where a group starts too late."""
    wrong, first = output.clone(), int(args[2][1])
    wrong[first] = (args[0][first].double() @ args[1][1].double()).to(output.dtype)
    return wrong


def _missing_term(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Leave out the last term of the last group."""
    wrong, lost = output.clone(), torch.outer(args[0][:, -1].double(), args[1][-1].double())
    wrong[-1] = (output[-1].double() - lost).to(output.dtype)
    return wrong


def _stale_group(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Leave what was in memory where a group has no terms: its result is zero."""
    wrong = output.clone()
    wrong[1] = wrong[0]
    return wrong


def _hidden_nan(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    return torch.nan_to_num(output, nan=0.0, posinf=0.0, neginf=0.0)


def _narrow_sums(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Add the terms of the one group in bfloat16."""
    total = torch.zeros(output.shape[-2:], dtype=torch.bfloat16)
    for a, b in zip(args[0].unbind(1), args[1].unbind(0), strict=True):
        total += torch.outer(a, b).to(torch.bfloat16)
    return total.to(output.dtype).expand(output.shape)


_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)


def _silent(name: str, call: Call) -> Example:
    return Example(name=name, call=call, dtypes=_DTYPES)


def _fires(
    name: str,
    call: Call,
    corrupt: Callable[[Tensor, tuple[Any, ...]], Tensor],
    dtypes: tuple[torch.dtype, ...] = _DTYPES,
) -> Example:
    return Example(name=name, call=call, corrupt=corrupt, dtypes=dtypes)


EXAMPLES: Final = {
    "grouped_matrix_product": Examples(
        silent=(
            _silent("groups of rows, one empty", _rows),
            _silent("groups of columns", _columns),
            _silent("groups of terms, one empty", _terms),
            _silent("gradient of the matrices", _transposed),
            _silent("batched", _batched),
            _silent("rows in no group", _grouped((24, 16), (2, 16, 8), 3, 10)),
            _silent("terms in no group", _grouped((8, 24), (24, 16), 3, 10)),
            _silent("every group empty", _grouped((8, 16), (2, 16, 8), 0, 0)),
            _silent("no rows", _grouped((0, 16), (2, 16, 8), 0, 0)),
            _silent("long inner products", _grouped((3, 4096), (2, 4096, 8), 1, 3)),
            _silent("nan and inf in some groups", _nonfinite),
        ),
        fires=(
            _fires("row multiplied by the neighbour's matrix", _rows, _of_the_neighbour),
            _fires("doubled element of a group of columns", _columns, _doubled),
            _fires("term left out", _terms, _missing_term),
            _fires("stale result of an empty group", _terms, _stale_group),
            _fires("nan", _batched, _poisoned),
            _fires("hidden nan", _nonfinite, _hidden_nan),
            _fires("sum in bfloat16", _grouped((8, 256), (256, 8), 256), _narrow_sums, (torch.float32,)),
        ),
    )
}
