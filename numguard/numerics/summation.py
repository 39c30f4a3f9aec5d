"""Sums and inner products that are better than a plain loop, and exact ones, over one dimension of a tensor.

All are built from elementwise additions and multiplications of float64, so that none runs a reduction of torch.
Inputs of any real floating-point dtype are widened first, which is exact.
"""

import math
from fractions import Fraction

import torch
from torch import Tensor

from numguard.numerics.error_free import fast_two_sum, two_product, two_sum
from numguard.numerics.formats import FP64
from numguard.numerics.tree_heights import pairwise_height


def pairwise_sum(x: Tensor, dim: int = -1) -> Tensor:
    """Return the sum over ``dim`` in float64, adding halves to halves.

    Parameters
    ----------
    x
        Values of a floating-point dtype.
    dim
        The dimension that disappears.

    Notes
    -----
    ``|error| <= ceil(log2 n) * u * sum|x|`` with ``u = 2**-53`` (Higham, ASNA 2nd ed., section 4.2).
    """
    terms = _terms_first(x, dim)
    while terms.shape[0] > 1:
        first, second = _halves(terms)
        terms = first + second
    return terms[0]


def double_double_sum(x: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """Return the sum over ``dim`` as an unevaluated pair ``high + low`` of float64 values.

    Parameters
    ----------
    x
        Values of a floating-point dtype.
    dim
        The dimension that disappears.

    Returns
    -------
    tuple of Tensor
        ``high``, the rounded sum, and ``low`` with ``|low| <= u |high|``.

    Notes
    -----
    A balanced tree of accurate double-double additions, each with a relative error of at most
    ``3 u**2 / (1 - 4 u)`` (Joldes, Muller, Popescu, ACM TOMS 44, 2017, theorem 3.1), hence
    ``|error| <= 3.01 * ceil(log2 n) * u**2 * sum|x|``. NaN where a partial sum overflows or an element is not finite.
    """
    high = _terms_first(x, dim)
    low = torch.zeros_like(high)
    while high.shape[0] > 1:
        first_high, second_high = _halves(high)
        first_low, second_low = _halves(low)
        high, low = double_double_add(first_high, first_low, second_high, second_low)
    return high[0], low[0]


def double_double_add(a_high: Tensor, a_low: Tensor, b_high: Tensor, b_low: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of two double-double numbers as a double-double number, elementwise.

    Parameters
    ----------
    a_high, a_low, b_high, b_low
        Pairs with ``|low| <= u |high|``.

    Notes
    -----
    Relative error at most ``3 u**2 / (1 - 4 u)`` (Joldes, Muller, Popescu, ACM TOMS 44, 2017, algorithm 6).
    """
    high, high_error = two_sum(a_high, b_high)
    low, low_error = two_sum(a_low, b_low)
    high, rest = fast_two_sum(high, high_error + low)
    return fast_two_sum(high, low_error + rest)


def compensated_sum(x: Tensor, dim: int = -1) -> Tensor:
    """Return the sum over ``dim`` as if accumulated in twice the precision of float64 and then rounded.

    Parameters
    ----------
    x
        Values of a floating-point dtype.
    dim
        The dimension that disappears.

    Notes
    -----
    Sum2 of Ogita, Rump, Oishi (SIAM J. Sci. Comput. 26, 2005, proposition 4.5) along a balanced tree instead of a
    chain; error bound: :func:`compensated_sum_bound`. Where an element is not finite, or a partial sum overflows,
    the result is that of the plain sum.
    """
    return _compensated(_terms_first(x, dim), None)


def compensated_sum_bound(total: Tensor, absolute_total: Tensor, num_terms: int) -> Tensor:
    """Return a bound on the error of :func:`compensated_sum`.

    Parameters
    ----------
    total, absolute_total
        The computed sum and the sum of absolute values, float64.
    num_terms
        Number of addends.

    Notes
    -----
    ``u |s| + 2 h**2 u**2 sum|x|`` with ``h = ceil(log2 n)``: each of the h levels leaves rounding errors of at most
    ``u (1 + u)**h sum|x|`` in all, which TwoSum recovers exactly and which are added in trees of height at most 2h.
    The factor 1.01 covers terms of third order and the rounding of the two arguments.
    """
    height = max(1, pairwise_height(num_terms))
    unit = FP64.unit_roundoff
    return 1.01 * (unit * total.abs() + 2.0 * height**2 * unit**2 * absolute_total)


def dot2(x: Tensor, y: Tensor, dim: int = -1) -> Tensor:
    """Return the inner product over ``dim`` as if accumulated in twice the precision of float64 and then rounded.

    Parameters
    ----------
    x, y
        Values of floating-point dtypes whose shapes broadcast.
    dim
        The dimension that disappears.

    Notes
    -----
    Dot2 of Ogita, Rump, Oishi (SIAM J. Sci. Comput. 26, 2005, proposition 5.5) along a balanced tree instead of a
    chain; error bound: :func:`dot2_bound`. Not valid where a factor reaches ``2**996``.
    """
    first, second = _broadcast(x, y)
    product, error = two_product(_terms_first(first, dim), _terms_first(second, dim))
    return _compensated(product, error)


def dot2_bound(total: Tensor, absolute_total: Tensor, num_terms: int) -> Tensor:
    """Return a bound on the error of :func:`dot2`.

    Parameters
    ----------
    total, absolute_total
        The computed inner product and the sum of absolute products, float64.
    num_terms
        Number of products.

    Notes
    -----
    As :func:`compensated_sum_bound` with one more level for the products' own errors, plus five smallest subnormal
    numbers for each product whose error underflows.
    """
    height = pairwise_height(num_terms) + 1
    unit = FP64.unit_roundoff
    underflow = 5.0 * num_terms * FP64.smallest_subnormal
    return 1.01 * (unit * total.abs() + 2.0 * height**2 * unit**2 * absolute_total) + underflow


def exact_sum(x: Tensor, dim: int = -1) -> Tensor:
    """Return the sum over ``dim``, exact and then rounded once to float64.

    Runs on the host, one Python addition per element: for tests and for confirming a suspicion.

    Parameters
    ----------
    x
        Values of a floating-point dtype.
    dim
        The dimension that disappears.

    Notes
    -----
    Correctly rounded by ``math.fsum``, or by rational arithmetic where a partial sum overflows. NaN for a NaN or for
    infinities of both signs.
    """
    terms = _terms_first(x, dim).cpu()
    columns = terms.reshape(terms.shape[0], -1).T
    values = [_exact_total(column.tolist()) for column in columns]
    return torch.tensor(values, dtype=torch.float64, device=x.device).reshape(terms.shape[1:])


def exact_dot(x: Tensor, y: Tensor, dim: int = -1) -> Tensor:
    """Return the inner product over ``dim``, exact and then rounded once to float64.

    Runs on the host in rational arithmetic.

    Parameters
    ----------
    x, y
        Values of floating-point dtypes whose shapes broadcast. Where a product is not finite, the result is what
        IEEE arithmetic gives: NaN for ``0 * inf`` or infinities of both signs.
    dim
        The dimension that disappears.
    """
    first, second = _broadcast(x, y)
    a, b = _terms_first(first, dim).cpu(), _terms_first(second, dim).cpu()
    shape = a.shape[1:]
    a, b = a.reshape(a.shape[0], -1).T, b.reshape(b.shape[0], -1).T
    values = [_exact_inner(left.tolist(), right.tolist()) for left, right in zip(a, b, strict=True)]
    return torch.tensor(values, dtype=torch.float64, device=x.device).reshape(shape)


def _broadcast(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    shape = torch.broadcast_shapes(x.shape, y.shape)  # type: ignore[no-untyped-call]
    return x.expand(shape), y.expand(shape)


def _terms_first(x: Tensor, dim: int) -> Tensor:
    """Return float64 terms along dimension 0, at least one."""
    terms = (x if x.dim() else x.reshape(1)).to(torch.float64).movedim(dim, 0)
    return terms if terms.shape[0] else terms.new_zeros((1, *terms.shape[1:]))


def _halves(terms: Tensor) -> tuple[Tensor, Tensor]:
    if terms.shape[0] % 2:
        terms = torch.cat([terms, torch.zeros_like(terms[:1])])
    half = terms.shape[0] // 2
    return terms[:half], terms[half:]


def _compensated(terms: Tensor, errors: Tensor | None) -> Tensor:
    errors = torch.zeros_like(terms) if errors is None else errors
    while terms.shape[0] > 1:
        total, error = two_sum(*_halves(terms))
        first, second = _halves(errors)
        terms, errors = total, (first + second) + error
    corrected = terms[0] + errors[0]
    return torch.where(torch.isfinite(corrected), corrected, terms[0])


def _exact_total(values: list[float]) -> float:
    if all(math.isfinite(value) for value in values):
        try:
            return math.fsum(values)
        except OverflowError:
            return _nearest(sum(map(Fraction, values)))
    infinities = {value for value in values if math.isinf(value)}
    return infinities.pop() if len(infinities) == 1 and not any(map(math.isnan, values)) else math.nan


def _exact_inner(left: list[float], right: list[float]) -> float:
    if all(map(math.isfinite, left)) and all(map(math.isfinite, right)):
        return _nearest(sum(Fraction(a) * Fraction(b) for a, b in zip(left, right, strict=True)))
    signs = [
        a * b if math.isnan(a * b) else math.copysign(math.inf, a * b)
        for a, b in zip(left, right, strict=True)
        if not (math.isfinite(a) and math.isfinite(b))
    ]
    return _exact_total(signs)


def _nearest(value: Fraction | int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
