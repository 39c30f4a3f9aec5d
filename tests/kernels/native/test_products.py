"""Inner products, products and checked sums of the twin against exact rationals."""

import ctypes
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
    for size in (0, 1, 255, 4096, 100_003):
        x = normal(size, dtype=dtype)
        found = checked_total(library, x, 2)
        exact = sum(map(Fraction, x.tolist()), Fraction(0))
        assert abs(Fraction(found.result) - exact) <= Fraction(found.error_bound)
        assert found.ratio <= 1.0
    assert checked_total(library, torch.tensor([1.0, float("inf")], dtype=dtype)).ratio == 0.0
