"""No order of additions, and no sum, mean or inner product of torch, exceeds the deterministic bounds."""

import math
import random
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from numguard.errors import UsageError
from numguard.numerics import (
    DATA_KINDS,
    exact_dot,
    exact_sum,
    format_of,
    ill_conditioned_dot,
    ill_conditioned_sum,
    num_stored_partials,
    reduction_layout,
    summation_height,
    unit_roundoff,
)
from numguard.numerics.error_bounds.judgement import judge
from numguard.numerics.error_bounds.summation_bounds import (
    dot_bound,
    growth_factor,
    mean_bound,
    norm_bound,
    sum_bound,
)

ACCUMULATORS = [torch.float32, torch.bfloat16, torch.float16]
DTYPES = [torch.float64, *ACCUMULATORS]
CONDITIONS = (1.0, 1e2, 1e5, 1e10, 1e16, 1e22, 1e30)
# A bound is formed in float64 from totals rounded to float64: a dozen roundings beside exact arithmetic.
ROUNDED_BOUND = 1 + Fraction(12, 2**53)

Tree = Callable[[list[Tensor], random.Random], tuple[Tensor, int]]


def sequential(columns: list[Tensor], _: random.Random) -> tuple[Tensor, int]:
    total = columns[0]
    for column in columns[1:]:
        total = total + column
    return total, len(columns) - 1


def pairwise(columns: list[Tensor], _: random.Random) -> tuple[Tensor, int]:
    height = 0
    while len(columns) > 1:
        odd = columns[-1:] if len(columns) % 2 else []
        columns = [a + b for a, b in zip(columns[::2], columns[1::2], strict=False)] + odd
        height += 1
    return columns[0], height


def blocked(columns: list[Tensor], generator: random.Random) -> tuple[Tensor, int]:
    size = generator.randint(2, 24)
    partial = [sequential(columns[start : start + size], generator)[0] for start in range(0, len(columns), size)]
    total, height = sequential(partial, generator)
    return total, height + min(size, len(columns)) - 1


def random_tree(columns: list[Tensor], generator: random.Random) -> tuple[Tensor, int]:
    forest = [(column, 0) for column in columns]
    while len(forest) > 1:
        left = forest.pop(generator.randrange(len(forest)))
        right = forest.pop(generator.randrange(len(forest)))
        forest.append((left[0] + right[0], max(left[1], right[1]) + 1))
    return forest[0]


def shuffled_chain(columns: list[Tensor], generator: random.Random) -> tuple[Tensor, int]:
    columns = columns[:]
    generator.shuffle(columns)
    return sequential(columns, generator)


TREES: dict[str, Tree] = {
    function.__name__: function for function in (sequential, pairwise, blocked, random_tree, shuffled_chain)
}


def rows_of_every_kind(num_terms: int, dtype: torch.dtype, seed: int) -> list[Tensor]:
    rows = [generate(num_terms, dtype=dtype, seed=seed) for generate in DATA_KINDS.values()]
    for condition in CONDITIONS:
        try:
            rows.append(ill_conditioned_sum(num_terms, condition, dtype=dtype, seed=seed))
        except UsageError:  # float16 has no range for the largest condition numbers
            assert dtype == torch.float16
            assert condition > 1e6
    return rows


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("dtype", ACCUMULATORS, ids=str)
@settings(max_examples=8)  # each with fifteen kinds of data
@given(num_terms=st.integers(60, 200), seed=st.integers(0, 10**6))
def test_no_tree_exceeds_the_bound(tree: str, dtype: torch.dtype, num_terms: int, seed: int) -> None:
    rows = rows_of_every_kind(num_terms, dtype, seed)
    data = torch.stack(rows)
    # Adding two 16-bit tensors rounds the exact sum once to 16 bits (float32 in between is harmless), so every addition
    # here happens in dtype.
    total, height = TREES[tree](list(data.unbind(1)), random.Random(seed))
    assert total.dtype == dtype
    unit = unit_roundoff(dtype)
    for row, computed in zip(rows, total.double().tolist(), strict=True):
        values = [Fraction(value) for value in row.double().tolist()]
        error = abs(Fraction(computed) - sum(values, Fraction(0)))
        mass = sum(map(abs, values), Fraction(0))
        for terms in (None, num_terms):
            bound = sum_bound(float(mass), height, unit, num_terms=terms)
            assert error <= Fraction(bound) * ROUNDED_BOUND


