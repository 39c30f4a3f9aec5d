"""No way of forming a variance, a product by slot or a distance in float32 exceeds its deterministic bound."""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from numguard.numerics.error_bounds.distance_bounds import distance_bound, product_distance_bound
from numguard.numerics.error_bounds.moment_bounds import (
    mean_bound,
    one_pass_variance_bound,
    reciprocal_root_bound,
    root_bound,
    variance_bound,
)
from numguard.numerics.error_bounds.slot_product_bounds import slot_product_bound

UNIT = 2.0**-24
Singles = npt.NDArray[np.float32]


def numbers(seed: int, size: int, shift: float, spread: float) -> Singles:
    return (np.random.default_rng(seed).standard_normal(size) * spread + shift).astype(np.float32)


def welford(x: Singles) -> tuple[float, float]:
    """Mean and variance by one update a number, every operation rounded to float32."""
    mean = total = np.float32(0)
    for count, value in enumerate(x, start=1):
        delta = value - mean
        mean = mean + delta / np.float32(count)
        total = total + delta * (value - mean)
    return float(mean), float(total / np.float32(len(x)))


def one_pass(x: Singles) -> tuple[float, float]:
    total = squares = np.float32(0)
    for value in x:
        total, squares = total + value, squares + value * value
    mean = total / np.float32(len(x))
    return float(mean), float(squares / np.float32(len(x)) - mean * mean)


def exact_moments(x: Singles) -> tuple[Fraction, Fraction, Fraction]:
    """Mean, variance and mean magnitude in rational arithmetic."""
    values = [Fraction(float(value)) for value in x]
    mean = sum(values, Fraction(0)) / len(values)
    variance = sum(((value - mean) ** 2 for value in values), Fraction(0)) / len(values)
    return mean, variance, sum((abs(value) for value in values), Fraction(0)) / len(values)


def scalar(value: Fraction | float) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)


cases = {
    "seed": st.integers(0, 1000),
    "size": st.integers(1, 300),
    "shift": st.sampled_from((0.0, 3.0, 1e3, 1e5)),
    "spread": st.sampled_from((1.0, 1e-3, 0.0, 50.0)),
}


@given(**cases)
def test_updates_in_float32_stay_within_the_bounds(seed: int, size: int, shift: float, spread: float) -> None:
    x = numbers(seed, size, shift, spread)
    mean, variance, magnitude = exact_moments(x)
    computed_mean, computed_variance = welford(x)
    error = mean_bound(scalar(mean), scalar(magnitude), size, 4 * size, torch.float32)
    bound = variance_bound(scalar(variance), scalar(mean), error, 4 * size, torch.float32)
    assert abs(Fraction(computed_mean) - mean) <= Fraction(float(error)) * (1 + Fraction(1, 256))
    assert abs(Fraction(computed_variance) - variance) <= Fraction(float(bound)) * (1 + Fraction(1, 256))


@given(**cases)
def test_differences_of_squares_in_float32_stay_within_the_bound(
    seed: int, size: int, shift: float, spread: float
) -> None:
    x = numbers(seed, size, shift, spread)
    mean, variance, _ = exact_moments(x)
    _, computed = one_pass(x)
    bound = one_pass_variance_bound(scalar(variance), scalar(mean), size, torch.float32)
    assert abs(Fraction(computed) - variance) <= Fraction(float(bound)) * (1 + Fraction(1, 256))


@given(value=st.floats(0.0, 1e6), share=st.floats(-1.0, 1.0), bound=st.floats(0.0, 1e6))
def test_roots_move_as_far_as_said(value: float, share: float, bound: float) -> None:
    moved = max(0.0, value + share * bound)
    limit = float(root_bound(scalar(value), scalar(bound)))
    assert abs(math.sqrt(moved) - math.sqrt(value)) <= limit * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_reciprocal_roots_move_as_far_as_said(share: float) -> None:
    relative = float(reciprocal_root_bound(scalar(2.0 * share), scalar(2.0), torch.float32))
    assert abs(math.sqrt(1.0 / (1.0 - share)) - 1.0) <= relative
    assert math.isinf(float(reciprocal_root_bound(scalar(1.5), scalar(2.0), torch.float32)))


@given(seed=st.integers(0, 1000), size=st.integers(1, 60), scale=st.sampled_from((1.0, 1e-3, 30.0)))
def test_products_in_float32_stay_within_the_bound(seed: int, size: int, scale: float) -> None:
    x = numbers(seed, size, 1.0, scale)
    computed, exact = np.float32(1), Fraction(1)
    with np.errstate(all="ignore"):
        for value in x:
            computed, exact = np.float32(computed * value), exact * Fraction(float(value))
    logs = [math.log2(abs(float(value))) for value in x if value]
    above, below = sum(max(log, 0.0) for log in logs), sum(min(log, 0.0) for log in logs)
    parts = (scalar(exact), scalar(above), scalar(below), scalar(float(size)))
    bound = float(slot_product_bound(*parts, UNIT, torch.finfo(torch.float32)))
    if math.isfinite(bound):
        assert abs(Fraction(float(computed)) - exact) <= Fraction(bound) + Fraction(UNIT) * abs(exact)
    else:
        assert above > 100.0


@given(seed=st.integers(0, 1000), size=st.integers(1, 80), shift=st.sampled_from((0.0, 10.0, 1e3)))
def test_distances_in_float32_stay_within_the_bounds(seed: int, size: int, shift: float) -> None:
    a, b = numbers(seed, size, shift, 1.0), numbers(seed + 1, size, shift, 1.0)
    exact = math.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)))
    direct = float(np.sqrt(np.sum((a - b) ** 2, dtype=np.float32)))
    by_products = np.dot(a, a) + np.dot(b, b) - np.float32(2) * np.dot(a, b)
    squares = scalar(float(np.sum(a.astype(np.float64) ** 2) + np.sum(b.astype(np.float64) ** 2)))
    near = float(distance_bound(scalar(exact), 2.0, size, torch.float32))
    far = float(product_distance_bound(scalar(exact), squares, size, torch.float32))
    assert abs(direct - exact) <= near * (1 + 2**-8) + UNIT * exact
    assert abs(math.sqrt(max(0.0, float(by_products))) - exact) <= far * (1 + 2**-8) + UNIT * exact
