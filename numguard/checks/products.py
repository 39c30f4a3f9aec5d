"""Products of all elements of a row, from mantissas and exponents so that nothing overflows on the way."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, cost_per_element
from numguard.checks.exact_results import exact_integers
from numguard.checks.overwritten_operands import keep_overwritten
from numguard.checks.product_examples import PROD
from numguard.checks.reduced_rows import Rows, model_of, rows_of
from numguard.checks.scaled_numbers import Scaled, scaled
from numguard.numerics.error_bounds.reduction_bounds import ProductFormat, ProductRange, product_bound
from numguard.numerics.formats import accumulator_dtype, format_of
from numguard.shadow.arithmetic import UNIT_ROUNDOFF as SHADOW_ROUNDOFF
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

COST: Final = 20.0  # mantissa, exponent, logarithm and four totals, per element
_BLOCK: Final = 512  # mantissas of at least 1/2 whose product is a normal number


def _numpy_mantissas(mantissa: Tensor) -> Scaled:
    """Multiply 512 at a time along the last dimension until one is left."""
    values, exponent = mantissa.numpy(), np.zeros(mantissa.shape[:-1])
    with np.errstate(all="ignore"):
        while values.shape[-1] > 1:
            values = np.multiply.reduceat(values, np.arange(0, values.shape[-1], _BLOCK), axis=-1)
            values, shifts = np.frexp(values)
            exponent = exponent + np.add.reduce(np.where(np.isfinite(values), shifts, 0), axis=-1)
    return Scaled(torch.from_numpy(np.array(values[..., 0])), torch.from_numpy(np.asarray(exponent)))


def _halved_mantissas(mantissa: Tensor, arithmetic: Arithmetic) -> Scaled:
    """Multiply the first half with the second half along the last dimension until one is left."""
    exponent = torch.zeros(mantissa.shape[:-1], dtype=torch.float64, device=mantissa.device)
    while mantissa.shape[-1] > 1:
        half = mantissa.shape[-1] // 2
        rest = mantissa[..., 2 * half :]
        mantissa, shifts = scaled(mantissa[..., :half] * mantissa[..., half : 2 * half])
        exponent = exponent + arithmetic.total(shifts, (shifts.dim() - 1,), False)
        mantissa = torch.cat([mantissa, rest], dim=-1)
    return Scaled(mantissa[..., 0], exponent)


def row_products(x: Tensor, arithmetic: Arithmetic) -> Tensor:
    """Return products over the last dimension of float64 ``x``; beyond the range of float64 its largest number.

    Notes
    -----
    The relative error is at most ``n * 2**-53``. A NaN or an infinite factor gives NaN or an infinity.
    """
    if x.shape[-1] == 0:
        return x.new_ones(x.shape[:-1])
    mantissa, exponent = scaled(x)
    exponent = arithmetic.total(exponent, (x.dim() - 1,), False)
    if arithmetic.is_numpy:
        mantissa, shifts = _numpy_mantissas(mantissa)
    else:
        mantissa, shifts = _halved_mantissas(mantissa, arithmetic)
    return Scaled(mantissa, exponent + shifts).rounded()


def _reach(x: Tensor, arithmetic: Arithmetic) -> ProductRange:
    logarithm = torch.where(x == 0.0, 0.0, x.abs().log2())
    dims = (x.dim() - 1,)
    return ProductRange(
        *(arithmetic.total(part, dims, False) for part in (logarithm.clamp(min=0), logarithm.clamp(max=0)))
    )


def _judge(call: OpCall, captured: Any, probe: Probe) -> Sequence[Comparison]:
    source = call["self"] if captured is None else captured
    rows = rows_of(source, call.output, call.arguments.get("dim"), probe, cost=COST, in_pieces=False)
    if not rows.result.numel():
        return ()
    x = rows.source.reshape(*rows.source.shape[: rows.num_kept], rows.num_terms)
    if not rows.result.dtype.is_floating_point:
        return (_integers(x, rows.result, probe.arithmetic),)
    return (_floats(x.to(rows.result.dtype).to(torch.float64), rows, probe.arithmetic),)


def _floats(x: Tensor, rows: Rows, arithmetic: Arithmetic) -> Comparison:
    dtype = rows.result.dtype
    exact, reach = row_products(x, arithmetic), _reach(x, arithmetic)
    wide = accumulator_dtype(dtype)
    bound = partial(product_bound, exact, reach, rows.num_terms)
    return Comparison(
        output="result",
        computed=rows.result,
        exact=exact,
        strict=bound(_rounding(wide)),
        permissive=None if wide == dtype else bound(_rounding(dtype)),
        shadow_error=(rows.num_terms * SHADOW_ROUNDOFF) * exact.abs() + 2.0**-1074,
        model=model_of(rows.result),
        propagates_nonfinite=True,
    )


def _rounding(dtype: torch.dtype) -> ProductFormat:
    limits = torch.finfo(dtype)
    return ProductFormat(format_of(dtype).unit_roundoff, limits.smallest_normal, limits.max)


def _integers(x: Tensor, result: Tensor, arithmetic: Arithmetic) -> Comparison:
    """Compare products modulo the range of int64, which int64 multiplication gives in any order."""
    if x.dtype.is_floating_point or result.dtype == torch.bool:
        raise NotCovered("products of floating-point numbers as integers, or as truth values")
    x = x.to(torch.int64)
    if arithmetic.is_numpy:
        with np.errstate(all="ignore"):
            return exact_integers("result", result, torch.from_numpy(np.asarray(np.multiply.reduce(x.numpy(), -1))))
    if x.shape[-1] == 0:
        return exact_integers("result", result, x.new_ones(x.shape[:-1]))
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        x = torch.cat([x[..., :half] * x[..., half : 2 * half], x[..., 2 * half :]], dim=-1)
    return exact_integers("result", result, x[..., 0])


CHECKS: tuple[Check, ...] = (
    Check(
        name="prod",
        family="products",
        ops=("aten::prod", "aten::prod.dim_int", "aten::prod.int_out", "aten::prod.out"),
        judge=_judge,
        capture=keep_overwritten,
        cost=cost_per_element("self", COST),
        silent=PROD.silent,
        fires=PROD.fires,
        advice="Repeat this product in float64, or add logarithms: products of many factors leave every format.",
    ),
)
