"""Sums of the twin against exact rationals, over dtypes, sizes, strides and values that are not numbers."""

import ctypes
import math
from fractions import Fraction

import pytest
import torch
from numguard_kernels.native import Mode, counts_of, row_totals_of, sum_error_bound, total_of
from numguard_kernels.native.library import DTYPES
from torch import Tensor

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SIZES = (0, 1, 3, 15, 16, 17, 127, 256, 300, 1023, 40_000)


def normal(size: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(size + 1)
    return (scale * torch.randn(size, generator=generator, dtype=torch.float64)).to(dtype)


def exactly(x: Tensor) -> tuple[Fraction, Fraction]:
    numbers = [Fraction(number) for number in x.double().reshape(-1).tolist()]
    return sum(numbers, Fraction(0)), sum(map(abs, numbers), Fraction(0))


def ill_conditioned(size: int, condition: float) -> Tensor:
    """Pairs that cancel at growing exponents, and a remainder: the sum is about ``sum|x| / condition``."""
    generator = torch.Generator().manual_seed(7)
    exponents = torch.linspace(0.0, math.log2(condition), size // 2, dtype=torch.float64)
    large = torch.randn(size // 2, generator=generator, dtype=torch.float64) * torch.exp2(exponents)
    mixed = torch.cat((large, -large, torch.tensor([1.0 / 3.0], dtype=torch.float64)))
    return mixed[torch.randperm(len(mixed), generator=generator)]


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.name.lower())
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_total_is_within_its_bound(library: ctypes.CDLL, dtype: torch.dtype, mode: Mode) -> None:
    for size in SIZES:
        for threads in (1, 3):
            x = normal(size, dtype)
            total, mass = exactly(x)
            found = total_of(library, x, mode, threads)
            bound = sum_error_bound(mode, size, found.mass, found.high + found.low, is_double=dtype == torch.float64)
            assert abs(Fraction(found.high) + Fraction(found.low) - total) <= Fraction(bound)
            assert abs(Fraction(found.mass) - mass) <= Fraction(bound) + mass * Fraction(size + 8, 2**53)
            assert found.largest == (x.double().abs().max().item() if size else 0.0)


@pytest.mark.parametrize("condition", [1e8, 1e16, 1e30])
def test_ill_conditioned_sum_is_right_in_pairs(library: ctypes.CDLL, condition: float) -> None:
    x = ill_conditioned(2000, condition)
    total, mass = exactly(x)
    assert mass > Fraction(condition) * abs(total) / 1000
    found = total_of(library, x, Mode.TWO_FLOAT)
    bound = sum_error_bound(Mode.TWO_FLOAT, x.numel(), found.mass, found.high + found.low, is_double=True)
    assert abs(Fraction(found.high + found.low) - total) <= Fraction(bound)
    plain = total_of(library, x, Mode.DOUBLE)
    assert abs(Fraction(plain.high) + Fraction(plain.low) - total) <= Fraction(
        sum_error_bound(Mode.DOUBLE, x.numel(), plain.mass, plain.high, is_double=True)
    )


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.name.lower())
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_rows_of_any_strides(library: ctypes.CDLL, dtype: torch.dtype, mode: Mode) -> None:
    x = normal(7 * 6 * 300, dtype).reshape(7, 6, 300)
    views = [
        (x, 1),
        (x, 2),
        (x, 0),
        (x, 3),
        (x.permute(2, 1, 0), 1),
        (x.permute(2, 0, 1), 2),
        (x[1:, ::2, 5::3], 2),
        (x.transpose(0, 1)[:, 2:], 1),
        (x[:, :0], 1),
        (x[:0], 1),
        (x[:, :1].expand(7, 9, 300), 1),
        (x.reshape(-1)[1:-1], 0),
    ]
    for view, num_kept in views:
        found = row_totals_of(library, view, num_kept, mode, 2)
        rows = view.reshape(*view.shape[:num_kept], -1).double() if view.numel() else None
        assert found.high.shape == view.shape[:num_kept]
        if rows is None:
            assert not found.high.any()
            continue
        expected, mass = rows.sum(-1), rows.abs().sum(-1)
        size = rows.shape[-1]
        bound = sum_error_bound(mode, size, 1.0, 1.0, is_double=dtype == torch.float64) + size * 2.0**-52
        assert bool(((found.high + found.low - expected).abs() <= bound * mass).all())
        assert bool(((found.mass - mass).abs() <= bound * mass).all())
        assert torch.equal(found.largest, rows.abs().amax(-1))


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.name.lower())
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_values_that_are_not_numbers(library: ctypes.CDLL, dtype: torch.dtype, mode: Mode) -> None:
    for values, total in (
        ((math.inf,), math.inf),
        ((-math.inf,), -math.inf),
        ((math.inf, -math.inf), math.nan),
        ((math.nan,), math.nan),
        ((math.nan, math.inf), math.nan),
    ):
        for place in (0, 150, 698):
            x = normal(700, dtype)
            x[place : place + len(values)] = torch.tensor(values, dtype=dtype)
            for found in (total_of(library, x, mode), row_totals_of(library, x.expand(2, 700).t(), 0, mode)):
                number = float(found.high) + float(found.low)
                assert number == total or (math.isnan(number) and math.isnan(total))
                assert math.isnan(float(found.largest)) == any(map(math.isnan, values))


