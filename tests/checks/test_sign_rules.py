"""Invariants that need no precision: broken by no rounding, and broken by faults that no bound can see."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from numguard.checks import checks_for
from numguard.checks.check import Probe
from numguard.checks.examination import examine
from numguard.checks.sign_rules import not_negative, of_one_sign
from numguard.shadow.call import OpCall, bind, overload_name
from numguard.shadow.comparison import Comparison
from numguard.shadow.routes import NUMPY
from numguard.shadow.verdict import Verdict, evaluate

aten = torch.ops.aten


def wrong(comparison: Comparison) -> bool:
    return Verdict(*evaluate(comparison).tolist()).wrong


def broken(overload: Any, args: tuple[Any, ...], output: Any, **kwargs: Any) -> set[str]:
    """Return the outputs that are wrong where an operator has returned ``output``."""
    call = OpCall(overload=overload, arguments=bind(overload, args, kwargs), output=output)
    (check,) = checks_for(overload_name(overload))
    return {c.output for c, v in examine(check, call, None, Probe(arithmetic=NUMPY)) if v.wrong}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    count=st.integers(1, 900),
    spread=st.floats(0.0, 5.0),
    sign=st.sampled_from([1.0, -1.0]),
    seed=st.integers(0, 2**31),
)
def test_no_order_and_no_precision_breaks_the_rule_of_one_sign(
    dtype: torch.dtype, count: int, spread: float, sign: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (sign * torch.exp(spread * torch.randn(count, generator=generator))).clamp(-60.0, 60.0).to(dtype)
    total, mass = x.double().sum(), x.double().abs().sum()
    one_by_one = torch.zeros((), dtype=dtype)
    for value in x:
        one_by_one = one_by_one + value
    by_halves = x
    while len(by_halves) > 1:
        half = len(by_halves) // 2
        by_halves = torch.cat((by_halves[:half] + by_halves[half : 2 * half], by_halves[2 * half :]))
    computed = torch.stack((one_by_one, by_halves[0], total.to(dtype)))
    rule = of_one_sign("result", computed, total.expand(3), mass.expand(3), torch.full((3,), float(count)).double())
    assert not wrong(rule)


def test_the_rule_of_one_sign_speaks_of_sums_of_one_sign_alone() -> None:
    total, mass = torch.tensor([6.0, 2.0, 0.0, 6e4], dtype=torch.float64), torch.tensor([6.0, 4.0, 0.0, 6e4]).double()
    counts = torch.full((4,), 3.0, dtype=torch.float64)
    for computed, expected in (
        ([2.0, -9.0, 0.0, 0.0], False),  # the mean is reached; two signs; nothing; an overflow is possible
        ([1.0, 0.0, 0.0, 0.0], True),
        ([-6.0, 0.0, 0.0, 0.0], True),
        ([torch.nan, 0.0, 0.0, 0.0], True),
    ):
        rule = of_one_sign("result", torch.tensor(computed, dtype=torch.float16), total, mass, counts)
        assert wrong(rule) is expected, computed


def test_squares_are_not_negative() -> None:
    assert not wrong(not_negative("result", torch.tensor([0.0, -0.0, 3.0, torch.nan, torch.inf])))
    assert wrong(not_negative("result", torch.tensor([0.0, -1e-30])))


def test_a_negative_variance_is_wrong_where_its_bound_allows_it() -> None:
    x = torch.full((2, 50), 30000.0, dtype=torch.bfloat16)
    right = torch.var(x, dim=1)
    assert broken(aten.var.correction, (x, [1]), right) == set()
    assert broken(aten.var.correction, (x, [1]), right - 1e-9) == {"result not negative"}


def test_a_negative_distance_is_wrong_where_its_bound_allows_it() -> None:
    first = torch.randn(1, 30, 4, generator=torch.Generator().manual_seed(1)) + 1000.0
    right = aten._euclidean_dist(first, first)
    assert broken(aten._euclidean_dist.default, (first, first), right) == set()
    assert broken(aten._euclidean_dist.default, (first, first), right - 1e-3) == {"result not negative"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_segment_that_was_never_added_is_wrong_in_16_bits_too(dtype: torch.dtype) -> None:
    x, lengths = torch.ones(9000, dtype=dtype), torch.tensor([9000])
    right = torch.segment_reduce(x, "sum", lengths=lengths)
    assert broken(aten.segment_reduce.default, (x, "sum"), right, lengths=lengths) == set()
    lost = torch.zeros_like(right)
    assert "result of one sign" in broken(aten.segment_reduce.default, (x, "sum"), lost, lengths=lengths)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_segment_without_its_last_rows_is_seen_by_the_replay(dtype: torch.dtype) -> None:
    x = torch.randn(3000, generator=torch.Generator().manual_seed(2)).to(dtype)
    lengths = torch.tensor([3000])
    right = torch.segment_reduce(x, "sum", lengths=lengths)
    shorter = torch.segment_reduce(x[:-9], "sum", lengths=lengths - 9)
    assert broken(aten.segment_reduce.default, (x, "sum"), right, lengths=lengths) == set()
    assert broken(aten.segment_reduce.default, (x, "sum"), shorter, lengths=lengths) == {"replay"}
