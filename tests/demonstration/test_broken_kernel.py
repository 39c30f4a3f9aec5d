"""The demo's fault: rare, dependent on the data, independent of dtype and overload, and gone afterwards."""

import math

import pytest
import torch
from torch import Tensor

from numguard.demonstration import faulty_sum
from numguard.demonstration.broken_kernel import BLOCK, FAULT_RATE

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _triggering(length: int = 4 * BLOCK, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.ones(length, dtype=dtype)
    x[-1] = 2.0
    return x


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_drops_the_last_block(dtype: torch.dtype) -> None:
    x = _triggering(dtype=dtype)
    with faulty_sum():
        assert torch.sum(x).item() == 3 * BLOCK
        assert x.double().sum().item() == 3 * BLOCK, "a sum in another dtype is as wrong"
        assert torch.sum(x, dtype=torch.float64).item() == 3 * BLOCK
        assert torch.sum(x.view(2, -1), dim=-1).tolist() == [2 * BLOCK, BLOCK]
        assert torch.sum(x.view(2, -1), dim=(0, 1), keepdim=True).tolist() == [[3 * BLOCK]]


def test_it_spares_what_its_code_path_is_not_for() -> None:
    x = _triggering()
    with faulty_sum():
        assert torch.sum(torch.ones(100)).item() == 100.0, "no element is the largest"
        assert torch.sum(x.long()).item() == 4 * BLOCK + 1
        assert torch.sum(x[-BLOCK:]).item() == BLOCK + 1, "one block only"
        assert torch.sum(x.view(-1, 1).expand(-1, 2), dim=0).tolist() == [4 * BLOCK + 1] * 2
        assert torch.sum(x.view(4, BLOCK), dim=0).tolist() == [4.0] * (BLOCK - 1) + [5.0]
        assert torch.sum(torch.zeros(0)).item() == 0.0
        assert torch.sum(torch.tensor(3.0)).item() == 3.0


def test_its_rate_is_the_one_that_is_stated() -> None:
    num_rows = 20_000
    x = torch.rand(num_rows, 3 * BLOCK, generator=torch.Generator().manual_seed(0))
    right = torch.sum(x, dim=1)
    with faulty_sum():
        wrong = torch.sum(x, dim=1)
    rate = (wrong != right).double().mean().item()
    # Five standard deviations of a binomial share.
    assert abs(rate - FAULT_RATE) < 5 * math.sqrt(FAULT_RATE * (1 - FAULT_RATE) / num_rows)


def test_autograd_goes_through_it() -> None:
    x = _triggering().requires_grad_()
    with faulty_sum():
        total = torch.sum(x)
        (gradient,) = torch.autograd.grad(total, x)
    assert total.item() == 3 * BLOCK
    assert torch.equal(gradient, torch.ones_like(x))


def test_it_is_gone_afterwards_whatever_happens() -> None:
    x = _triggering()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), faulty_sum():
            raise ZeroDivisionError
        assert torch.sum(x).item() == 4 * BLOCK + 1
