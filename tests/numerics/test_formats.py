import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from numguard.errors import UsageError
from numguard.numerics import FORMATS, FloatFormat, accumulator_dtype, format_of, round_to_format, unit_roundoff
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, smallest_rounding

STORED = [entry for entry in FORMATS.values() if entry.dtype is not None]
SHORT = [entry for entry in STORED if entry.num_bits <= 16]
INTEGERS = {8: torch.uint8, 16: torch.int16}


def every_value(entry: FloatFormat) -> torch.Tensor:
    codes = torch.arange(2**entry.num_bits, dtype=torch.int64).to(INTEGERS[entry.num_bits])
    assert entry.dtype is not None
    return codes.view(entry.dtype).to(torch.float64)


@pytest.mark.parametrize("entry", STORED, ids=lambda entry: entry.name)
def test_agrees_with_torch_finfo(entry: FloatFormat) -> None:
    assert entry.dtype is not None
    info = torch.finfo(entry.dtype)
    assert entry.max_finite == info.max
    assert entry.smallest_normal == info.smallest_normal
    assert entry.num_bits == info.bits
    assert format_of(entry.dtype) is entry


@pytest.mark.parametrize("entry", STORED, ids=lambda entry: entry.name)
def test_unit_roundoff_is_half_the_gap_at_one(entry: FloatFormat) -> None:
    # Measured in the conversion, not read from torch.finfo, whose eps for float8_e5m2fnuz is half the gap in 2.13.
    assert entry.dtype is not None
    epsilon = entry.machine_epsilon
    near = torch.tensor([1.0, 1.0 + 0.25 * epsilon, 1.0 + 0.75 * epsilon, 1.0 + epsilon], dtype=torch.float64)
    if entry.num_bits < 64:
        assert near.to(entry.dtype).to(torch.float64).tolist() == [1.0, 1.0, 1.0 + epsilon, 1.0 + epsilon]
    else:
        assert torch.nextafter(near[0], near[0] + 1) == 1.0 + epsilon
    assert unit_roundoff(entry.dtype) == epsilon / 2


@pytest.mark.parametrize("entry", SHORT, ids=lambda entry: entry.name)
def test_agrees_with_every_code_of_short_formats(entry: FloatFormat) -> None:
    values = every_value(entry)
    finite = values[torch.isfinite(values)]
    positive = finite[finite > 0]
    assert positive.max() == entry.max_finite
    assert positive.min() == entry.smallest_subnormal
    assert bool(torch.isinf(values).any()) == entry.has_infinity
    assert bool(torch.isnan(values).any()) == entry.has_nan
    assert bool((finite == 0).any()) == entry.is_signed
    assert bool(((finite == 0) & torch.signbit(finite)).any()) == entry.has_negative_zero
    assert bool((finite < 0).any()) == entry.is_signed


@pytest.mark.parametrize("entry", SHORT, ids=lambda entry: entry.name)
def test_rounding_keeps_every_number_and_halves_go_to_even(entry: FloatFormat) -> None:
    values = every_value(entry)
    numbers = sorted(set(values[torch.isfinite(values) & (values > 0)].tolist()))
    assert [round_to_format(number, entry) for number in numbers[::7]] == numbers[::7]
    for low, high in list(itertools.pairwise(numbers))[:: max(1, len(numbers) // 300)]:
        middle = (Fraction(low) + Fraction(high)) / 2
        just = Fraction(high - low) / 1024
        assert round_to_format(middle - just, entry) == low
        assert round_to_format(middle + just, entry) == high
        assert round_to_format(middle, entry) in (low, high)


@pytest.mark.parametrize("entry", [FORMATS[name] for name in ("fp16", "bf16", "fp8_e4m3fn", "fp8_e5m2")], ids=str)
@given(value=st.floats(-400, 400, width=32))
def test_rounds_as_torch_converts(entry: FloatFormat, value: float) -> None:
    assert entry.dtype is not None
    converted = torch.tensor(value, dtype=torch.float32).to(entry.dtype).to(torch.float64).item()
    assert round_to_format(value, entry) == converted


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_rounds_float64_to_float32_as_the_processor(value: float) -> None:
    assert round_to_format(value, FORMATS["fp32"]) == torch.tensor(value, dtype=torch.float64).float().item()
    assert round_to_format(value, FORMATS["fp64"]) == value


def test_overflow_threshold_is_where_rounding_leaves_the_range() -> None:
    for name in ("fp32", "fp16", "bf16"):
        entry = FORMATS[name]
        assert round_to_format(entry.overflow_threshold, entry) == math.inf
        assert round_to_format(math.nextafter(entry.overflow_threshold, 0.0), entry) == entry.max_finite


def test_accumulators() -> None:
    assert accumulator_dtype(torch.float64) == torch.float64
    assert {accumulator_dtype(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_other_dtypes_are_refused_with_what_to_use(dtype: torch.dtype) -> None:
    with pytest.raises(UsageError, match=r"not a floating-point dtype.*use one of float64, float32"):
        unit_roundoff(dtype)


def test_judgement_takes_its_numbers_from_the_formats() -> None:
    assert set(UNIT_ROUNDOFF) == {entry.dtype for entry in STORED if entry.is_signed}
    assert all(UNIT_ROUNDOFF[dtype] == unit_roundoff(dtype) for dtype in UNIT_ROUNDOFF)
    assert smallest_rounding(torch.float32) == 2.0**-149
    assert smallest_rounding(torch.float64) == 2.0**-1074
    assert smallest_rounding(torch.float16) == 2.0**-25
    assert smallest_rounding(torch.bfloat16) == 2.0**-134
    assert smallest_rounding(torch.float8_e4m3fn) == 2.0**-10
