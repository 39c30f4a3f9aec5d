"""The error of a shadow stays within its stated bound, against exact rational sums."""

from fractions import Fraction

import pytest
import torch
from numguard_kernels.statistics import tensor_statistics
from numguard_kernels.summation import checked_sum

from numguard.numerics import ill_conditioned_sum

CONDITIONS = [1.0, 1e8, 1e16, 1e30]


def exact(x: torch.Tensor) -> Fraction:
    return sum((Fraction(value) for value in x.double().reshape(-1).tolist()), Fraction(0))


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize("condition_number", CONDITIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_sum_is_within_its_bound(dtype: torch.dtype, condition_number: float, precise: bool) -> None:
    for seed, count in enumerate((97, 301)):
        x = ill_conditioned_sum(count, condition_number, dtype=dtype, seed=seed)
        found = tensor_statistics(x, precise=precise)
        assert found.sum is not None
        assert found.sum_low is not None
        assert found.absolute_sum is not None
        error = abs(Fraction(found.sum.item()) + Fraction(found.sum_low.item()) - exact(x))
        assert error <= Fraction(found.relative_error) * Fraction(found.absolute_sum.item())


def test_the_precise_sum_is_nearly_exact_where_a_plain_one_is_lost() -> None:
    x = torch.tensor([1e8, 1.0, -1e8, 0.5] * 64, dtype=torch.float32)
    found = tensor_statistics(x, precise=True)
    assert found.sum is not None
    assert found.sum.item() == 96.0
    assert found.relative_error < 2.0**-35


def test_bounds_are_not_idle() -> None:
    """The blocked sum errs by a share of its bound that a wrong bound, a hundredth of it, would not cover."""
    x = ill_conditioned_sum(1001, 1e8, dtype=torch.float32, seed=3)
    found = tensor_statistics(x)
    assert found.sum is not None
    assert found.absolute_sum is not None
    error = abs(Fraction(found.sum.item()) - exact(x))
    assert error > Fraction(found.relative_error) * Fraction(found.absolute_sum.item()) / 1000


@pytest.mark.parametrize("condition_number", CONDITIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_checked_sum_is_right_and_says_so(dtype: torch.dtype, condition_number: float) -> None:
    if condition_number > 1e8 and dtype is torch.float16:
        condition_number = 1e6  # the range of the format holds no more
    x = ill_conditioned_sum(401, condition_number, dtype=dtype)
    found = checked_sum(x)
    assert not found.is_wrong.item()
    assert abs(Fraction(found.value.double().item()) - exact(x)) <= 2 * Fraction(found.error_bound.item())
