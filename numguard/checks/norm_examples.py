"""Calls of vector norms that their checks must be silent about, and faults they must find."""

import math
from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks import planted_faults
from numguard.checks.check import Example, Examples
from numguard.checks.sum_examples import (
    Arguments,
    Call,
    Make,
    calling,
    constant,
    hidden,
    laid_out,
    nonfinite,
    normal,
    swamping,
)

aten = torch.ops.aten
_NORM: Final = aten.linalg_vector_norm.default
_ORDERS: Final = (2.0, 1.0, 0.0, math.inf, -math.inf, 3.0, 0.5, 1.1, -2.0)


def _with_zeros(x: Tensor) -> Tensor:
    x[:, ::3] = 0
    return x


def _scaled(factor: float, *shape: int) -> Make:
    """Draw normal numbers times a power of ten of the format's range."""

    def make(dtype: torch.dtype, generator: Generator) -> Tensor:
        limits = torch.finfo(dtype)
        size = limits.max**factor if factor > 0.0 else limits.tiny ** (-factor)
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (drawn * float(size)).to(dtype)

    return make


def _list_call(order: float = 2.0, *, number: float = 1.0) -> Call:
    shapes = ((5, 17), (64,), (), (0, 3), (2, 3, 11))

    def call(dtype: torch.dtype, generator: Generator) -> Arguments:
        kept = [shape for shape in shapes if math.prod(shape) or math.isfinite(order)]
        tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in kept]
        tensors[1][3] = number
        return aten._foreach_norm.Scalar, (tensors, order), {}

    return call


def _mixed_list(dtype: torch.dtype, generator: Generator) -> Arguments:
    tensors = [torch.randn(9, generator=generator, dtype=torch.float64).to(kind) for kind in (dtype, torch.float32)]
    return aten._foreach_norm.Scalar, (tensors,), {}


def _lost_block(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    wrong: Tensor = args[0][..., :-16].double().square().sum(-1).sqrt().to(output.dtype)
    return wrong


def _of_the_second(output: Any, args: tuple[Any, ...]) -> Any:
    return [output[0], output[1] * 1.5, *output[2:]]


def _nan_in_the_first(output: Any, args: tuple[Any, ...]) -> Any:
    return [torch.full_like(output[0], torch.nan), *output[1:]]


def _shifted(output: Any, args: tuple[Any, ...]) -> Any:
    """Return every norm in the place of the next one."""
    return [*output[1:], output[0]]


def _hidden_in_list(output: Any, args: tuple[Any, ...]) -> Any:
    return [hidden(norm, args) for norm in output]


_ROWS: Final = calling(_NORM, normal(6, 300), 2.0, [1])

VECTOR_NORM: Final = Examples(
    silent=(
        *(Example(name=f"order {order}", call=calling(_NORM, normal(6, 300), order, [1])) for order in _ORDERS),
        *(
            Example(
                name=f"order {order} with zeros", call=calling(_NORM, laid_out(normal(6, 30), _with_zeros), order, [1])
            )
            for order in _ORDERS
        ),
        *(
            Example(name=f"order {order} with a nan", call=calling(_NORM, nonfinite(torch.nan), order, [1]))
            for order in _ORDERS
        ),
        *(
            Example(
                name=f"order {order} with infinities", call=calling(_NORM, nonfinite(torch.inf, -torch.inf), order, [1])
            )
            for order in _ORDERS
        ),
        Example(name="columns", call=calling(_NORM, normal(300, 6), 2.0, [0], True)),
        Example(name="outer and inner", call=calling(_NORM, normal(7, 9, 11), 2.0, [0, 2])),
        Example(name="all", call=calling(_NORM, normal(7, 9, 11))),
        Example(name="strided", call=calling(_NORM, laid_out(normal(8, 90), lambda x: x[::2, ::3]), 2.0, [1])),
        Example(name="expanded", call=calling(_NORM, laid_out(normal(5, 1), lambda x: x.expand(5, 64)), 2.0, [0, 1])),
        Example(name="swamping", call=calling(_NORM, swamping(3000), 2.0, [1])),
        Example(name="constant", call=calling(_NORM, constant(1.0, 2, 4096), 2.0, [1])),
        Example(name="squares that overflow", call=calling(_NORM, _scaled(0.6, 4, 30), 2.0, [1])),
        Example(name="squares that underflow", call=calling(_NORM, _scaled(-0.6, 4, 30), 2.0, [1])),
        Example(name="cubes that underflow", call=calling(_NORM, _scaled(-0.35, 4, 30), 3.0, [1])),
        Example(name="number", call=calling(_NORM, normal())),
        Example(name="no terms", call=calling(_NORM, normal(3, 0), 2.0, [1])),
        Example(name="no rows", call=calling(_NORM, normal(0, 3), 2.0, [1])),
        Example(
            name="cast", call=calling(_NORM, normal(6, 300), 2.0, [1], dtype=torch.float32), dtypes=(torch.bfloat16,)
        ),
        Example(name="older name", call=calling(aten.norm.ScalarOpt_dim, normal(6, 300), None, [1])),
        Example(name="older name, all", call=calling(aten.norm.Scalar, normal(6, 300), 3)),
    ),
    fires=(
        Example(name="lost block", call=_ROWS, corrupt=_lost_block),
        Example(name="stale row", call=_ROWS, corrupt=planted_faults.stale_row),
        Example(name="doubled block", call=_ROWS, corrupt=planted_faults.doubled_block),
        Example(name="flipped bit", call=_ROWS, corrupt=planted_faults.flipped_bit),
        Example(name="nan", call=_ROWS, corrupt=planted_faults.planted_nan),
        *(
            Example(
                name=f"flipped bit, order {order}",
                call=calling(_NORM, normal(6, 40), order, [1]),
                corrupt=planted_faults.flipped_bit,
            )
            for order in _ORDERS
        ),
        Example(name="hidden infinity", call=calling(_NORM, nonfinite(torch.inf), 2.0, [1]), corrupt=hidden),
        Example(name="hidden nan", call=calling(_NORM, nonfinite(torch.nan), math.inf, [1]), corrupt=hidden),
    ),
)
FOREACH_NORM: Final = Examples(
    silent=(
        *(Example(name=f"order {order}", call=_list_call(order)) for order in _ORDERS[:6]),
        Example(name="nan", call=_list_call(number=torch.nan)),
        Example(name="infinity", call=_list_call(number=-torch.inf)),
        Example(name="mixed dtypes", call=_mixed_list),
    ),
    fires=(
        Example(name="one too large", call=_list_call(), corrupt=_of_the_second),
        Example(name="nan", call=_list_call(), corrupt=_nan_in_the_first),
        Example(name="shifted", call=_list_call(), corrupt=_shifted),
        Example(name="hidden nan", call=_list_call(number=torch.nan), corrupt=_hidden_in_list),
        Example(name="largest too large", call=_list_call(math.inf), corrupt=_of_the_second),
    ),
)
