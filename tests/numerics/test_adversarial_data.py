import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from numguard.errors import UsageError
from numguard.numerics import (
    DATA_KINDS,
    format_of,
    ill_conditioned_dot,
    ill_conditioned_sum,
    ones_past_precision,
    with_nonfinite,
)

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
ALL = [*DTYPES, torch.float16, torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz]
conditions = st.floats(0, 30).map(lambda digits: 10.0**digits)


def condition_of(terms: list[Fraction]) -> float:
    return float(sum(map(abs, terms), Fraction(0)) / abs(sum(terms, Fraction(0))))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(condition=conditions.filter(lambda c: c == 1 or c > 1.01), seed=st.integers(0, 10**6), n=st.integers(64, 150))
def test_sums_reach_the_condition_number_they_promise(dtype: torch.dtype, condition: float, seed: int, n: int) -> None:
    x = ill_conditioned_sum(n, condition, dtype=dtype, seed=seed)
    assert x.dtype == dtype
    assert x.shape == (n,)
    assert condition_of([Fraction(v) for v in x.double().tolist()]) == pytest.approx(condition, rel=0.01)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(condition=conditions.map(lambda c: 4.0 * c), seed=st.integers(0, 10**6), n=st.integers(64, 150))
def test_dots_reach_the_condition_number_they_promise(dtype: torch.dtype, condition: float, seed: int, n: int) -> None:
    x, y = ill_conditioned_dot(n, condition, dtype=dtype, seed=seed)
    pairs = zip(x.double().tolist(), y.double().tolist(), strict=True)
    assert 2.0 * condition_of([Fraction(a) * Fraction(b) for a, b in pairs]) == pytest.approx(condition, rel=0.02)


@pytest.mark.parametrize("condition", [1.0, 3.0, 1e3, 1e6])
def test_half_precision_reaches_what_its_range_allows(condition: float) -> None:
    x = ill_conditioned_sum(64, condition, dtype=torch.float16, seed=1)
    assert condition_of([Fraction(v) for v in x.double().tolist()]) == pytest.approx(condition, rel=0.01)
    assert x.double().abs().sum() < torch.finfo(torch.float16).max


@pytest.mark.parametrize("kind", sorted(DATA_KINDS))
@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_kinds_are_finite_and_depend_on_their_arguments_alone(kind: str, dtype: torch.dtype) -> None:
    before = torch.random.get_rng_state()
    first = DATA_KINDS[kind](301, dtype=dtype, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.dtype == dtype
    assert first.shape == (301,)
    assert torch.isfinite(first.double()).all()
    assert torch.equal(first.double(), DATA_KINDS[kind](301, dtype=dtype, seed=5).double())
    for length in (0, 1, 2):
        assert DATA_KINDS[kind](length, dtype=dtype).shape == (length,)


@pytest.mark.parametrize("kind", sorted(set(DATA_KINDS) - {"ones"}))
def test_another_seed_gives_other_data(kind: str) -> None:
    a, b = (DATA_KINDS[kind](301, dtype=torch.float32, seed=seed) for seed in (1, 2))
    assert not torch.equal(a.view(torch.int32), b.view(torch.int32))


def test_ill_conditioned_data_depend_on_their_arguments_alone() -> None:
    first, again = (ill_conditioned_sum(80, 1e9, seed=4) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, ill_conditioned_sum(80, 1e9, seed=5))
    assert torch.equal(ill_conditioned_dot(80, 1e9, seed=4)[1], ill_conditioned_dot(80, 1e9, seed=4)[1])


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_what_the_kinds_are_named_for(dtype: torch.dtype) -> None:
    target = format_of(dtype)

    def values(kind: str) -> torch.Tensor:
        return DATA_KINDS[kind](400, dtype=dtype, seed=2).double()

    assert len(values("constant").unique()) == 1
    assert (values("ramp").diff() >= 0).all()
    assert (values("lognormal") >= 0).all()
    assert math.fsum(values("cancelling").tolist()) == 0.0
    assert (values("subnormal").abs() < target.smallest_normal).all()
    assert (values("subnormal") < 0).any()
    assert (values("subnormal") > 0).any()
    zeros = values("signed_zeros")
    assert (zeros == 0).all()
    assert bool(torch.signbit(zeros).any()) == target.has_negative_zero
    size = values("outliers").abs()
    assert size.max() >= min(target.max_finite, size.median() * 2.0 ** (target.precision - 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_loop_over_ones_stops_counting(dtype: torch.dtype) -> None:
    x = ones_past_precision(dtype)
    total = torch.zeros((), dtype=dtype)
    for one in x:
        total = total + one
    assert total.item() == 2.0 ** format_of(dtype).precision < len(x)


def test_float32_stops_counting_at_2_to_the_24() -> None:
    x = ones_past_precision(torch.float32, dtype=torch.bfloat16, excess=3)
    assert len(x) == 2**24 + 3
    assert x.dtype == torch.bfloat16
    assert (torch.tensor(2.0**24) + 1).item() == 2.0**24


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nonfinite_values_are_placed(value: float) -> None:
    x = torch.ones(4, 5)
    y = with_nonfinite(x, value, num_places=3, seed=1)
    assert int((~torch.isfinite(y)).sum()) == 3
    assert torch.isfinite(x).all()
    assert torch.equal(torch.isfinite(y), torch.isfinite(with_nonfinite(x, value, num_places=3, seed=1)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ill_conditioned_sum(64, 0.5), "0.5 is not possible; give a finite one of at least 1"),
        (lambda: ill_conditioned_sum(3, 1e9), "3 terms are too few .* use at least"),
        (lambda: ill_conditioned_sum(64, 1e20, dtype=torch.float16), "range of fp16 cannot hold .* wider dtype"),
        (lambda: ill_conditioned_dot(64, 1e30, dtype=torch.float16), "range of fp16 cannot hold .* wider dtype"),
        (lambda: ill_conditioned_dot(64, 2.0), "starts at 4"),
        (lambda: ill_conditioned_sum(64, 1e3, dtype=torch.float8_e8m0fnu), "neither signs nor zeros; use a signed"),
        (lambda: ones_past_precision(torch.float64), "too many for memory; use an accumulator of float32"),
        (lambda: with_nonfinite(torch.ones(2), 1.0), "cannot place 1.0 in fp32; use a value that it has"),
        (lambda: with_nonfinite(torch.ones(2).to(torch.float8_e4m3fn), math.inf), "cannot place inf in fp8_e4m3fn"),
        (lambda: with_nonfinite(torch.ones(2), math.nan, num_places=3), "cannot place 3 values in 2 elements"),
    ],
)
def test_messages(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(UsageError, match=message):
        call()
