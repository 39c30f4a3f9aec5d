"""Calls of sums and means that their checks must be silent about, and faults they must find."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks import planted_faults
from numguard.checks.check import Example, Examples

Arguments = tuple[torch._ops.OpOverload, tuple[Any, ...], dict[str, Any]]
Call = Callable[[torch.dtype, Generator], Arguments]
Make = Callable[[torch.dtype, Generator], Tensor]
aten = torch.ops.aten

INTEGERS: Final = (torch.int64, torch.int32, torch.uint8, torch.bool)


def normal(*shape: int) -> Make:
    """Return what draws standard normal numbers; integers where the dtype is one."""

    def make(dtype: torch.dtype, generator: Generator) -> Tensor:
        if dtype.is_floating_point:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        return torch.randint(-9, 10, shape, generator=generator).to(dtype)

    return make


def swamping(count: int) -> Make:
    """Return a large number and many that each vanish beside it, but not together."""

    def make(dtype: torch.dtype, generator: Generator) -> Tensor:
        x = torch.full((2, count), torch.finfo(dtype).eps / 4.0, dtype=torch.float64)
        x[:, int(torch.randint(count, (), generator=generator))] = 1.0
        return x.to(dtype)

    return make


def constant(value: float, *shape: int) -> Make:
    """Return equal numbers: a sum kept in bfloat16 stops at 256 of them."""
    return lambda dtype, generator: torch.full(shape, value, dtype=dtype)


def nonfinite(*values: float) -> Make:
    """Return rows of which the first has these values in it."""

    def make(dtype: torch.dtype, generator: Generator) -> Tensor:
        x = normal(4, 40)(dtype, generator)
        x[0, 3 : 3 + len(values)] = torch.tensor(values, dtype=dtype)
        return x

    return make


def laid_out(make: Make, arrange: Callable[[Tensor], Tensor]) -> Make:
    """Return the same numbers in another layout."""
    return lambda dtype, generator: arrange(make(dtype, generator))


def calling(overload: torch._ops.OpOverload, make: Make, *rest: Any, **options: Any) -> Call:
    """Return a call of ``overload`` on what ``make`` draws."""
    return lambda dtype, generator: (overload, (make(dtype, generator), *rest), options)


def _lost_last_block(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Sum without the last 16 elements of every row."""
    wrong: Tensor = args[0][..., :-16].double().sum(-1).to(output.dtype)
    return wrong


