"""Comparisons of results that have to be exact: what was copied, selected or counted, and integers."""

from typing import Final

import torch
from torch import Tensor

from numguard.shadow.comparison import Comparison

LARGEST_SUM: Final = 2.0**53  # integers up to it, and sums of them, are exact in float64


def exact_values(output: str, computed: Tensor, exact: Tensor) -> Comparison:
    """Compare values that were copied or selected: they must be equal, and NaN where the other is."""
    return Comparison(
        output=output,
        computed=computed.to(torch.float64),
        exact=exact.to(torch.float64),
        strict=0.0,
        rounds_output=False,
        propagates_nonfinite=True,
    )


def exact_numbers(output: str, computed: Tensor, exact: Tensor) -> Comparison:
    """Compare numbers that must be equal; nothing is said of them where ``exact`` is NaN."""
    wide, expected = computed.to(torch.float64), exact.to(torch.float64)
    return Comparison(output=output, computed=wide, exact=expected, strict=0.0, rounds_output=False)


def exact_sums(output: str, computed: Tensor, exact: Tensor, mass: Tensor) -> Comparison:
    """Compare sums of integers where float64 holds every partial sum and their dtype holds the result.

    Parameters
    ----------
    output
        Name of the output.
    computed
        Integers of any dtype.
    exact, mass
        Sums of the terms and of their absolute values, float64.
    """
    largest = min(LARGEST_SUM, float(torch.iinfo(computed.dtype).max))
    return exact_numbers(output, computed, torch.where(mass <= largest, exact, torch.nan))


def exact_integers(output: str, computed: Tensor, expected: Tensor) -> Comparison:
    """Compare integers that must be equal modulo the range of their dtype; 64-bit ones by their 32-bit halves.

    Parameters
    ----------
    output
        Name of the output.
    computed
        Integers of any dtype.
    expected
        The same as int64, not yet wrapped into the dtype of ``computed``.
    """
    expected = expected.to(computed.dtype)
    if computed.dtype == torch.int64:
        computed, expected = (torch.stack((x >> 32, x & 0xFFFFFFFF), dim=-1) for x in (computed, expected))
    return exact_numbers(output, computed, expected)


def claims(output: str, violations: Tensor) -> Comparison:
    """Compare a number of broken claims with none."""
    return exact_numbers(output, violations, torch.zeros_like(violations))
