"""Calls on which the checks of matrix products must be silent, and faults on which they must fire."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Generator, Tensor

from numguard.checks.check import Example, Examples

Arguments = tuple[torch._ops.OpOverload, tuple[Any, ...], dict[str, Any]]
aten = torch.ops.aten


def _normal(generator: Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def _mm(rows: int, terms: int, columns: int) -> Callable[[torch.dtype, Generator], Arguments]:
    def call(dtype: torch.dtype, generator: Generator) -> Arguments:
        return aten.mm.default, (_normal(generator, dtype, rows, terms), _normal(generator, dtype, terms, columns)), {}

    return call


def _strided(dtype: torch.dtype, generator: Generator) -> Arguments:
    a = _normal(generator, dtype, 40, 18)[::2, ::3].t()
    return aten.mm.default, (a, _normal(generator, dtype, 20, 1).expand(20, 7)), {}


def _nonfinite(dtype: torch.dtype, generator: Generator) -> Arguments:
    a = _normal(generator, dtype, 6, 20)
    a[1, 3], a[4, 0] = torch.nan, torch.inf
    return aten.mm.default, (a, _normal(generator, dtype, 20, 5)), {}


def _bmm(dtype: torch.dtype, generator: Generator) -> Arguments:
    return aten.bmm.default, (_normal(generator, dtype, 3, 8, 16), _normal(generator, dtype, 3, 16, 5)), {}


def _addmm(dtype: torch.dtype, generator: Generator, **scalars: float) -> Arguments:
    bias = _normal(generator, dtype, 9)
    return aten.addmm.default, (bias, _normal(generator, dtype, 8, 64), _normal(generator, dtype, 64, 9)), scalars


def _ignored(dtype: torch.dtype, generator: Generator) -> Arguments:
    overload, (_, a, b), _scalars = _addmm(dtype, generator)
    return overload, (torch.full((8, 9), torch.nan, dtype=dtype), a, b), {"beta": 0}


def _in_place(dtype: torch.dtype, generator: Generator) -> Arguments:
    a, b = _normal(generator, dtype, 8, 64), _normal(generator, dtype, 64, 9)
    return aten.addmm_.default, (_normal(generator, dtype, 8, 9), a, b), {"beta": 0.5, "alpha": 0.3}


def _mv(dtype: torch.dtype, generator: Generator) -> Arguments:
    return aten.mv.default, (_normal(generator, dtype, 12, 30), _normal(generator, dtype, 30)), {}


def _dot(dtype: torch.dtype, generator: Generator) -> Arguments:
    return aten.dot.default, (_normal(generator, dtype, 300), _normal(generator, dtype, 300)), {}


def _integers(dtype: torch.dtype, generator: Generator) -> Arguments:
    a, b = (torch.randint(-(2**62), 2**62, shape, generator=generator).to(dtype) for shape in ((6, 30), (30, 5)))
    return aten.mm.default, (a, b), {}


# corruptions ----------------------------------------------------------------------------------------------------


def _dropped_tile(output: Tensor, args: tuple[Any, ...]) -> Any:
    a, b = (x for x in args if x.dim() > 1)
    terms = a.shape[-1] // 4
    return (output.double() - a[..., :terms].double() @ b[..., :terms, :].double()).to(output.dtype)


def _changed(change: Callable[[Tensor, int], None]) -> Callable[[Any, tuple[Any, ...]], Any]:
    """Return a corruption that writes to a copy, flat, near its largest element."""

    def corrupt(output: Tensor, args: tuple[Any, ...]) -> Tensor:
        wrong = output.clone().reshape(-1)
        change(wrong, int(wrong.double().abs().nan_to_num(0.0, 0.0, 0.0).argmax()))
        return wrong.reshape(output.shape)

    return corrupt


def _double(wrong: Tensor, index: int) -> None:
    wrong[index] *= 2


def _poison(wrong: Tensor, index: int) -> None:
    wrong[index] = torch.nan


def _negate(wrong: Tensor, index: int) -> None:
    wrong[index] *= -1


def _off_by_one(wrong: Tensor, index: int) -> None:
    wrong[index] += 1


def _stale_row(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    wrong = output.clone()
    wrong[..., 0, :] = wrong[..., 1, :]
    return wrong


def _wrong_stride(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    return output.t().reshape(output.shape)


def _hidden_nan(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    return torch.nan_to_num(output, nan=0.0, posinf=0.0, neginf=0.0)


def _narrow_sum(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """Add in the dtype below: bfloat16 for float32, float32 for float64."""
    narrow = torch.float32 if output.dtype == torch.float64 else torch.bfloat16
    total = torch.zeros(output.shape, dtype=narrow)
    for a, b in zip(args[0].unbind(1), args[1].unbind(0), strict=True):
        total += torch.outer(a, b).to(narrow)
    return total.to(output.dtype)


_WIDE: Final = (torch.float32, torch.float64)
_INTEGERS: Final = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

EXAMPLES: Final = {
    "matrix_product": Examples(
        silent=(
            Example(name="square", call=_mm(16, 16, 16)),
            Example(name="long inner products", call=_mm(3, 5000, 4)),
            Example(name="no terms", call=_mm(3, 0, 4)),
            Example(name="no elements", call=_mm(0, 3, 4)),
            Example(name="strided and expanded", call=_strided),
            Example(name="nan and inf in some rows", call=_nonfinite),
            Example(name="batched", call=_bmm),
            Example(name="integers that wrap", call=_integers, dtypes=_INTEGERS),
        ),
        fires=(
            Example(name="dropped tile of terms", call=_mm(16, 64, 16), corrupt=_dropped_tile),
            Example(name="stale row", call=_mm(16, 16, 16), corrupt=_stale_row),
            Example(name="wrong stride", call=_mm(16, 16, 16), corrupt=_wrong_stride),
            Example(name="doubled element", call=_mm(16, 16, 16), corrupt=_changed(_double)),
            Example(name="flipped sign bit", call=_bmm, corrupt=_changed(_negate)),
            Example(name="nan", call=_mm(16, 16, 16), corrupt=_changed(_poison)),
            Example(name="sum in the dtype below", call=_mm(8, 256, 8), corrupt=_narrow_sum, dtypes=_WIDE),
            Example(
                name="hidden nan",
                call=_nonfinite,
                corrupt=_hidden_nan,
                dtypes=(torch.float32, torch.bfloat16, torch.float16),
            ),
            Example(name="integer off by one", call=_integers, corrupt=_changed(_off_by_one), dtypes=_INTEGERS),
        ),
    ),
    "matrix_product_and_sum": Examples(
        silent=(
            Example(name="bias", call=_addmm),
            Example(name="scalars", call=lambda dtype, generator: _addmm(dtype, generator, beta=0.7, alpha=-1.3)),
            Example(name="beta zero ignores nan", call=_ignored),
            Example(name="in place", call=_in_place),
        ),
        fires=(
            Example(name="dropped tile of terms", call=_addmm, corrupt=_dropped_tile),
            Example(name="doubled element", call=_addmm, corrupt=_changed(_double)),
            Example(name="bias added twice", call=_addmm, corrupt=lambda output, args: output + args[0]),
        ),
    ),
    "matrix_vector_product": Examples(
        silent=(Example(name="plain", call=_mv),),
        fires=(
            Example(name="doubled element", call=_mv, corrupt=_changed(_double)),
            Example(name="nan", call=_mv, corrupt=_changed(_poison)),
        ),
    ),
    "inner_product": Examples(
        silent=(Example(name="plain", call=_dot),),
        fires=(
            Example(name="flipped sign bit", call=_dot, corrupt=_changed(_negate), dtypes=_WIDE),
            Example(name="nan", call=_dot, corrupt=_changed(_poison)),
        ),
    ),
}
