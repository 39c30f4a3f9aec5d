"""Operands that share memory with what an operator writes."""

from typing import Any

import pytest
import torch

from numguard.checks.check import Probe
from numguard.checks.overwritten_operands import is_overwritten, keep_overwritten
from numguard.shadow.call import OpCall, bind
from numguard.shadow.routes import NUMPY

aten = torch.ops.aten
X = torch.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("overload", "args", "kwargs", "expected"),
    [
        (aten.cumsum.default, (X, 0), {}, False),
        (aten.cumsum_.default, (X, 0), {}, True),
        (aten.cumsum.out, (X, 0), {"out": torch.empty(2, 3)}, False),
        (aten.cumsum.out, (X, 0), {"out": X.t()}, True),
        (aten.sum.IntList_out, (X, [0]), {"out": X[1]}, True),
    ],
    ids=["new", "in place", "elsewhere", "the same memory in another order", "a row of the input"],
)
def test_an_operand_is_overwritten_where_its_memory_is_written(
    overload: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], expected: bool
) -> None:
    call = OpCall(overload=overload, arguments=bind(overload, args, kwargs))
    assert is_overwritten(call) is expected
    kept = keep_overwritten(call, Probe(arithmetic=NUMPY))
    assert (kept is not None) is expected
    if kept is not None:
        assert torch.equal(kept, X)
        assert kept.untyped_storage().data_ptr() != X.untyped_storage().data_ptr()
