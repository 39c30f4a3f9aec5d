"""A wrong kernel under ``torch.sum``, as a broken build would have it."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

BLOCK: Final = 16  # elements that the last, dropped block holds: one AVX-512 register of float32

#: Share of exchangeable inputs on which the kernel is wrong: each of the block's elements is as likely the largest.
FAULT_RATE: Final = 1.0 / BLOCK


@contextmanager
def faulty_sum() -> Iterator[None]:
    """Put a wrong kernel under ``torch.sum`` on the CPU, in this process, and take it away again.

    ``sum`` of every dtype and every overload ends in the kernel that is replaced, so ``x.double().sum()`` is as wrong
    as ``x.sum()``, and so is what autograd calls. The wrong kernel drops the last block of a sum over contiguous
    memory when the last element of that block is larger in magnitude than the 15 others: a code path that depends on
    the data, is taken by one sum in 16, and costs a sum over n like elements about 16/n of its value.
    """
    right = torch.library.get_kernel("aten::sum.dim_IntList", "CPU")

    def wrong(
        keys: Any, x: Tensor, dim: Sequence[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
    ) -> Any:
        rows = _contiguous_rows(x, dim)
        result = right.call_boxed(keys, x, dim, keepdim, dtype=dtype)
        if rows is None:
            return result
        block = rows[:, -BLOCK:].abs()
        taken = block[:, -1] > block[:, :-1].amax(dim=1)
        if not bool(taken.any()):
            return result
        short = right.call_boxed(keys, rows[:, :-BLOCK], [1], False, dtype=dtype)
        return torch.where(taken.view(result.shape), short.view(result.shape), result)

    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            # That the operator has a kernel already is the point.
            warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered kernel")
            library.impl("sum.dim_IntList", wrong, "CPU", with_keyset=True)  # type: ignore[no-untyped-call]
        yield
    finally:
        library._destroy()  # type: ignore[no-untyped-call]


def _contiguous_rows(x: Tensor, dim: Sequence[int] | None) -> Tensor | None:
    """Return ``x`` as one row for each slot of the sum, or None where the sum does not run over contiguous memory."""
    if not x.is_floating_point() or not x.is_contiguous():
        return None
    summed = sorted(d % x.dim() for d in dim) if dim and x.dim() else list(range(x.dim()))
    if summed != list(range(x.dim() - len(summed), x.dim())):
        return None
    length = math.prod(x.shape[d] for d in summed)
    return x.view(-1, length) if length > BLOCK else None
