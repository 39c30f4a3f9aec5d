"""Exact matrix products of integers, modulo the range of their dtype, from exact float64 products of limbs."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from numguard.shadow.comparison import NotCovered

LIMB_BITS: Final = 16


def integer_product(a: Tensor, b: Tensor, bits: int, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return ``a @ b`` modulo ``2**bits`` as int64.

    Parameters
    ----------
    a, b
        Integers ``[..., m, k]`` and ``[..., k, n]``.
    bits
        Width of the result's dtype.
    product
        Float64 matrix product; every sum that it forms here is an integer below ``2**53``, hence exact.

    Raises
    ------
    NotCovered
        Where K is so large that a sum of limbs may pass ``2**53``.

    Notes
    -----
    The factors are cut into 16-bit limbs; limb products of weight ``2**bits`` and above vanish.
    """
    if a.shape[-1] >= 1 << (53 - 2 * LIMB_BITS):
        raise NotCovered("integer inner products of more than 2**21 terms")
    wide_a, wide_b = a.to(torch.int64), b.to(torch.int64)
    limbs = -(-bits // LIMB_BITS)
    mask = (1 << LIMB_BITS) - 1
    a_limbs = [((wide_a >> LIMB_BITS * i) & mask).to(torch.float64) for i in range(limbs)]
    b_limbs = [((wide_b >> LIMB_BITS * i) & mask).to(torch.float64) for i in range(limbs)]
    result = torch.zeros((), dtype=torch.int64, device=a.device)
    for i, left in enumerate(a_limbs):
        for j, right in enumerate(b_limbs[: limbs - i]):
            result = result + (product(left, right).to(torch.int64) << LIMB_BITS * (i + j))
    return result