def _lost_mean_block(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    wrong: Tensor = (args[0][..., :-16].double().sum(-1) / args[0].shape[-1]).to(output.dtype)
    return wrong


def off_by_one(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return the result with one added to its first element."""
    wrong = output.clone()
    wrong.view(-1)[0] += 1
    return wrong


def hidden(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Return the result with numbers where a NaN or an infinity belongs."""
    return torch.nan_to_num(output, nan=0.0, posinf=0.0, neginf=0.0)


def _stopped(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    return torch.full_like(output, 256.0)


_POSITIVE: Final = laid_out(normal(6, 300), torch.abs)
_CUBE: Final = normal(7, 9, 11)
_IMAGES: Final = laid_out(normal(2, 5, 6, 7), lambda x: x.contiguous(memory_format=torch.channels_last))


def _layouts(overload: torch._ops.OpOverload) -> tuple[Example, ...]:
    return (
        Example(name="rows", call=calling(overload, normal(6, 300), [1])),
        Example(name="columns", call=calling(overload, normal(300, 6), [0], True)),
        Example(name="middle", call=calling(overload, _CUBE, [1])),
        Example(name="outer and inner", call=calling(overload, _CUBE, [0, 2], True)),
        Example(name="all", call=calling(overload, _CUBE, None)),
        Example(name="channels last", call=calling(overload, _IMAGES, [0, 2, 3])),
        Example(name="transposed", call=calling(overload, laid_out(_CUBE, lambda x: x.transpose(0, 2)), [-1])),
        Example(name="expanded", call=calling(overload, laid_out(normal(5, 1), lambda x: x.expand(5, 64)), [0, 1])),
        Example(name="strided", call=calling(overload, laid_out(normal(8, 90), lambda x: x[::2, ::3]), [1])),
        Example(name="swamping", call=calling(overload, swamping(3000), [1])),
        Example(name="constant", call=calling(overload, constant(1.0, 2, 4096), [1])),
        Example(name="number", call=calling(overload, normal(), [0])),
        Example(name="no terms", call=calling(overload, normal(3, 0), [1])),
        Example(name="no rows", call=calling(overload, normal(0, 3), [1])),
        Example(name="nan and infinities", call=calling(overload, nonfinite(torch.nan, torch.inf), [1])),
        Example(name="opposite infinities", call=calling(overload, nonfinite(torch.inf, -torch.inf), [1])),
        Example(name="overflow", call=calling(overload, constant(65504.0, 2, 9), [1]), dtypes=(torch.float16,)),
        Example(
            name="cast", call=calling(overload, normal(6, 300), [1], dtype=torch.float32), dtypes=(torch.bfloat16,)
        ),
        Example(
            name="shortened", call=calling(overload, normal(6, 300), [1], dtype=torch.bfloat16), dtypes=(torch.float32,)
        ),
    )


def _faults(overload: torch._ops.OpOverload, lost: planted_faults.Corruption) -> tuple[Example, ...]:
    rows, columns = calling(overload, _POSITIVE, [1]), calling(overload, normal(300, 6), [0])
    return (
        Example(name="lost block", call=rows, corrupt=lost),
        Example(name="stale row", call=columns, corrupt=planted_faults.stale_row),
        Example(name="doubled block", call=columns, corrupt=planted_faults.doubled_block),
        Example(name="flipped bit", call=columns, corrupt=planted_faults.flipped_bit),
        Example(name="nan", call=rows, corrupt=planted_faults.planted_nan),
        Example(name="hidden infinity", call=calling(overload, nonfinite(torch.inf), [1]), corrupt=hidden),
    )


def _integer_faults(overload: torch._ops.OpOverload) -> tuple[Example, ...]:
    call = calling(overload, normal(6, 300), [1])
    return (Example(name="off by one", call=call, corrupt=off_by_one, dtypes=INTEGERS[:2]),)


def _integer_calls(overload: torch._ops.OpOverload) -> tuple[Example, ...]:
    huge = constant(2.0**62, 3, 7)
    return (
        Example(name="integers", call=calling(overload, _CUBE, [0, 2]), dtypes=INTEGERS),
        Example(name="wrapped around", call=calling(overload, huge, [1]), dtypes=(torch.int64,)),
        Example(name="short integers", call=calling(overload, _CUBE, [1], dtype=torch.int8), dtypes=INTEGERS),
        Example(name="as floats", call=calling(overload, _CUBE, [1], dtype=torch.float32), dtypes=INTEGERS),
    )


EXAMPLES: Final = {
    "sum": Examples(
        silent=(
            *_layouts(aten.sum.dim_IntList),
            *_integer_calls(aten.sum.dim_IntList),
            Example(name="default", call=calling(aten.sum.default, normal(5, 1000))),
            Example(
                name="truth",
                call=calling(aten.sum.dim_IntList, normal(3, 2), [1], dtype=torch.bool),
                dtypes=(torch.bool, torch.int32),
            ),
        ),
        fires=(
            *_faults(aten.sum.dim_IntList, _lost_last_block),
            *_integer_faults(aten.sum.dim_IntList),
            Example(
                name="stops at 256", call=calling(aten.sum.dim_IntList, constant(1.0, 2, 4096), [1]), corrupt=_stopped
            ),
        ),
    ),
    "mean": Examples(
        silent=(*_layouts(aten.mean.dim), Example(name="default", call=calling(aten.mean.default, normal(5, 1000)))),
        fires=_faults(aten.mean.dim, _lost_mean_block),
    ),
    "nansum": Examples(
        silent=(*_layouts(aten.nansum.default), *_integer_calls(aten.nansum.default)),
        fires=(*_faults(aten.nansum.default, _lost_last_block), *_integer_faults(aten.nansum.default)),
    ),
}
