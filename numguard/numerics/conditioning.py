"""Condition numbers: by how much a relative change of the inputs is magnified in the exact result.

All take tensors of any floating-point dtype and return float64. Componentwise: every input may change by the same
relative amount of itself, ``|dx_i| <= eps |x_i|``, and the result then changes by at most ``condition * eps`` of
itself, to first order (Higham, ASNA 2nd ed., section 1.6). A result of zero from non-zero inputs has an infinite
condition number; one that no input can change has the condition number 1, since it is reproduced exactly.
"""

import torch
from torch import Tensor

from numguard.numerics.summation import compensated_sum, dot2


def sum_condition_number(x: Tensor, dim: int = -1) -> Tensor:
    """Return ``sum|x| / |sum x|`` (Higham, ASNA 2nd ed., section 4.2); also that of the mean.

    Parameters
    ----------
    x
        Addends.
    dim
        The dimension that is summed over.

    Notes
    -----
    The sums are compensated, so the answer has few correct digits only beyond condition numbers of ``2**100``.
    """
    return _quotient(compensated_sum(x.abs(), dim), compensated_sum(x, dim))


def mean_condition_number(x: Tensor, dim: int = -1) -> Tensor:
    """Return ``sum|x| / |sum x|``: dividing by the count changes no relative error.

    Parameters
    ----------
    x
        Averaged values.
    dim
        The dimension that is averaged over.
    """
    return sum_condition_number(x, dim)


def dot_condition_number(x: Tensor, y: Tensor, dim: int = -1) -> Tensor:
    """Return ``2 sum|x y| / |sum x y|``, both factors being subject to change.

    Parameters
    ----------
    x, y
        Factors whose shapes broadcast.
    dim
        The dimension that is summed over.

    Notes
    -----
    Ogita, Rump, Oishi, SIAM J. Sci. Comput. 26, 2005, section 1.
    """
    return _quotient(2.0 * dot2(x.abs(), y.abs(), dim), dot2(x, y, dim))


def norm_condition_number(x: Tensor, order: float = 2.0, dim: int = -1) -> Tensor:
    """Return the condition number of a vector norm, which is 1 for every order and every vector.

    Parameters
    ----------
    x
        The vector.
    order
        1, 2, any p >= 1, or infinity.
    dim
        The dimension of the vector.

    Notes
    -----
    A norm is homogeneous and monotonic in ``|x|``: a relative change of each component by at most eps changes it by at
    most eps of itself, and a common factor attains that. NaN where an element is NaN.
    """
    if order < 1:
        return torch.full_like(x.to(torch.float64).select(dim, 0), torch.nan)
    total = compensated_sum(x.abs(), dim)
    return torch.where(total.isnan(), torch.nan, torch.ones_like(total))


def subtraction_condition_number(a: Tensor, b: Tensor) -> Tensor:
    """Return ``(|a| + |b|) / |a - b|``, elementwise: large where leading digits cancel.

    Parameters
    ----------
    a, b
        Minuend and subtrahend whose shapes broadcast.
    """
    first, second = a.to(torch.float64), b.to(torch.float64)
    return _quotient(first.abs() + second.abs(), first - second)


def logsumexp_condition_number(x: Tensor, dim: int = -1) -> Tensor:
    """Return ``sum_j p_j |x_j| / |logsumexp x|`` with the softmax ``p``.

    Parameters
    ----------
    x
        Exponents; minus infinity is a term that is not there.
    dim
        The dimension that is reduced.

    Notes
    -----
    The derivative by ``x_j`` is ``p_j``. The normwise form with ``max|x|`` in place of the weighted mean is in
    Blanchard, Higham, Higham, IMA J. Numer. Anal. 41, 2021.
    """
    probability, largest, total = _softmax_parts(x, dim)
    weight = compensated_sum(probability * _magnitude(x), dim)
    return _quotient(weight, (largest + total.log()).squeeze(dim))


def softmax_condition_number(x: Tensor, dim: int = -1) -> Tensor:
    """Return the componentwise condition number of every softmax probability, in the shape of ``x``.

    Parameters
    ----------
    x
        Exponents; minus infinity is a term that is not there.
    dim
        The dimension over which the probabilities add up to one.

    Notes
    -----
    ``d p_i / p_i = sum_j (delta_ij - p_j) dx_j``, hence ``(1 - p_i) |x_i| + sum_{j != i} p_j |x_j|``. Unlike the other
    condition numbers it may be below 1: probabilities of small exponents hardly depend on their relative changes.
    """
    probability, _, _ = _softmax_parts(x, dim)
    size = _magnitude(x)
    weight = compensated_sum(probability * size, dim).unsqueeze(dim)
    return (1.0 - 2.0 * probability) * size + weight


def log_softmax_condition_number(x: Tensor, dim: int = -1) -> Tensor:
    """Return the componentwise condition number of every log probability, in the shape of ``x``.

    Parameters
    ----------
    x
        Exponents; minus infinity is a term that is not there.
    dim
        The dimension over which the probabilities add up to one.

    Notes
    -----
    The absolute change of ``log p_i`` is that of :func:`softmax_condition_number`; it is divided by ``|log p_i|``.
    """
    _, largest, total = _softmax_parts(x, dim)
    return _quotient(softmax_condition_number(x, dim), x.to(torch.float64) - largest - total.log())


def _magnitude(x: Tensor) -> Tensor:
    wide = x.to(torch.float64)
    return torch.where(wide == -torch.inf, 0.0, wide.abs())


def _softmax_parts(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    wide = x.to(torch.float64)
    largest = wide.amax(dim, keepdim=True)
    powers = (wide - largest).exp()
    total = compensated_sum(powers, dim).unsqueeze(dim)
    return powers / total, largest, total


def _quotient(mass: Tensor, value: Tensor) -> Tensor:
    return torch.where(mass == 0, 1.0, mass / value.abs())
