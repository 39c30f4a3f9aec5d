"""Matrix products that others formed, judged by a checksum over all rows, or by sampled rows in two-float."""

from typing import NamedTuple

import torch
from torch import Tensor

from numguard_kernels.output_rounding import output_constants, rounded_bound
from numguard_kernels.weighted_sums import WeightedColumns, weighted_columns

_SECOND_ORDER = 1.0 + 2.0**-8


class ProductVerdict(NamedTuple):
    """Numbers that a product was judged by; float64 of shape ``[s, n]``, on the device of the product.

    Attributes
    ----------
    value
        What the product says: a weighted sum of its rows, or some of its rows.
    shadow
        What follows from the factors.
    error_bound
        What ``|value - shadow|`` can be for a correct implementation.
    is_wrong
        bool: outside the bound, or not finite where it had to be.
    """

    value: Tensor
    shadow: Tensor
    error_bound: Tensor
    is_wrong: Tensor


def freivalds(
    a: Tensor, b: Tensor, product: Tensor, weights: Tensor, *, accumulation_height: int | None = None
) -> ProductVerdict:
    """Judge ``product = a @ b`` by ``w @ product`` against ``(w @ a) @ b``, reading every matrix once.

    Parameters
    ----------
    a, b, product
        float32, float16 or bfloat16 of shapes ``[m, k]``, ``[k, n]`` and ``[m, n]``.
    weights
        Of shape ``[s, m]``, plus and minus one: random signs, drawn anew for every call. A wrong element is seen where
        it exceeds the bounds of its column together.
    accumulation_height
        Height of the summation tree of the product in fp32; ``k`` by default, which covers every order.

    Raises
    ------
    TypeError
        For other dtypes.
    ValueError
        For shapes that do not fit.
    KernelUnavailable
        Where the kernels cannot run on the device.

    Notes
    -----
    Freivalds 1979, with a bound that no correct product exceeds: the sum over a column of ``h u |a| |b|``, of the
    rounding of the elements of the product, and the errors of the three sums (Higham, ASNA 2nd ed., section 3.5).
    """
    _check("freivalds", a, b, product)
    found = weighted_columns(product, weights)
    left = weighted_columns(a, weights)
    high = left.sum.float()
    low = (left.sum - high.double() + left.sum_low).float()
    magnitudes = left.absolute_sum.float()
    right = weighted_columns(b, high, low=low, magnitudes=magnitudes)
    height = a.shape[1] if accumulation_height is None else accumulation_height
    constants = output_constants(product.dtype)
    # Magnitudes are sums in fp32 themselves, and a pair of floats leaves out 2**-48 of the weights.
    mass = right.absolute_sum * (1.0 + 2.0 * (a.shape[0] + a.shape[1] + 8) * 2.0**-24)
    own = mass * (right.relative_error + left.relative_error + 2.0**-46) + found.absolute_sum * found.relative_error
    grown = mass * _growth(height)
    # The rounding of an element c is u times what is rounded, and that is at most (|c| + eta) / (1 - u).
    roundings = constants["UNIT"] * found.absolute_sum * (1.0 + 2.0 * constants["UNIT"] + a.shape[0] * 2.0**-23)
    bound = grown + roundings + a.shape[0] * constants["SMALLEST"] + own
    # A sum that is not finite is wrong unless an element of the column may have overflowed.
    judged = found.sum.isfinite() | (mass * (1.0 + 2.0**-7) < constants["LARGEST"])
    return _verdict(found.sum + found.sum_low, right, bound, judged)


def sampled_rows(
    a: Tensor, b: Tensor, product: Tensor, rows: Tensor, *, accumulation_height: int | None = None
) -> ProductVerdict:
    """Judge some rows of ``product = a @ b``, element by element; b is read once a row.

    Parameters
    ----------
    a, b, product
        float32, float16 or bfloat16 of shapes ``[m, k]``, ``[k, n]`` and ``[m, n]``.
    rows
        int64 of shape ``[s]``, indices of rows.
    accumulation_height
        Height of the summation tree of the product in fp32; ``k`` by default, which covers every order.

    Raises
    ------
    TypeError
        For other dtypes.
    ValueError
        For shapes that do not fit.
    KernelUnavailable
        Where the kernels cannot run on the device.

    Notes
    -----
    An element is within ``h u |a| |b|`` before its rounding (Higham, ASNA 2nd ed., section 3.5).
    """
    _check("sampled_rows", a, b, product)
    right = weighted_columns(b, a.index_select(0, rows))
    height = a.shape[1] if accumulation_height is None else accumulation_height
    constants = output_constants(product.dtype)
    mass = right.absolute_sum * (1.0 + (a.shape[1] + 8) * 2.0**-24)
    own = mass * right.relative_error
    bound = rounded_bound(right.sum, mass * _growth(height), own, constants)
    judged = right.sum.abs() + bound < constants["LARGEST"]
    return _verdict(product.index_select(0, rows).double(), right, bound, judged)


def _check(kernel: str, a: Tensor, b: Tensor, product: Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in (a, b, product)]
    if any(len(shape) != 2 for shape in shapes) or (a.shape[1], (a.shape[0], b.shape[1])) != (b.shape[0], shapes[2]):
        raise ValueError(f"{kernel} got shapes {', '.join(map(str, shapes))}: give it [m, k], [k, n] and [m, n]")


def _growth(height: int) -> float:
    return height * 2.0**-24 / (1.0 - min(height, 2**22) * 2.0**-24) * _SECOND_ORDER


def _verdict(value: Tensor, right: WeightedColumns, bound: Tensor, judged: Tensor) -> ProductVerdict:
    shadow = right.sum + right.sum_low
    # Products and sums of magnitudes beyond fp32 overflow in the shadow or in the implementation: nothing follows.
    judged = judged & (right.absolute_sum < torch.finfo(torch.float32).max / 4)
    return ProductVerdict(value, shadow, bound, judged & ~((value - shadow).abs() <= bound))
