"""What the references cannot show: wide index arithmetic, refusals, results of nothing."""

import pytest
import torch
from numguard_kernels.statistics import CORE, NEEDS, Statistics, tensor_statistics


def test_offsets_beyond_two_billion_elements() -> None:
    """A small tensor with a large stride: the storage is reserved, and only a few pages of it are ever touched."""
    stride = 2**30 + 16
    storage = torch.empty(3 * stride + 8, dtype=torch.uint8)
    x = storage.as_strided((4, 5), (stride, 1)).view(torch.float8_e4m3fn)
    x.copy_(torch.arange(20.0).view(4, 5).to(torch.float8_e4m3fn))
    whole, rows, columns = (tensor_statistics(x, dim=dim) for dim in (None, 1, 0))
    assert whole.sum is not None
    assert rows.sum is not None
    assert columns.sum is not None
    wide = torch.arange(20.0, dtype=torch.float64).view(4, 5).to(torch.float8_e4m3fn).double()
    assert whole.sum.item() == wide.sum().item()
    assert rows.sum.tolist() == wide.sum(1).tolist()
    assert columns.sum.tolist() == wide.sum(0).tolist()


def test_only_what_is_asked_for_is_returned() -> None:
    x = torch.ones(10)
    for name in NEEDS:
        found = tensor_statistics(x, needs=(name,))
        present = {field for field in Statistics._fields[:-1] if getattr(found, field) is not None}
        assert present - {"sum_low"} == {name}


def test_the_input_is_not_written_to() -> None:
    x = torch.randn(3, 70)[:, ::2]
    before = x.clone()
    tensor_statistics(x, needs=tuple(NEEDS))
    assert torch.equal(x, before)


def test_everything_of_nothing() -> None:
    found = tensor_statistics(torch.empty(0, 3), needs=tuple(NEEDS))
    assert found.sum is not None
    assert found.minimum_nonzero is not None
    assert (found.sum.item(), found.minimum_nonzero.item()) == (0.0, float("inf"))
    along = tensor_statistics(torch.empty(0, 3), dim=1, needs=CORE)
    assert along.sum is not None
    assert along.sum.shape == (0,)


@pytest.mark.parametrize(
    ("x", "options", "error", "words"),
    [
        (torch.ones(3, dtype=torch.int64), {}, TypeError, "torch.int64"),
        (torch.ones(3, dtype=torch.complex64), {}, TypeError, "view_as_real"),
        (torch.ones(3), {"needs": ("mean",)}, ValueError, "'mean'"),
        (torch.ones(3), {"needs": ("exponents",), "dim": 0}, ValueError, "whole tensor"),
        (torch.ones(3), {"dim": 1}, IndexError, "dimension 1"),
        (torch.ones(3, 3), {"dim": (0, -2)}, ValueError, "twice"),
    ],
)
def test_what_cannot_be_is_said(
    x: torch.Tensor, options: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        tensor_statistics(x, **options)  # type: ignore[arg-type]
