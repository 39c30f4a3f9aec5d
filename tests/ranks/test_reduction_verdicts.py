"""Bounds on sums over ranks: no order of additions leaves them, and what does is found."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF
from numguard.ranks.reduction_records import NUM_BLOCKS, NUM_SAMPLES, Plan, plan_of, record_of
from numguard.ranks.reduction_verdicts import (
    classes_of,
    exact_again,
    growth_over_ranks,
    judge_blocks,
    judge_samples,
    who_differs,
)
from numguard.shadow.verdict import Verdict, read

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _inputs(num_ranks: int, size: int, dtype: torch.dtype, seed: int, spread: float = 3.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(2, size, generator=generator, dtype=torch.float64) for _ in range(num_ranks)]
    return [(x[0] * torch.exp(spread * x[1].clamp(max=2.0))).clamp(-1e3, 1e3).to(dtype) for x in drawn]


def _summed(terms: list[Tensor], seed: int) -> Tensor:
    """Add tensors in a random order along a random tree, rounding every partial sum to their dtype."""
    terms = list(terms)
    generator = torch.Generator().manual_seed(seed)
    while len(terms) > 1:
        first, second = torch.randperm(len(terms), generator=generator)[:2].tolist()
        total = terms[first] + terms[second]
        terms = [x for place, x in enumerate(terms) if place not in (first, second)] + [total]
    return terms[0].clone()


def _verdicts(result: Tensor, inputs: list[Tensor], operation: str, call: int = 1) -> list[Verdict]:
    plan = plan_of(inputs[0], operation, call)
    records = torch.stack([record_of(x, plan) for x in inputs])
    return [read(judge(result, records, plan).verdict) for judge in (judge_samples, judge_blocks)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    num_ranks=st.integers(1, 12),
    size=st.sampled_from([1, 2, 63, 64, 65, 130, 5000]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 10**6),
)
def test_any_order_of_additions_is_within_the_bound(num_ranks: int, size: int, dtype: torch.dtype, seed: int) -> None:
    inputs = _inputs(num_ranks, size, dtype, seed)
    total = _summed(inputs, seed)
    for verdict in _verdicts(total, inputs, "SUM", seed):
        assert verdict.worst_ratio <= 1.0
        assert verdict.num_indeterminate == 0
    scaled = _summed([x * torch.tensor(1.0 / num_ranks, dtype=dtype) for x in inputs], seed)
    for mean in (total / num_ranks, scaled):
        assert all(verdict.worst_ratio <= 1.0 for verdict in _verdicts(mean, inputs, "AVG", seed))


def test_the_bound_is_nearly_reached() -> None:
    # 256 + 1 is 256 in bfloat16: seven terms of eight are lost, and the bound is 7 u (256 + 7) and half an ulp of 263.
    inputs = [torch.full((100,), 256.0 if rank == 0 else 1.0).bfloat16() for rank in range(8)]
    lost = inputs[0].clone()
    for x in inputs[1:]:
        lost += x
    assert lost.unique().tolist() == [256.0]
    by_element, by_block = _verdicts(lost, inputs, "SUM")
    assert 0.8 < by_element.worst_ratio <= 1.0
    assert 0.8 < by_block.worst_ratio <= 1.0
    assert growth_over_ranks("SUM", 8, torch.bfloat16) == 7 * UNIT_ROUNDOFF[torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("operation", ["SUM", "AVG", "MIN", "MAX"])
def test_a_lost_rank_is_outside(operation: str, dtype: torch.dtype) -> None:
    inputs = _inputs(4, 3000, dtype, 5, spread=0.5)
    rest = torch.stack(inputs[1:]).double()
    lost = {"SUM": rest.sum(0), "AVG": rest.sum(0) / 4, "MIN": rest.amin(0), "MAX": rest.amax(0)}[operation].to(dtype)
    by_element, by_block = _verdicts(lost, inputs, operation)
    assert by_element.wrong
    assert by_block.wrong


def test_one_wrong_element_is_found_in_its_block() -> None:
    inputs = _inputs(3, 50_000, torch.float32, 2)
    total = _summed(inputs, 0)
    total[31_234] += 1.0
    _, by_block = _verdicts(total, inputs, "SUM")
    assert by_block.num_wrong == 1
    assert by_block.worst_index == 31_234 // plan_of(inputs[0], "SUM", 1).width


def test_sums_that_may_overflow_and_nan_of_the_inputs_are_not_judged() -> None:
    large = torch.finfo(torch.float16).max
    inputs = [torch.tensor([large, 1.0, float("nan"), float("inf")]).half() for _ in range(2)]
    total = torch.tensor([float("inf"), 2.0, float("nan"), float("inf")]).half()
    by_element, by_block = _verdicts(total, inputs, "SUM")
    assert by_element.num_indeterminate == 3
    assert not by_element.wrong
    assert not by_block.wrong
    total[1] = float("nan")
    assert all(verdict.num_wrong == 1 for verdict in _verdicts(total, inputs, "SUM"))


def test_an_infinite_extremum_is_exact() -> None:
    inputs = [torch.tensor([1.0, float("inf")]), torch.tensor([2.0, 3.0])]
    assert not any(v.wrong for v in _verdicts(torch.tensor([2.0, float("inf")]), inputs, "MAX"))
    assert all(v.wrong for v in _verdicts(torch.tensor([2.0, 3.0]), inputs, "MAX"))


def test_layout_does_not_change_the_notes() -> None:
    x = torch.randn(4, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    plan = plan_of(x, "SUM", 3)
    strided = torch.zeros(4, 3, 8, 18)[..., ::2].copy_(x)
    for same in (x.to(memory_format=torch.channels_last), strided):
        assert torch.equal(record_of(same, plan), record_of(x, plan))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(size=st.integers(0, 10**7))
def test_a_plan_covers_every_element_with_few_blocks(size: int) -> None:
    x = torch.empty(1).expand(size)
    plan = plan_of(x, "SUM", 1)
    assert plan.num_blocks <= NUM_BLOCKS
    assert plan.num_blocks * plan.width >= size
    assert len(plan.positions) == min(size, NUM_SAMPLES)
    assert plan.height >= math.ceil(math.log2(plan.width)) if plan.width > 1 else plan.height == 0


def test_positions_are_a_function_of_the_call() -> None:
    def positions(call: int) -> tuple[int, ...]:
        plan: Plan = plan_of(torch.empty(10_000), "SUM", call)
        return plan.positions

    assert positions(1) == positions(1) != positions(2)


def test_minority_is_named_and_a_tie_is_not_decided() -> None:
    assert classes_of(torch.tensor([5, 7, 5, 9])).tolist() == [0.0, 1.0, 0.0, 3.0]
    assert who_differs([0.0, 1.0, 0.0], [4, 5, 6]) == "rank 5 differs from ranks 4, 6"
    assert who_differs([0.0, 1.0, 0.0, 3.0], [0, 1, 2, 3]) == "ranks 1, 3 differ from ranks 0, 2"
    assert who_differs([0.0, 1.0], [2, 3]).startswith("ranks 2, 3 differ, and their number does not tell")


def test_the_second_route_rounds_once() -> None:
    assert exact_again([1e16, 1.0, -1e16], "SUM") == 1.0
    assert exact_again([3.0, 1.0], "AVG") == 2.0
    assert (exact_again([3.0, 1.0], "MIN"), exact_again([3.0, 1.0], "MAX")) == (1.0, 3.0)