def test_blocks_that_overflow_are_added_again(library: ctypes.CDLL) -> None:
    x = torch.full((4096,), 3e38)
    found = total_of(library, x, Mode.BLOCKED)
    assert found.high == 4096 * float(x[0])
    assert found.mass == found.high


def test_subnormal_numbers_count_although_torch_flushes_them(library: ctypes.CDLL) -> None:
    x = torch.full((1000,), 1e-40)
    number = float(x[0].double())
    try:
        torch.set_flush_denormal(True)
        found = total_of(library, x, Mode.BLOCKED)
        assert not torch.tensor([1e-40]) * 1.0  # the setting of the thread is what it was
    finally:
        torch.set_flush_denormal(False)
    assert found.high == pytest.approx(1000 * number, rel=1e-6)


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
def test_counts(library: ctypes.CDLL, dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    values = [1.0, 0.5, 2.0, float(limits.max)]
    values += [] if dtype == getattr(torch, "float8_e8m0fnu", None) else [0.0, -0.0, limits.smallest_normal / 2, -1.0]
    x = torch.tensor(values, dtype=torch.float64).to(dtype)
    wide = x.double().abs()
    found = counts_of(library, x, with_exponents=True)
    assert found.num_nan == int(wide.isnan().sum())
    assert found.num_inf == int(wide.isinf().sum())
    assert found.num_zero == int((wide == 0).sum())
    assert found.num_subnormal == int(((wide > 0) & (wide < limits.smallest_normal)).sum())
    assert found.smallest == float(wide[wide > 0].min())
    assert found.exponents is not None
    assert int(found.exponents.sum()) == x.numel()
    assert found.exponents[127] == int(((wide >= 1.0) & (wide < 2.0)).sum())
    total = total_of(library, x, Mode.DOUBLE)
    assert total.mass == pytest.approx(float(wide.sum()), rel=1e-12)


def test_offsets_and_odd_addresses(library: ctypes.CDLL) -> None:
    whole = normal(5000, torch.bfloat16)
    for first in range(1, 9):
        part = whole[first : first + 4001]
        assert total_of(library, part, Mode.DOUBLE).high == pytest.approx(float(part.double().sum()), abs=1e-10)


@pytest.mark.slow
def test_more_elements_than_32_bits_count(library: ctypes.CDLL) -> None:
    size = 2**31 + 4097
    x = torch.zeros(size, dtype=torch.bfloat16)
    x[-1], x[2**31] = 3.0, 2.0
    found = total_of(library, x, Mode.BLOCKED, 2)
    assert (found.high, found.mass, found.largest) == (5.0, 5.0, 3.0)


def test_offsets_beyond_32_bits(library: ctypes.CDLL) -> None:
    """Strides that lead past 2**31 elements, in memory that is never touched between."""
    storage = torch.empty(2**31 + 100, dtype=torch.int8).view(torch.float8_e5m2)
    ends = storage.as_strided((2, 4), (2**31, 1))
    ends.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]).to(torch.float8_e5m2))
    found = row_totals_of(library, ends, 1, Mode.DOUBLE)
    assert found.high.tolist() == ends.double().sum(1).tolist()
    assert row_totals_of(library, ends.t(), 1, Mode.DOUBLE).high.tolist() == ends.double().sum(0).tolist()
