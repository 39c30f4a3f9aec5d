import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from numguard.numerics import (
    FORMATS,
    fast_two_sum,
    format_of,
    is_error_free,
    round_to_format,
    split,
    two_product,
    two_sum,
)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def numbers(dtype: torch.dtype) -> st.SearchStrategy[torch.Tensor]:
    """Every finite number of a format, by its code: subnormal numbers and zeros of both signs included."""
    bits = 8 * dtype.itemsize
    codes = st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    tensors = codes.map(lambda code: torch.tensor([code], dtype=INTEGERS[dtype.itemsize]).view(dtype))
    close = st.tuples(st.integers(-300, 300), st.integers(-12, 12)).map(
        lambda pair: torch.tensor([pair[0] * 2.0 ** pair[1]], dtype=torch.float64).to(dtype)
    )
    return (tensors | close).filter(lambda x: bool(torch.isfinite(x)))


def exact(x: torch.Tensor) -> Fraction:
    return Fraction(x.double().item())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(data=st.data())
def test_two_sum_is_exact(dtype: torch.dtype, data: st.DataObject) -> None:
    a, b = data.draw(numbers(dtype)), data.draw(numbers(dtype))
    total = exact(a) + exact(b)
    assume(abs(total) < Fraction(format_of(dtype).max_finite))
    rounded, error = two_sum(a, b)
    assert rounded.dtype == error.dtype == dtype
    assert rounded.double().item() == round_to_format(total, format_of(dtype))
    assert exact(rounded) + exact(error) == total


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(data=st.data())
def test_fast_two_sum_is_exact_with_the_larger_addend_first(dtype: torch.dtype, data: st.DataObject) -> None:
    a, b = data.draw(numbers(dtype)), data.draw(numbers(dtype))
    if exact(abs(a)) < exact(abs(b)):
        a, b = b, a
    assume(abs(exact(a) + exact(b)) < Fraction(format_of(dtype).max_finite))
    rounded, error = fast_two_sum(a, b)
    assert exact(rounded) + exact(error) == exact(a) + exact(b)


def test_fast_two_sum_needs_its_condition() -> None:
    rounded, error = fast_two_sum(2.0**-60, 1.0)
    assert Fraction(rounded) + Fraction(error) != Fraction(2.0**-60) + 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(data=st.data())
def test_split_is_exact_and_halves_the_digits(dtype: torch.dtype, data: st.DataObject) -> None:
    target = format_of(dtype)
    shift = -(-target.precision // 2)
    x = data.draw(numbers(dtype))
    assume(abs(x.double().item()) < 2.0 ** (target.max_exponent - shift))
    high, low = split(x)
    assert exact(high) + exact(low) == exact(x)
    for part, digits in ((high, target.precision - shift), (low, shift - 1)):
        mantissa = abs(exact(part)).numerator
        while mantissa and mantissa % 2 == 0:
            mantissa //= 2
        assert mantissa < 2**digits


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(data=st.data())
def test_two_product_is_exact_or_misses_by_its_underflow(dtype: torch.dtype, data: st.DataObject) -> None:
    target = format_of(dtype)
    a, b = data.draw(numbers(dtype)), data.draw(numbers(dtype))
    product = exact(a) * exact(b)
    limit = 2.0 ** (target.max_exponent - -(-target.precision // 2))
    assume(max(abs(a.double().item()), abs(b.double().item())) < limit)
    assume(abs(product) < Fraction(target.max_finite) / 2)
    rounded, error = two_product(a, b)
    missed = abs(exact(rounded) + exact(error) - product)
    if product == 0 or abs(product) >= Fraction(2) ** (target.min_exponent + 2 * target.precision - 1):
        assert missed == 0
    else:
        assert missed <= 5 * Fraction(target.smallest_subnormal)


@given(a=st.floats(-1e150, 1e150), b=st.floats(-1e150, 1e150))
def test_python_floats_are_taken_as_float64(a: float, b: float) -> None:
    total, rest = two_sum(a, b)
    assert Fraction(total) + Fraction(rest) == Fraction(a) + Fraction(b)
    product, error = two_product(a, b)
    assert math.isfinite(product)
    assert abs(Fraction(product) + Fraction(error) - Fraction(a) * Fraction(b)) <= 5 * Fraction(2) ** -1074


def test_the_8_bit_formats_are_not_calculated_in() -> None:
    assert [name for name, entry in FORMATS.items() if entry.dtype and not is_error_free(entry.dtype)] == [
        "fp8_e4m3fn",
        "fp8_e4m3fnuz",
        "fp8_e5m2",
        "fp8_e5m2fnuz",
        "fp8_e8m0fnu",
    ]
