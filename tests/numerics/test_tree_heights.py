"""The heights are compared with the trees that torch reveals under swamping.

Among ones, a large M at leaf i and -M at leaf j swallow every one that is added to either before they meet. The sum is
then n minus the leaves below the node where i and j meet, and the number of different such counts over all j is the
depth of leaf i: the additions that it passes through (Xie, Cheng et al., FPRev, arXiv 2411.00442).
"""

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from numguard.errors import UsageError
from numguard.numerics import (
    contraction_height,
    height_model,
    num_stored_partials,
    pairwise_height,
    reduction_layout,
    row_reduction_height,
    summation_height,
)

M = 2.0**100
LENGTHS = [2, 3, 5, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 128, 255, 257, 500, 511, 1000, 1025, 2047]
# Columns of one outer sum go through one code path only if they fill the same group of registers.
LAYOUTS = {"inner": 0, "strided": 0, "outer, four registers": 64, "outer, one register": 8, "outer, scalar": 3}


def swamped_sums(layout: str, first: int, others: torch.Tensor, n: int, dtype: torch.dtype) -> torch.Tensor:
    if not LAYOUTS[layout]:
        spread = 2 if layout == "strided" else 1
        x = torch.ones(len(others), n * spread, dtype=dtype)[:, ::spread]
        x[:, first] = M
        x[torch.arange(len(others)), others] = -M
        return x.sum(1)
    sums = []
    for group in others.split(LAYOUTS[layout]):
        x = torch.ones(n, LAYOUTS[layout], dtype=dtype)
        x[first] = M
        x[group, torch.arange(len(group))] = -M
        sums.append(x.sum(0)[: len(group)])
    return torch.cat(sums)


def depth(layout: str, first: int, n: int, dtype: torch.dtype) -> int:
    others = torch.arange(n)
    return len(swamped_sums(layout, first, others[others != first], n, dtype).unique())


