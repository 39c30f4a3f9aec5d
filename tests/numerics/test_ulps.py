import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from numguard.errors import UsageError
from numguard.numerics import FORMATS, FloatFormat, forward_error_in_ulps, ulp, ulp_distance

WIDE = [torch.float64, torch.float32]
SHORT = [torch.float16, torch.bfloat16]
EIGHT_BIT = [entry for entry in FORMATS.values() if entry.num_bits == 8]


@pytest.mark.parametrize("dtype", WIDE + SHORT, ids=str)
@given(seed=st.integers(0, 2**31))
def test_ulp_is_the_step_of_nextafter(dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.randint(-1100, 1024, (64,), generator=generator).double()
    x = (torch.randn(64, dtype=torch.float64, generator=generator) * torch.exp2(exponents)).to(dtype).abs()
    x = torch.cat(
        [x[torch.isfinite(x)], torch.tensor([0.0, 1.0, 2.0, torch.finfo(dtype).smallest_normal], dtype=dtype)]
    )
    above = torch.nextafter(x, torch.full_like(x, math.inf))
    inside = torch.isfinite(above)
    assert torch.equal(ulp(x, dtype)[inside], (above.double() - x.double())[inside])
    assert torch.equal(ulp(-x, dtype), ulp(x, dtype))


@pytest.mark.parametrize("dtype", WIDE + SHORT, ids=str)
@given(seed=st.integers(0, 2**31), steps=st.integers(0, 40))
def test_distance_counts_the_steps_of_nextafter(dtype: torch.dtype, seed: int, steps: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    x = torch.cat([torch.randn(8, generator=generator).to(dtype), torch.tensor([0.0, -0.0, 3 * tiny], dtype=dtype)])
    y = x.clone()
    for _ in range(steps):
        y = torch.nextafter(y, torch.full_like(y, -math.inf))
    assert ulp_distance(x, y).tolist() == [float(steps)] * len(x)
    assert torch.equal(ulp_distance(y, x), ulp_distance(x, y))


@pytest.mark.parametrize("entry", EIGHT_BIT, ids=lambda entry: entry.name)
def test_distance_and_ulp_of_every_pair_of_8_bit_numbers(entry: FloatFormat) -> None:
    assert entry.dtype is not None
    codes = torch.arange(256, dtype=torch.int64).to(torch.uint8).view(entry.dtype)
    values = codes.to(torch.float64)
    number = ~values.isnan()
    order = {value: place for place, value in enumerate(sorted(set(values[number].tolist())))}
    place = torch.tensor([float(order[value]) for value in values[number].tolist()], dtype=torch.float64)
    numbers = codes[number]
    a = numbers.unsqueeze(0).expand(len(numbers), len(numbers))
    b = numbers.unsqueeze(1).expand(len(numbers), len(numbers))
    assert torch.equal(ulp_distance(a, b), (place.unsqueeze(0) - place.unsqueeze(1)).abs())
    ascending = sorted(value for value in order if 0 <= value < math.inf)
    gaps = [high - low for low, high in itertools.pairwise(ascending)]
    assert ulp(torch.tensor(ascending[:-1], dtype=torch.float64), entry.dtype).tolist() == gaps


@pytest.mark.parametrize("dtype", WIDE + SHORT, ids=str)
def test_zeros_infinities_and_nan(dtype: torch.dtype) -> None:
    nan, inf, largest = math.nan, math.inf, torch.finfo(dtype).max
    a = torch.tensor([0.0, largest, inf, nan, nan, 1.0, -largest], dtype=dtype)
    b = torch.tensor([-0.0, inf, inf, nan, 1.0, nan, -inf], dtype=dtype)
    assert ulp_distance(a, b).tolist() == [0.0, 1.0, 0.0, 0.0, inf, inf, 1.0]
    span = ulp_distance(torch.tensor(-inf, dtype=dtype), torch.tensor(inf, dtype=dtype)).item()
    assert span == 2.0 * ulp_distance(torch.tensor(0.0, dtype=dtype), torch.tensor(inf, dtype=dtype)).item() > 1e4
    gaps = ulp(torch.tensor([inf, -inf, nan], dtype=dtype), dtype)
    assert gaps[0] == inf
    assert gaps[1] == inf
    assert gaps[2].isnan()


@pytest.mark.parametrize("dtype", SHORT, ids=str)
@given(value=st.floats(-65000, 65000))
def test_a_correctly_rounded_result_is_within_half_an_ulp(dtype: torch.dtype, value: float) -> None:
    exact = torch.tensor([value], dtype=torch.float32).double()
    computed = exact.float().to(dtype)
    assert forward_error_in_ulps(computed, exact).item() <= 0.5
    wrong = torch.nextafter(computed, torch.tensor([math.inf], dtype=dtype))
    assert forward_error_in_ulps(wrong, exact).item() >= 0.25  # next to a power of two the gap halves


def test_forward_error_where_results_are_not_finite() -> None:
    inf, nan = math.inf, math.nan
    computed = torch.tensor([inf, inf, -inf, nan, nan, 1.0], dtype=torch.float16)
    exact = torch.tensor([inf, 70000.0, 70000.0, nan, 1.0, nan], dtype=torch.float64)
    assert forward_error_in_ulps(computed, exact).tolist() == [0.0, 0.0, inf, 0.0, inf, inf]


def test_different_dtypes_are_refused() -> None:
    with pytest.raises(UsageError, match="convert both to the dtype whose ulps count"):
        ulp_distance(torch.ones(1), torch.ones(1, dtype=torch.float64))
