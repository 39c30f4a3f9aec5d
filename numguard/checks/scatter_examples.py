"""Calls on which the checks of lookups and slot sums must be silent, and faults on which they must fire."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.check import Example, Examples

Arguments = tuple[torch._ops.OpOverload, tuple[Any, ...], dict[str, Any]]
Call = Callable[[torch.dtype, Generator], Arguments]
aten = torch.ops.aten


def _values(generator: Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    if dtype.is_floating_point:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
    return torch.randint(-9, 10, shape, generator=generator).to(dtype)


def _slots(generator: Generator, count: int, *shape: int) -> Tensor:
    return torch.randint(0, count, shape, generator=generator)


def _embedding(dtype: torch.dtype, generator: Generator) -> Arguments:
    return aten.embedding.default, (_values(generator, dtype, 11, 6), _slots(generator, 11, 3, 5)), {}


def _nan_row(dtype: torch.dtype, generator: Generator) -> Arguments:
    overload, (weight, indices), options = _embedding(dtype, generator)
    weight[indices[0, 0]] = torch.nan
    return overload, (weight, indices), options


def _embedding_backward(rows: int = 400, padding: int = -1, by_frequency: bool = False) -> Call:
    def call(dtype: torch.dtype, generator: Generator) -> Arguments:
        grad, indices = _values(generator, dtype, 2, rows, 6), _slots(generator, 7, 2, rows)
        return aten.embedding_dense_backward.default, (grad, indices, 9, padding, by_frequency), {}

    return call


def _index_add(rank: int, overload: torch._ops.OpOverload, **options: Any) -> Call:
    def call(dtype: torch.dtype, generator: Generator) -> Arguments:
        rest = (4,) * (rank - 1)
        own, source = _values(generator, dtype, 5, *rest), _values(generator, dtype, 300, *rest)
        return overload, (own, 0, _slots(generator, 5, 300), source), options

    return call


def _scatter_add(overload: torch._ops.OpOverload, *reduce: str) -> Call:
    def call(dtype: torch.dtype, generator: Generator) -> Arguments:
        own, source = _values(generator, dtype, 6, 5), _values(generator, dtype, 5, 300)
        return overload, (own, 1, _slots(generator, 5, 4, 200), source, *reduce), {}

    return call


def _index_put(overload: torch._ops.OpOverload = aten.index_put.default, count: int = 300) -> Call:
    def call(dtype: torch.dtype, generator: Generator) -> Arguments:
        own, values = _values(generator, dtype, 5, 4), _values(generator, dtype, count, 4)
        return overload, (own, [_slots(generator, 5, count)], values, True), {}

    return call


def _two_indices(dtype: torch.dtype, generator: Generator) -> Arguments:
    indices = [None, _slots(generator, 5, 40), _slots(generator, 4, 40)]
    own, values = _values(generator, dtype, 3, 5, 4), _values(generator, dtype, 1)
    return aten.index_put.default, (own, indices, values, True), {}


# corruptions ----------------------------------------------------------------------------------------------------


def _doubled(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    wrong = output.clone()
    largest = wrong.double().abs().argmax()
    wrong.view(-1)[largest] *= 2
    return wrong


def _poisoned(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    wrong = output.clone()
    wrong.view(-1)[1] = torch.nan
    return wrong


def _stale_row(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    wrong = output.clone()
    wrong[1] = wrong[0]
    return wrong


def _off_by_one(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    wrong = output.clone()
    wrong.view(-1)[0] += 1
    return wrong


def _flipped_low_bit(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    wrong = output.clone()
    wrong.view(torch.int16 if wrong.element_size() == 2 else torch.int32)[0, 0] ^= 4
    return wrong


def _hidden_nan(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    return torch.nan_to_num(output)


def _lost_gradient_rows(output: Tensor, args: tuple[Any, ...]) -> Any:
    """Drop the last tenth of the tokens."""
    grad, indices, count = args[:3]
    kept = indices.shape[1] * 9 // 10
    return aten.embedding_dense_backward(grad[:, :kept], indices[:, :kept], count, -1, False)


def _lost_put_rows(output: Tensor, args: tuple[Any, ...]) -> Any:
    own, (index,), values = args[:3]
    return aten.index_put(own, [index[:-30]], values[:-30], True)


def _lost_added_rows(output: Tensor, args: tuple[Any, ...]) -> Any:
    own, dim, index, source = args
    return aten.index_add(own, dim, index[:-30], source[:-30])


_INTEGERS: Final = (torch.int64, torch.int32)
_WIDE: Final = (torch.float32, torch.float64)
_EVERY: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64, *_INTEGERS)

EXAMPLES: Final = {
    "embedding": Examples(
        silent=(Example(name="plain", call=_embedding), Example(name="nan in a row", call=_nan_row)),
        fires=(
            Example(name="stale row", call=_embedding, corrupt=_stale_row),
            Example(name="doubled element", call=_embedding, corrupt=_doubled),
            Example(name="hidden nan", call=_nan_row, corrupt=_hidden_nan),
        ),
    ),
    "embedding_backward": Examples(
        silent=(
            Example(name="few hits", call=_embedding_backward(rows=9)),
            Example(name="many hits", call=_embedding_backward()),
            Example(name="no hits", call=_embedding_backward(rows=0)),
            Example(name="padding", call=_embedding_backward(padding=3)),
            Example(name="scaled by frequency", call=_embedding_backward(by_frequency=True)),
        ),
        fires=(
            Example(name="lost tokens", call=_embedding_backward(), corrupt=_lost_gradient_rows),
            Example(name="doubled element", call=_embedding_backward(rows=9), corrupt=_doubled),
            Example(name="nan", call=_embedding_backward(), corrupt=_poisoned),
            Example(
                name="flipped low bit of a sum in 16 bits",
                call=_embedding_backward(),
                corrupt=_flipped_low_bit,
                dtypes=(torch.bfloat16,),
            ),
        ),
    ),
    "index_add": Examples(
        silent=(
            Example(name="vector", call=_index_add(1, aten.index_add.default), dtypes=_EVERY),
            Example(name="matrix", call=_index_add(2, aten.index_add.default), dtypes=_EVERY),
            Example(name="three dimensions", call=_index_add(3, aten.index_add.default)),
            Example(name="in place", call=_index_add(1, aten.index_add_.default)),
            Example(name="scaled", call=_index_add(2, aten.index_add.default, alpha=0.3)),
        ),
        fires=(
            Example(name="lost rows of a vector", call=_index_add(1, aten.index_add.default), corrupt=_lost_added_rows),
            Example(
                name="lost rows of a matrix",
                call=_index_add(2, aten.index_add.default),
                corrupt=_lost_added_rows,
                dtypes=_WIDE,
            ),
            Example(
                name="off by one", call=_index_add(2, aten.index_add.default), corrupt=_off_by_one, dtypes=_INTEGERS
            ),
            Example(name="nan", call=_index_add(2, aten.index_add.default), corrupt=_poisoned),
        ),
    ),
    "scatter_add": Examples(
        silent=(
            Example(name="plain", call=_scatter_add(aten.scatter_add.default), dtypes=_EVERY),
            Example(name="in place", call=_scatter_add(aten.scatter_add_.default)),
            Example(name="reduce", call=_scatter_add(aten.scatter_reduce.two, "sum")),
        ),
        fires=(
            Example(
                name="doubled element", call=_scatter_add(aten.scatter_add.default), corrupt=_doubled, dtypes=_WIDE
            ),
            Example(
                name="off by one", call=_scatter_add(aten.scatter_add.default), corrupt=_off_by_one, dtypes=_INTEGERS
            ),
            Example(name="nan", call=_scatter_add(aten.scatter_add.default), corrupt=_poisoned),
        ),
    ),
    "index_put": Examples(
        silent=(
            Example(name="plain", call=_index_put(), dtypes=_EVERY),
            Example(name="in place", call=_index_put(aten._index_put_impl_.default)),
            Example(name="two indices and one value", call=_two_indices),
        ),
        fires=(
            Example(name="lost rows", call=_index_put(), corrupt=_lost_put_rows),
            Example(name="doubled element", call=_index_put(), corrupt=_doubled),
            Example(name="nan", call=_index_put(), corrupt=_poisoned),
        ),
    ),
}
