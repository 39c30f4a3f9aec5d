"""How a very call adds: in 16 bits, or in more, so that the strict bound holds for it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from numguard.checks import REGISTRY
from numguard.checks.observed_slots import adds_widely
from numguard.inquiry import Inquiry
from numguard.shadow.call import OpCall, bind

SIXTEEN = (torch.bfloat16, torch.float16)
aten = torch.ops.aten


def call_of(overload: Any, *args: Any, **kwargs: Any) -> OpCall:
    return OpCall(overload=overload, arguments=bind(overload, args, kwargs))


def observed(total: Any, dtype: torch.dtype, count: int = 40) -> float:
    """Return what a sum of ones comes to beside one large number: exact in wide sums alone."""
    x = torch.ones(count, dtype=dtype)
    x[0], x[-1] = 2048.0, -2048.0
    return float(total(x))


@pytest.mark.parametrize("dtype", SIXTEEN, ids=str)
def test_what_is_observed_is_what_the_operator_does(dtype: torch.dtype) -> None:
    index = torch.zeros(40, dtype=torch.int64)
    zero, source = torch.zeros(1, dtype=dtype), torch.zeros(40, dtype=dtype)
    table = source.unsqueeze(1)
    for call, total in (
        (call_of(aten.index_add.default, zero, 0, index, source), lambda x: zero.index_add(0, index, x)),
        (call_of(aten.scatter_add.default, zero, 0, index, source), lambda x: zero.scatter_add(0, index, x)),
        (call_of(aten.index_put.default, zero, [index], source, True), lambda x: zero.index_put((index,), x, True)),
        (
            call_of(aten.embedding_dense_backward.default, table, index, 1, -1, False),
            lambda x: aten.embedding_dense_backward(x.unsqueeze(1), index, 1, -1, False),
        ),
    ):
        assert adds_widely(call) is (observed(total, dtype) == 38.0), call.op


def test_the_callers_tensors_are_left_alone() -> None:
    own, source = torch.randn(3, 4).bfloat16(), torch.randn(50, 4).bfloat16()
    index = torch.arange(50) % 3
    before = own.clone(), source.clone(), index.clone()
    assert adds_widely(call_of(aten.index_add_.default, own, 0, index, source)) is not None
    assert all(torch.equal(old, new) for old, new in zip(before, (own, source, index), strict=True))


def test_what_cannot_be_told_is_not_told() -> None:
    own, source = torch.zeros(3, dtype=torch.bfloat16), torch.ones(9, dtype=torch.bfloat16)
    index = torch.arange(9) % 3
    assert adds_widely(call_of(aten.index_add.default, own, 0, index, source, alpha=0.5)) is None
    assert adds_widely(call_of(aten.index_add.default, own.float(), 0, index, source.float())) is None
    assert adds_widely(call_of(aten.index_add.default, own, 0, index, source[:1].expand(9))) is None
    assert adds_widely(call_of(aten.index_add.default, own, 0, index[:6], source[:6])) is None
    assert adds_widely(call_of(aten.scatter_reduce.two, own, 0, index, source, "amax")) is None
    assert adds_widely(call_of(aten.index_put.default, own, [index], source[:1], True)) is None


def test_only_checks_with_a_bound_for_any_order_observe() -> None:
    watching = {name for name, check in REGISTRY.items() if check.adds_widely is not None}
    assert watching == {"embedding_backward", "index_add", "scatter_add", "index_put"}


def test_a_finding_says_how_its_call_adds() -> None:
    index, source = torch.zeros(3000, dtype=torch.int64), torch.ones(3000, dtype=torch.bfloat16)
    answer = Inquiry().ask(lambda: torch.zeros(1, dtype=torch.bfloat16).index_add(0, index, source), (), {})
    (finding,) = answer.findings
    assert finding.kind == "inaccurate_accumulation"
    assert "(this call adds in the precision of its result)" in finding.message


_FAULTY = """
import torch
from numguard.inquiry import Inquiry

library = torch.library.Library("aten", "IMPL")

def scatter_add(own, dim, index, source):
    kept = index.numel() * 19 // 20 if {fault} else index.numel()
    total = own.double().numpy().copy()
    for place, value in zip(index[:kept].tolist(), source[:kept].tolist()):
        total[place] += value
    return torch.from_numpy(total).to(own.dtype)

library.impl("scatter_add", scatter_add, "CPU")
index = torch.arange(2000) % 4
source = torch.rand(2000, generator=torch.Generator().manual_seed(1)).bfloat16()
answer = Inquiry().ask(lambda: torch.zeros(4, dtype=torch.bfloat16).scatter_add(0, index, source), (), {{}})
print([(finding.kind, finding.severity, "without an explanation" in finding.message) for finding in answer.findings])
"""


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("False", "[]"),
        ("True", "[('inaccurate_accumulation', 'warning', True)]"),
        ("bool(source.float().mean() > 0.2)", "[('inaccurate_accumulation', 'warning', True)]"),
    ],
    ids=["none", "always", "on some data"],
)
def test_a_block_lost_from_sums_in_16_bits_is_unexplained_where_the_call_adds_widely(fault: str, expected: str) -> None:
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, str(Path(root) / "kernels"), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FAULTY.format(fault=fault)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
        check=False,
    )
    assert ran.stdout.strip() == expected, ran.stderr