def test_the_bound_is_attained_to_within_a_factor_of_two() -> None:
    # 1, then addends of just over half the gap at one, each of which rounds up by almost u: close to (n - 1) u in all.
    unit, num_terms = 2.0**-24, 100
    x = torch.full((num_terms,), unit * (1 + 2.0**-20))
    x[0] = 1.0
    total, height = sequential(list(x.unbind()), random.Random(0))
    error = abs(total.double() - exact_sum(x)).item()
    assert error > 0.5 * sum_bound(x.double().abs().sum().item(), height, unit)


LAYOUTS: dict[str, Callable[[Tensor], tuple[Tensor, int | tuple[int, ...]]]] = {
    "inner": lambda rows: (rows, 1),
    "outer": lambda rows: (rows.T.contiguous(), 0),
    "strided": lambda rows: (torch.stack([rows, rows], dim=2)[:, :, 0], 1),
    "two dimensions": lambda rows: (rows.reshape(rows.shape[0], 4, -1).transpose(0, 1).contiguous(), (0, 2)),
    "reversed": lambda rows: (rows.reshape(rows.shape[0], 4, -1).transpose(1, 2), (1, 2)),
}


def heights(x: Tensor, dims: int | tuple[int, ...], num_threads: int = 1) -> tuple[int, int, int]:
    layout = reduction_layout(x.shape, x.stride(), (dims,) if isinstance(dims, int) else dims)
    height = summation_height(
        layout.num_terms,
        dtype=x.dtype,
        num_threads=num_threads,
        adjacent=layout.adjacent,
        num_chunks=layout.num_chunks,
    )
    stored = num_stored_partials(layout.num_terms, dtype=x.dtype, num_threads=num_threads, num_chunks=layout.num_chunks)
    return layout.num_terms, height, stored


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=6)  # each with fifteen kinds of data
@given(num_terms=st.integers(16, 150).map(lambda quarter: 4 * quarter), seed=st.integers(0, 10**6))
def test_torch_sum_and_mean_meet_their_bounds(layout: str, dtype: torch.dtype, num_terms: int, seed: int) -> None:
    rows = torch.stack(rows_of_every_kind(num_terms, dtype, seed))
    x, dims = LAYOUTS[layout](rows)
    num_terms, height, stored = heights(x, dims)
    accumulator = 2.0**-53 if dtype == torch.float64 else 2.0**-24
    storage = unit_roundoff(dtype) if format_of(dtype).num_bits == 16 else 0.0
    total, mass = exact_sum(rows, 1), exact_sum(rows.abs(), 1)
    bound = sum_bound(mass, height, accumulator, num_stored_partials=stored, storage_roundoff=storage)
    assert (judge(x.sum(dims), total, bound).ratio <= 1).all()
    bound = mean_bound(
        mass, total, num_terms, height, accumulator, num_stored_partials=stored, storage_roundoff=storage
    )
    if (mass < torch.finfo(dtype).max).all():  # ATen's mean forms the sum in the dtype first
        assert (judge(x.mean(dims), total / num_terms, bound, shadow_error=2.0**-52 * total.abs()).ratio <= 1).all()


@pytest.mark.parametrize("dtype", ACCUMULATORS, ids=str)
@pytest.mark.parametrize("kind", ["constant", "ramp", "lognormal", "ones", "outliers", "cancelling"])
def test_long_sums_meet_their_bounds_with_two_threads(two_threads: None, dtype: torch.dtype, kind: str) -> None:
    for num_terms in (32768, 100_003, 1_000_000):
        x = DATA_KINDS[kind](num_terms, dtype=torch.float32, seed=num_terms)
        x = (x / max(1.0, x.double().abs().sum().item() / 30000.0)).to(dtype)  # keeps float16 in its range
        _, height, stored = heights(x, 0, num_threads=2)
        storage = unit_roundoff(dtype) if dtype != torch.float32 else 0.0
        mass = math.fsum(x.double().abs().tolist())
        bound = sum_bound(mass, height, 2.0**-24, num_stored_partials=stored, storage_roundoff=storage)
        assert judge(x.sum(), exact_sum(x), torch.tensor(bound, dtype=torch.float64)).ratio <= 1


