"""Inner products, products and checked sums of the twin against exact rationals."""

import ctypes
import math
from fractions import Fraction

import pytest
import torch
from numguard_kernels.native import checked_total, dot_error_bound, inner_product, product_and_mass
from numguard_kernels.native.checked_sum import SUMMED

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_inner_product_is_within_its_bound(library: ctypes.CDLL, dtype: torch.dtype) -> None:
    for size in (0, 1, 7, 8, 513, 3000):
        x, y = normal(size, dtype=dtype), normal(size, dtype=torch.float64, seed=1)
        pairs = list(zip(map(Fraction, x.tolist()), map(Fraction, y.tolist()), strict=True))
        exact = sum((a * b for a, b in pairs), Fraction(0))
        found = inner_product(library, x, y)
        bound = dot_error_bound(size, found.mass, found.high + found.low)
        assert abs(Fraction(found.high + found.low) - exact) <= Fraction(bound)


def test_ill_conditioned_inner_product(library: ctypes.CDLL) -> None:
    large = normal(500, dtype=torch.float64) * 1e8
    x = torch.cat((large, large, torch.tensor([0.1], dtype=torch.float64)))
    y = torch.cat((large, -large, torch.tensor([0.3], dtype=torch.float64)))
    found = inner_product(library, x, y)
    exact = Fraction(0.1) * Fraction(0.3)
    assert abs(Fraction(found.high + found.low) - exact) <= Fraction(
        dot_error_bound(x.numel(), found.mass, found.high + found.low)
    )
    assert found.high + found.low == pytest.approx(0.03, rel=1e-2)


def test_product_of_any_strides(library: ctypes.CDLL) -> None:
    a, b = normal(3, 4, 50), normal(3, 50, 9, seed=2)
    pairs = [
        (a, b),
        (a, b.transpose(1, 2).contiguous().transpose(1, 2)),
        (a.bfloat16(), b[:, :, ::2].half()),
        (a[:, ::2], b[:, :, :1]),
        (a[..., ::5], b[:, ::5]),
        (a[:1].expand(3, 4, 50), b),
        (a[:, :0], b),
        (a[..., :0], b[:, :0]),
    ]
    for left, right in pairs:
        value, mass = product_and_mass(library, left, right)
        wide = left.double(), right.double()
        size = wide[0].abs() @ wide[1].abs()
        assert value.shape == size.shape
        assert bool(((value - wide[0] @ wide[1]).abs() <= 2 * left.shape[2] * 2.0**-53 * size).all())
        assert bool(((mass - size).abs() <= 2 * left.shape[2] * 2.0**-53 * size).all())


@pytest.mark.parametrize("dtype", SUMMED, ids=str)
def test_checked_sum(library: ctypes.CDLL, dtype: torch.dtype) -> None:
    alike = torch.full((100_003,), 0.1, dtype=dtype)  # all roundings of a lane point the same way
    for x in (*(normal(size, dtype=dtype) for size in (0, 1, 31, 255, 4096, 40_961)), alike, alike[::3]):
        found = checked_total(library, x, 2)
        exact = sum(map(Fraction, x.tolist()), Fraction(0))
        assert abs(Fraction(found.result) - exact) <= Fraction(found.error_bound)
        assert abs(Fraction(found.shadow) - exact) <= Fraction(found.error_bound) / 4
        assert abs(Fraction(found.mass) - sum(map(abs, map(Fraction, x.tolist())))) <= Fraction(found.error_bound) / 4
        assert found.ratio <= 1.0
        assert found.error_bound <= 220 * 2.0**-24 * found.mass


@pytest.mark.parametrize("dtype", SUMMED, ids=str)
def test_checked_sum_of_what_is_not_finite(library: ctypes.CDLL, dtype: torch.dtype) -> None:
    for value in (math.inf, -math.inf, math.nan):
        for place in (0, 700, 5000):
            x = normal(5001, dtype=dtype)
            x[place] = value
            found = checked_total(library, x)
            assert found.ratio == 0.0
            assert not math.isfinite(found.mass)
            assert math.isnan(found.result) == math.isnan(found.shadow) == math.isnan(value)
            assert math.isnan(value) or found.result == found.shadow == value


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_checked_sum_at_the_end_of_the_range(library: ctypes.CDLL, dtype: torch.dtype) -> None:
    """The blocks of a shadow may overflow before the result does: then it is formed in float64."""
    x = torch.full((3001,), 2.0**115, dtype=dtype)
    x[::3] *= -1.0
    found = checked_total(library, x)
    assert found.mass == 3001 * 2.0**115
    assert found.result == found.shadow == 999 * 2.0**115
    overflowing = checked_total(library, torch.full((300_001,), 2.0**115, dtype=dtype))
    assert (overflowing.result, overflowing.shadow, overflowing.ratio) == (math.inf, 300_001 * 2.0**115, 0.0)


@pytest.mark.parametrize("dtype", SUMMED, ids=str)
def test_checked_sum_by_several_threads(library: ctypes.CDLL, dtype: torch.dtype) -> None:
    """Four MiB are the least that a thread is started for; whole numbers add up without error in the shadow."""
    x = torch.randint(-8, 9, (5_000_003,), generator=torch.Generator().manual_seed(0)).to(dtype)
    total, mass = int(x.long().sum()), int(x.long().abs().sum())
    for num_threads in (1, 2, 5):
        found = checked_total(library, x, num_threads)
        assert (found.shadow, found.mass) == (total, mass)
        assert abs(found.result - total) <= found.error_bound
        assert found.ratio <= 1.0


def test_checked_sum_refuses_other_dtypes(twin: ctypes.CDLL) -> None:
    with pytest.raises(TypeError, match=r"not of torch\.float64"):
        checked_total(twin, normal(3, dtype=torch.float64))