def leaves(n: int) -> set[int]:
    generator = torch.Generator().manual_seed(n)
    return {0, n // 3, n // 2, n - 1, *torch.randint(0, n, (3,), generator=generator).tolist()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_leaf_of_torch_sum_is_deeper_than_its_height(one_thread: None, layout: str, dtype: torch.dtype) -> None:
    lengths = LENGTHS if not LAYOUTS[layout] else LENGTHS[::3]
    for n in lengths:
        found = max(depth(layout, leaf, n, dtype) for leaf in leaves(n))
        assert found <= summation_height(n, dtype=dtype, adjacent=layout == "inner"), n
        assert found <= summation_height(n, dtype=dtype), n


def test_the_height_is_not_far_above_the_deepest_leaf(one_thread: None) -> None:
    for n in (500, 1000, 2047):
        found = max(depth("inner", leaf, n, torch.float32) for leaf in leaves(n))
        assert summation_height(n, dtype=torch.float32, adjacent=True) <= 1.6 * found


def distant_partners(n: int, first: int) -> Iterator[int]:
    """Leaves that meet ``first`` at every level: near ones, and ones at the distances of the cascade's steps."""
    steps = [2**power for power in range(n.bit_length())]
    for step, multiple in itertools.product(steps, (-16, -9, -4, -2, -1, 1, 2, 3, 5, 8, 13, 16)):
        if 0 <= first + step * multiple < n:
            yield first + step * multiple
    yield from range(n - 20, n)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("spread", [1, 2], ids=["adjacent", "strided"])
def test_long_sums_show_no_deeper_leaf(num_threads: int, spread: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        for n in (32_769, 600_001):
            x = torch.ones(n * spread)[::spread]
            first = n // 2 + 5
            x[first] = M
            counts = set()
            for other in set(distant_partners(n, first)) - {first}:
                x[other] = -M
                counts.add(x.sum().item())
                x[other] = 1.0
            height = summation_height(n, dtype=torch.float32, num_threads=num_threads, adjacent=spread == 1)
            assert 20 < len(counts) <= height
    finally:
        torch.set_num_threads(before)


@given(n=st.integers(0, 10**9), threads=st.integers(1, 128), chunks=st.integers(1, 1000))
def test_a_height_is_never_negative_nor_above_any_order(n: int, threads: int, chunks: int) -> None:
    for dtype, device in itertools.product((torch.float32, torch.bfloat16, torch.float64), ("cpu", "cuda", "mps")):
        for adjacent in (True, False):
            height = summation_height(
                n, dtype=dtype, device_type=device, num_threads=threads, adjacent=adjacent, num_chunks=chunks
            )
            assert 0 <= height <= max(0, n - 1)
    general = summation_height(n, dtype=torch.float32, num_threads=threads)
    assert summation_height(n, dtype=torch.float32, num_threads=threads, adjacent=True) <= general
    assert summation_height(n, dtype=torch.float32, num_threads=1) <= general
    assert summation_height(n, dtype=torch.float32, contiguous=False) == max(0, n - 1)


@given(n=st.integers(32768, 10**8), share=st.floats(0.01, 1.0), adjacent=st.booleans())
def test_with_threads_the_height_covers_every_share_of_the_sum(n: int, share: float, adjacent: bool) -> None:
    part = max(1, int(n * share))
    whole = summation_height(n, dtype=torch.float32, num_threads=2, adjacent=adjacent)
    assert summation_height(part, dtype=torch.float32, adjacent=adjacent) <= whole


def test_heights_of_known_size() -> None:
    assert summation_height(10**6, dtype=torch.float32, adjacent=True) < 100
    assert summation_height(10**7, dtype=torch.float32, adjacent=True) < 200
    assert summation_height(10**6, dtype=torch.float32, device_type="cuda", adjacent=True) == 10**6 // 128 + 1 + 32
    assert summation_height(10**6, dtype=torch.float32, device_type="mps") == 10**6 - 1
    assert [height_model(device) for device in ("cpu", "cuda", "mps")] == ["calibrated", "assumed", "proved"]
    assert [pairwise_height(n) for n in (0, 1, 2, 3, 4, 5, 1024, 1025)] == [0, 0, 1, 2, 2, 3, 10, 11]
    assert contraction_height(4096) == 4096
    assert contraction_height(4096, block=16) == 272
    assert contraction_height(3, block=16) == 3
    assert row_reduction_height(4096, block_size=1024) == 13
    assert row_reduction_height(5, block_size=1024) == 4


@pytest.mark.parametrize(
    ("x", "dims", "expected"),
    [
        (torch.empty(6, 8), (1,), (8, 1, True)),
        (torch.empty(6, 8), (0,), (6, 1, False)),
        (torch.empty(6, 8), (), (48, 1, True)),
        (torch.empty(6, 8), (-1, -2), (48, 1, True)),
        (torch.empty(6, 8).T, (0, 1), (48, 1, True)),
        (torch.empty(6, 8)[:, :5], (0, 1), (30, 6, True)),
        (torch.empty(6, 8)[:, ::2], (1,), (4, 1, False)),
        (torch.empty(6, 8)[:, ::2], (0, 1), (24, 1, False)),
        (torch.empty(4, 5, 6), (0, 2), (24, 4, True)),
        (torch.empty(4, 5, 6), (0, 1), (20, 1, False)),
        (torch.empty(4, 5, 6, 7).to(memory_format=torch.channels_last), (0, 2, 3), (168, 1, False)),
        (torch.empty(1).expand(7), (0,), (7, 1, False)),
        (torch.empty(6, 1).expand(6, 7), (0, 1), (42, 42, False)),
        (torch.empty(3, 1), (1,), (1, 1, True)),
        (torch.empty(()), (), (1, 1, True)),
        (torch.empty(0, 3), (0,), (0, 1, False)),
    ],
)
def test_layouts(x: torch.Tensor, dims: tuple[int, ...], expected: tuple[int, int, bool]) -> None:
    assert reduction_layout(x.shape, x.stride(), dims) == expected


def test_a_dimension_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match=r"dim 2 does not exist in shape \(3, 4\); use -2 to 1"):
        reduction_layout((3, 4), (4, 1), (2,))


def test_partial_sums_are_stored_only_where_runs_or_threads_meet_a_short_dtype() -> None:
    n = 100_000
    assert num_stored_partials(n, dtype=torch.bfloat16) == 0
    assert num_stored_partials(n, dtype=torch.bfloat16, num_threads=2) == 1
    assert num_stored_partials(1000, dtype=torch.bfloat16, num_threads=2) == 0
    assert num_stored_partials(1000, dtype=torch.bfloat16, num_chunks=4) == 4
    assert num_stored_partials(n, dtype=torch.float32, num_threads=2, num_chunks=4) == 0
    assert num_stored_partials(n, dtype=torch.bfloat16, num_threads=2, device_type="cuda") == 0


def test_runs_that_do_not_merge_are_added_one_by_one(one_thread: None) -> None:
    num_runs, run = 50, 8
    n = num_runs * run
    x = torch.ones(n - 1, num_runs, run + 1)[:, :, :run]
    x[:, 0, 0] = M
    others = torch.arange(1, n)
    x[torch.arange(n - 1), others // run, others % run] = -M
    layout = reduction_layout(x.shape, x.stride(), (1, 2))
    assert layout == (n, num_runs, True)
    found = len(x.sum((1, 2)).unique())
    height = summation_height(n, dtype=x.dtype, adjacent=True, num_chunks=num_runs)
    assert summation_height(run, dtype=x.dtype) + num_runs // 2 < found <= height
