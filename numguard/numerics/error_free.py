"""Error-free transformations: an operation's rounded result together with its exact error.

Each takes floats or tensors of one floating-point dtype and works in that dtype, elementwise. Exactness needs
rounding to nearest in that dtype after every operation, which is so for eager torch operations in float64 and
float32, and in float16 and bfloat16, where torch computes in float32 and rounds once more: the double rounding is
harmless because 24 >= 2p + 2 (Figueroa 1995). It is not so where a compiler may contract a product and an addition
or reassociate, hence not inside a compiled region.
"""

from typing import TypeVar

import torch
from torch import Tensor

from numguard.numerics.formats import FP64, format_of

Real = TypeVar("Real", Tensor, float)


def two_sum(a: Real, b: Real) -> tuple[Real, Real]:
    """Return ``(s, e)`` with ``s = fl(a + b)`` and ``s + e = a + b`` exactly.

    Parameters
    ----------
    a, b
        Addends in any order.

    Notes
    -----
    Six additions (Knuth, TAOCP vol. 2, section 4.2.2, theorem B). Exact unless ``a + b`` overflows; subnormal numbers
    included, where the processor does not flush them to zero.
    """
    total = a + b
    rest = total - a
    return total, (a - (total - rest)) + (b - rest)


def fast_two_sum(a: Real, b: Real) -> tuple[Real, Real]:
    """Return ``(s, e)`` with ``s = fl(a + b)`` and ``s + e = a + b`` exactly, given ``|a| >= |b|`` or ``a = 0``.

    Parameters
    ----------
    a, b
        Addends, the larger one first.

    Notes
    -----
    Three additions (Dekker, Numer. Math. 18, 1971). Exact under the condition on the order unless ``a + b``
    overflows; without it ``e`` is not the error of ``s``.
    """
    total = a + b
    return total, b - (total - a)


def split(a: Real) -> tuple[Real, Real]:
    """Return ``(high, low)`` with ``high + low = a`` exactly, each of at most half the digits of the format.

    Parameters
    ----------
    a
        Values of p-digit numbers: ``high`` has at most ``p - s`` digits and ``low`` at most ``s - 1`` beside its sign,
        for ``s = ceil(p / 2)``.

    Notes
    -----
    Veltkamp's splitting with the factor ``2**s + 1`` (Dekker, Numer. Math. 18, 1971). Exact where
    ``|a| < 2**(emax - s)``: beyond that the product with the factor overflows and both parts become NaN.
    """
    precision = format_of(a.dtype).precision if isinstance(a, Tensor) else FP64.precision
    scaled = a * (2.0 ** -(-precision // 2) + 1.0)
    high = scaled - (scaled - a)
    return high, a - high


def two_product(a: Real, b: Real) -> tuple[Real, Real]:
    """Return ``(p, e)`` with ``p = fl(a * b)`` and ``p + e = a * b`` exactly, without a fused multiply-add.

    Parameters
    ----------
    a, b
        Factors.

    Notes
    -----
    Seventeen operations (Dekker and Veltkamp; Ogita, Rump, Oishi, SIAM J. Sci. Comput. 26, 2005, algorithm 3.3).
    Exact where neither factor reaches ``2**(emax - ceil(p / 2))``, the product does not overflow, and the error is
    representable: ``a * b = 0`` or ``|a * b| >= 2**(emin + 2p - 1)`` suffices. Below that ``p + e`` misses ``a * b`` by
    at most five times the smallest subnormal number.
    """
    product = a * b
    a_high, a_low = split(a)
    b_high, b_low = split(b)
    return product, a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


def is_error_free(dtype: torch.dtype) -> bool:
    """Return whether torch's eager arithmetic in ``dtype`` meets the conditions of these transformations.

    False for the 8-bit formats, in which torch does not calculate.

    Raises
    ------
    UsageError
        Where ``dtype`` is not a floating-point dtype with known rounding.
    """
    return format_of(dtype).num_bits >= 16