def test_a_16_bit_sum_over_threads_rounds_its_partial_sums(two_threads: None) -> None:
    """Without the stored partial sums the bound would call this correct sum wrong."""
    worst = {0: 0.0, 1: 0.0}
    for seed in range(60):
        x = (torch.rand(40_000 + 37 * seed, generator=torch.Generator().manual_seed(seed)) + 0.5).bfloat16()
        total = x.double().sum()
        _, height, stored = heights(x, 0, num_threads=2)
        assert stored == 1
        for count in worst:
            bound = sum_bound(total, height, 2.0**-24, num_stored_partials=count, storage_roundoff=2.0**-8)
            worst[count] = max(worst[count], judge(x.sum(), total, bound).ratio.item())
    assert worst[1] <= 1 < worst[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@settings(max_examples=60)
@given(condition=st.sampled_from([4.0, 1e5, 1e12, 1e20, 1e30]), n=st.integers(64, 160), seed=st.integers(0, 10**6))
def test_inner_products_meet_their_bound(dtype: torch.dtype, condition: float, n: int, seed: int) -> None:
    x, y = ill_conditioned_dot(n, condition, dtype=dtype, seed=seed)
    value, mass = exact_dot(x, y), exact_dot(x.abs(), y.abs())
    unit, tiny = unit_roundoff(dtype), torch.finfo(dtype).smallest_normal
    bound = dot_bound(mass, n, unit, num_terms=n, smallest_normal=tiny)
    for computed in (
        torch.dot(x, y),
        (x * y).sum(),
        (x.unsqueeze(0) @ y.unsqueeze(1))[0, 0],
        torch.einsum("i,i", x, y),
    ):
        assert judge(computed, value, bound).ratio <= 1


@pytest.mark.parametrize("dtype", ACCUMULATORS, ids=str)
@settings(max_examples=60)
@given(kind=st.sampled_from(sorted(DATA_KINDS)), n=st.integers(1, 3000), seed=st.integers(0, 10**6))
def test_norms_meet_their_bound(dtype: torch.dtype, kind: str, n: int, seed: int) -> None:
    x = DATA_KINDS[kind](n, dtype=dtype, seed=seed)
    square = exact_dot(x, x)
    storage = unit_roundoff(dtype) if dtype != torch.float32 else 0.0
    bound = norm_bound(square.sqrt(), n - 1, 2.0**-24, num_terms=n, storage_roundoff=storage)
    assert judge(torch.linalg.vector_norm(x), square.sqrt(), bound).ratio <= 1


def test_growth_factors() -> None:
    unit = 2.0**-24
    assert growth_factor(100, unit) == 100 * unit
    assert growth_factor(4096, unit) == 4096 * unit  # the limit u**-0.5
    assert growth_factor(5000, unit) > 5000 * unit
    assert growth_factor(10**7, unit) == pytest.approx(math.expm1(10**7 * math.log1p(unit)))
    assert growth_factor(10**7, unit, num_terms=10**7 + 1) == 10**7 * unit  # any order needs no limit
    assert growth_factor(50, unit, num_terms=11) == 10 * unit
    assert growth_factor(0, unit) == 0
    tensors = growth_factor(torch.tensor([100, 5000]), unit, torch.tensor([1000, 10**6]))
    assert isinstance(tensors, Tensor)
    assert tensors.tolist() == pytest.approx([100 * unit, math.expm1(5000 * math.log1p(unit))], rel=1e-14)
    assert growth_factor(10**9, 2.0**-8) < math.inf


def test_floats_and_tensors_give_the_same_bounds() -> None:
    unit = 2.0**-24

    def tensor(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64)

    pairs = [
        (sum_bound(3.0, 10, unit), sum_bound(tensor(3.0), tensor(10), unit)),
        (mean_bound(3.0, -2.0, 7, 6, unit), mean_bound(tensor(3.0), tensor(-2.0), tensor(7), tensor(6), unit)),
        (dot_bound(3.0, 10, unit, num_terms=10), dot_bound(tensor(3.0), tensor(10), unit, num_terms=tensor(10))),
        (norm_bound(3.0, 9, unit, num_terms=10), norm_bound(tensor(3.0), tensor(9), unit, num_terms=tensor(10))),
    ]
    for number, same in pairs:
        assert isinstance(number, float)
        assert isinstance(same, Tensor)
        assert same.dtype == torch.float64
        assert number == same.item() > 0
