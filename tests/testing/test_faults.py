"""Faulty kernels are wrong for every caller and dtype, where they should be, and gone afterwards."""

import pytest
import torch
from torch import Tensor

from numguard.errors import UsageError
from numguard.testing import KernelCall, faulty_kernel

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SUM = "aten::sum.dim_IntList"


def _add_one(call: KernelCall) -> None:
    call.results[0].add_(1.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_wrong_for_every_caller(dtype: torch.dtype) -> None:
    x, bias = torch.ones(2, 3, dtype=dtype), torch.ones(3, dtype=dtype, requires_grad=True)
    with faulty_kernel(SUM, _add_one) as fault:
        by_rows, total, wider = x.sum(1), x.sum(), x.double().sum(1)
        (x + bias).backward(torch.ones_like(x))
    assert by_rows.tolist() == wider.tolist() == [4.0, 4.0]
    assert total.item() == 7.0, "the sum over everything is built on it"
    assert bias.grad is not None
    assert bias.grad.tolist() == [3.0, 3.0, 3.0], "backward calls it for a broadcast operand"
    assert fault.num_calls == fault.num_fired == 4
    assert x.sum(1).tolist() == [3.0, 3.0]


def test_it_fires_when_it_is_told_to() -> None:
    x = torch.ones(2, 3)
    with faulty_kernel(SUM, _add_one, when=lambda arguments: arguments["self"].shape[0] == 1) as fault:
        assert x.sum(1).tolist() == [3.0, 3.0]
        assert x[:1].sum(1).tolist() == [4.0]
    assert (fault.num_calls, fault.num_fired) == (2, 1)


def test_calls_inside_the_fault_reach_the_right_kernel() -> None:
    x = torch.ones(2, 3)

    def corrupt(call: KernelCall) -> None:
        call.results[0].copy_(call.before["self"].sum([1]) * 2.0)
        assert call.rerun({"self": 5.0 * x})[0].tolist() == [15.0, 15.0]

    with faulty_kernel(SUM, corrupt):
        assert x.sum(1).tolist() == [6.0, 6.0]


def test_an_operator_in_place_is_seen_before_and_after() -> None:
    seen: list[tuple[float, float, float]] = []

    def corrupt(call: KernelCall) -> None:
        (result,) = call.results
        (again,) = call.rerun({"weight": 1.0})
        seen.append((call.before["self"].item(), result.item(), again.item()))
        result.fill_(9.0)

    x, end = torch.zeros(1), torch.ones(1)
    with faulty_kernel("aten::lerp_.Scalar", corrupt):
        returned = x.lerp_(end, 0.5)
    assert returned is x
    assert x.item() == 9.0
    assert seen == [(0.0, 0.5, 1.0)]


def test_lists_of_tensors_are_results_in_order() -> None:
    tensors = [torch.zeros(2), torch.zeros(3)]

    def corrupt(call: KernelCall) -> None:
        assert [tuple(result.shape) for result in call.results] == [(2,), (3,)]
        call.results[1][0] = 7.0

    with faulty_kernel("aten::_foreach_lerp_.Scalar", corrupt):
        torch._foreach_lerp_(tensors, [torch.ones(2), torch.ones(3)], 1.0)
    assert [tensor.tolist() for tensor in tensors] == [[1.0, 1.0], [7.0, 1.0, 1.0]]


def test_it_is_gone_afterwards_whatever_happens() -> None:
    def refuse(call: KernelCall) -> None:
        raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError), faulty_kernel(SUM, refuse):
            torch.ones(2, 3).sum(1)
        assert torch.ones(2, 3).sum(1).tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ("sum", "is no operator of this build"),
        ("aten::sum.of_nothing", "is no operator of this build"),
        ("aten::linear", "is composed of other operators"),
    ],
)
def test_what_cannot_be_replaced_is_refused(op: str, message: str) -> None:
    with pytest.raises(UsageError, match=message), faulty_kernel(op, _add_one):
        raise AssertionError("not reached")


def test_two_faults_under_one_operator_are_refused() -> None:
    def total() -> Tensor:
        return torch.ones(2, 3).sum(1)

    with faulty_kernel(SUM, _add_one):
        with pytest.raises(UsageError, match="already has a kernel in Python"), faulty_kernel(SUM, _add_one):
            raise AssertionError("not reached")
        assert total().tolist() == [4.0, 4.0]
    assert total().tolist() == [3.0, 3.0]
