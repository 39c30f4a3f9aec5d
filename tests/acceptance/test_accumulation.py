"""The probe reads trees and accumulators that are known because they are built here."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from numguard.shadow.accumulation import observe_accumulation

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def one_by_one(accumulator: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    def total(x: Tensor) -> Tensor:
        result = torch.zeros((), dtype=accumulator or x.dtype)
        for term in x.to(result.dtype):
            result = result + term
        return result

    return total


def pairwise(x: Tensor) -> Tensor:
    while len(x) > 1:
        odd = x[len(x) & ~1 :]
        x = torch.cat([x[0 : len(x) & ~1 : 2] + x[1 : len(x) & ~1 : 2], odd])
    return x[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_loop_is_one_after_the_other(dtype: torch.dtype) -> None:
    seen = observe_accumulation(one_by_one(None), 20, dtype)
    assert seen.height == 19
    assert seen.order == "one after the other"


@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.float64, 53), (torch.float32, 24), (torch.bfloat16, 8), (torch.float16, 11)]
)
def test_the_accumulator_is_the_one_that_is_used(dtype: torch.dtype, precision: int) -> None:
    assert observe_accumulation(one_by_one(None), 12, dtype).precision == precision


def test_a_wider_accumulator_is_seen() -> None:
    assert observe_accumulation(one_by_one(torch.float32), 12, torch.bfloat16).accumulator == "float32"
    assert observe_accumulation(one_by_one(torch.float64), 12, torch.float32).accumulator == "float64"


@pytest.mark.parametrize(("num_terms", "height"), [(3, 2), (8, 3), (16, 4), (17, 5), (40, 6)])
def test_a_pairwise_tree_has_its_height(num_terms: int, height: int) -> None:
    assert observe_accumulation(pairwise, num_terms, torch.float32).height == height


def test_an_exact_sum_is_no_tree() -> None:
    def exactly(x: Tensor) -> Tensor:
        import math

        return torch.tensor(math.fsum(x.tolist()), dtype=torch.float64)

    assert observe_accumulation(exactly, 10, torch.float32).height is None


@pytest.mark.parametrize("num_terms", [2, 201])
def test_counts_must_be_exact(num_terms: int) -> None:
    with pytest.raises(ValueError, match="3 to 200"):
        observe_accumulation(torch.sum, num_terms, torch.float32)
