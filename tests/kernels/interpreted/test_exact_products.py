"""Inner products within their bounds against exact rationals; checks of products say who is wrong, and nobody else."""

from fractions import Fraction

import pytest
import torch
from numguard_kernels.attention_checks import sampled_queries
from numguard_kernels.dots import compensated_dot
from numguard_kernels.product_checks import freivalds, sampled_rows
from numguard_kernels.weighted_sums import weighted_columns

from numguard.numerics import ill_conditioned_sum


def exact_dot(x: torch.Tensor, y: torch.Tensor) -> Fraction:
    pairs = zip(x.double().tolist(), y.double().tolist(), strict=True)
    return sum((Fraction(a) * Fraction(b) for a, b in pairs), Fraction(0))


@pytest.mark.parametrize("condition_number", [1.0, 1e8, 1e16, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_inner_product_is_within_its_bound(dtype: torch.dtype, condition_number: float) -> None:
    x = ill_conditioned_sum(61, condition_number, dtype=dtype)
    y = torch.rand(61, dtype=dtype, generator=torch.Generator().manual_seed(1)) + 0.5
    # Cancels in the products as the sum does: every number twice, with weights that differ in their last places.
    x, y = torch.cat([x, -x]), torch.cat([y, y * (1 + torch.finfo(dtype).eps)])
    found = compensated_dot(x, y)
    error = abs(Fraction(found.dot.item()) + Fraction(found.dot_low.item()) - exact_dot(x, y))
    assert error <= Fraction(found.relative_error) * Fraction(found.absolute_sum.item()) * Fraction(1001, 1000)


def test_a_compensated_product_keeps_what_a_plain_one_loses() -> None:
    x = torch.tensor([1e4 + 1.0, 1e4, 0.5], dtype=torch.float32)
    y = torch.tensor([1e4 - 1.0, -1e4, 1.0], dtype=torch.float32)
    assert compensated_dot(x, y).dot.item() == -0.5
    assert torch.dot(x, y).item() != -0.5


def test_weighted_columns_are_within_their_bound() -> None:
    x, weights = torch.randn(13, 3), torch.randn(2, 13)
    low = weights * 2.0**-27
    found = weighted_columns(x, weights, low=low)
    for vector in range(2):
        for column in range(3):
            exact = exact_dot(weights[vector], x[:, column]) + exact_dot(low[vector], x[:, column])
            value = Fraction(found.sum[vector, column].item()) + Fraction(found.sum_low[vector, column].item())
            mass = Fraction(found.absolute_sum[vector, column].item())
            assert abs(value - exact) <= (Fraction(found.relative_error) + Fraction(2) ** -48) * mass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_product_is_judged(dtype: torch.dtype) -> None:
    a, b = torch.randn(6, 20).to(dtype), torch.randn(20, 9).to(dtype)
    product = a @ b
    signs = torch.where(torch.rand(1, 6) < 0.5, -1.0, 1.0)
    rows = torch.tensor([1, 4])
    assert not freivalds(a, b, product, signs).is_wrong.any()
    assert not sampled_rows(a, b, product, rows).is_wrong.any()
    wrong = product.clone()
    wrong[4, 7] += 8.0
    assert freivalds(a, b, wrong, signs).is_wrong.nonzero().tolist() == [[0, 7]]
    assert sampled_rows(a, b, wrong, rows).is_wrong.nonzero().tolist() == [[1, 7]]
    wrong[4, 7] = float("nan")
    assert freivalds(a, b, wrong, signs).is_wrong.nonzero().tolist() == [[0, 7]]
    with pytest.raises(ValueError, match=r"\[m, k\]"):
        freivalds(a, b.t(), product, signs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_of_an_attention_are_judged(dtype: torch.dtype) -> None:
    query, keys, values = (torch.randn(17, 8).to(dtype) for _ in range(3))
    attend = torch.nn.functional.scaled_dot_product_attention
    output = attend(query[None, None], keys[None, None], values[None, None], is_causal=True)[0, 0]
    rows = torch.tensor([3, 16])
    mask = torch.arange(17)[None] <= rows[:, None]
    assert not sampled_queries(query[rows], keys, values, output[rows], mask=mask).is_wrong.any()
    unmasked = sampled_queries(query[rows], keys, values, output[rows])
    assert unmasked.is_wrong[0].any()
    assert not unmasked.is_wrong[1].any()
    with pytest.raises(ValueError, match=r"\[s, e\]"):
        sampled_queries(query, keys, values[:5], output)
