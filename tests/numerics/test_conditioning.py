import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from numguard.numerics import (
    dot_condition_number,
    ill_conditioned_dot,
    ill_conditioned_sum,
    log_softmax_condition_number,
    logsumexp_condition_number,
    mean_condition_number,
    norm_condition_number,
    softmax_condition_number,
    subtraction_condition_number,
    sum_condition_number,
)

EPS = 2.0**-26  # of a finite difference in float64: second-order terms and rounding are then both about 2**-26


@given(condition=st.sampled_from([1.0, 10.0, 1e5, 1e12, 1e20, 1e28]), seed=st.integers(0, 500))
def test_chosen_condition_numbers_are_measured(condition: float, seed: int) -> None:
    x = ill_conditioned_sum(64, condition, seed=seed)
    assert sum_condition_number(x).item() == pytest.approx(condition, rel=0.01)
    assert mean_condition_number(x).item() == sum_condition_number(x).item()
    a, b = ill_conditioned_dot(64, 4.0 * condition, seed=seed)
    assert dot_condition_number(a, b).item() == pytest.approx(4.0 * condition, rel=0.02)


def worst_change(gradient: Tensor, x: Tensor) -> Tensor:
    """The componentwise change of relative size EPS that moves a result with this gradient furthest."""
    return x * (1.0 + EPS * torch.sign(gradient * x))


@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.1, 1.0, 10.0, 100.0]))
def test_logsumexp_moves_as_far_as_its_condition_number_says(seed: int, scale: float) -> None:
    x = scale * torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    moved = torch.logsumexp(worst_change(torch.softmax(x, 0), x), 0) - torch.logsumexp(x, 0)
    predicted = logsumexp_condition_number(x) * EPS * torch.logsumexp(x, 0).abs()
    # Second-order terms: half of scale**2 * EPS**2; rounding of the two values: a few 2**-53 of their size.
    torch.testing.assert_close(moved.abs(), predicted, rtol=1e-4, atol=1e-14 * (1 + scale))


@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.1, 1.0, 10.0]))
def test_softmax_moves_as_far_as_its_condition_number_says(seed: int, scale: float) -> None:
    x = scale * torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    relative = softmax_condition_number(x)
    absolute = log_softmax_condition_number(x) * torch.log_softmax(x, 0).abs()
    for index in range(len(x)):
        gradient = -torch.softmax(x, 0)
        gradient[index] += 1.0
        moved = torch.log_softmax(worst_change(gradient, x), 0)[index] - torch.log_softmax(x, 0)[index]
        for predicted in (relative[index], absolute[index]):
            torch.testing.assert_close(moved.abs(), EPS * predicted, rtol=1e-4, atol=1e-14 * (1 + 10 * scale))


@given(values=st.lists(st.floats(-1e6, 1e6).filter(lambda v: abs(v) > 1e-6), min_size=2, max_size=9))
def test_a_subtraction_is_a_sum_of_two(values: list[float]) -> None:
    a, b = torch.tensor(values[:-1], dtype=torch.float64), torch.tensor(values[1:], dtype=torch.float64)
    expected = sum_condition_number(torch.stack([a, -b]), dim=0)
    torch.testing.assert_close(subtraction_condition_number(a, b), expected, rtol=2.0**-50, atol=0.0)


def test_limits() -> None:
    assert sum_condition_number(torch.tensor([1.0, 2.0, 3.0])).item() == 1.0
    assert sum_condition_number(torch.tensor([1.0, -1.0])).item() == math.inf
    assert sum_condition_number(torch.zeros(3)).item() == 1.0
    assert dot_condition_number(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])).item() == 2.0
    assert dot_condition_number(torch.zeros(2), torch.ones(2)).item() == 1.0
    assert dot_condition_number(torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])).item() == math.inf
    assert subtraction_condition_number(torch.tensor([1.0]), torch.tensor([1.0 - 2.0**-20])).item() > 2.0**20
    assert norm_condition_number(torch.tensor([3.0, 4.0])).item() == 1.0
    assert norm_condition_number(torch.tensor([3.0, 4.0]), math.inf).item() == 1.0
    assert norm_condition_number(torch.tensor([3.0, math.nan])).isnan()


def test_a_masked_term_does_not_count() -> None:
    masked = torch.tensor([1.0, 2.0, -math.inf, 0.5])
    plain = torch.tensor([1.0, 2.0, 0.5])
    torch.testing.assert_close(logsumexp_condition_number(masked), logsumexp_condition_number(plain))
    kept = softmax_condition_number(masked)[[0, 1, 3]]
    torch.testing.assert_close(kept, softmax_condition_number(plain))


def test_dimensions() -> None:
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert sum_condition_number(x, 1).shape == (3, 5)
    assert logsumexp_condition_number(x, 0).shape == (4, 5)
    assert softmax_condition_number(x, 1).shape == x.shape
    torch.testing.assert_close(sum_condition_number(x, 1)[2, 3], sum_condition_number(x[2, :, 3]))
    torch.testing.assert_close(softmax_condition_number(x, 1)[2, :, 3], softmax_condition_number(x[2, :, 3]))
