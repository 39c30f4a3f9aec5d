"""Sums and means: silent on every correct call, awake for lost blocks, and as exact as they claim."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from numguard.checks import REGISTRY
from numguard.checks.check import Probe
from numguard.checks.examination import examine, perform
from numguard.checks.integer_totals import joined, limbs_of
from numguard.checks.reduced_rows import CHUNK, row_totals
from numguard.numerics.adversarial_data import ill_conditioned_sum
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.comparison import Comparison, NotCovered
from numguard.shadow.routes import NUMPY, ONES, PAIRWISE
from numguard.shadow.verdict import Verdict
from tests.checks.random_calls import FLOATS, INTEGERS, random_calls, watching
from tests.checks.watched_calls import run_samples

aten = torch.ops.aten
NAMES = ("sum", "mean", "nansum")
ROUTES = (NUMPY, PAIRWISE, ONES)


def judged(
    name: str, overload: Any, *args: Any, route: Arithmetic = NUMPY, **options: Any
) -> tuple[Comparison, Verdict]:
    probe = Probe(arithmetic=route)
    call, captured = perform(REGISTRY[name], overload, args, options, probe)
    (result,) = examine(REGISTRY[name], call, captured, probe)
    return result


@pytest.mark.parametrize("route", [NUMPY, PAIRWISE], ids=lambda route: route.name)
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS], ids=str)
@pytest.mark.parametrize("name", ["sum", "mean", "nansum", "nanmean", "clamp"])
def test_samples_of_pytorch_raise_no_alarm(name: str, dtype: torch.dtype, route: Arithmetic) -> None:
    watch = watching(*NAMES, probe=Probe(arithmetic=route))
    run_samples(name, dtype, watch, most=200)
    assert watch.wrong == []
    assert not watch.not_covered
    assert bool(watch.checked) is (dtype.is_floating_point or name in ("sum", "nansum"))


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_layouts_and_numbers_raise_no_alarm(seed: int, num_threads: int) -> None:
    before = torch.get_num_threads()
    watch = watching(*NAMES)
    try:
        torch.set_num_threads(num_threads)
        for draws, x, dtype in random_calls(seed, 250):
            overload = draws.choose.choice([aten.sum.dim_IntList, aten.mean.dim, aten.nansum.default])
            watch.probe = Probe(arithmetic=draws.choose.choice(ROUTES), limit=draws.choose.choice([1e9, 500.0]))
            with watch:
                overload(x, draws.dims(x), draws.choose.random() < 0.3, dtype=dtype)
    finally:
        torch.set_num_threads(before)
    assert watch.wrong == []
    assert watch.num_judged > 5 * watch.num_indeterminate > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_sums_split_over_threads_raise_no_alarm(dtype: torch.dtype) -> None:
    before, watch = torch.get_num_threads(), watching(*NAMES)
    x = torch.rand(70_001, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype) / 2.0
    try:
        torch.set_num_threads(2)
        with watch:
            for part in (x, x[::2], x[:70_000].view(50, 1400)[:, ::2]):
                part.sum()
                part.mean()
                part.nansum()
    finally:
        torch.set_num_threads(before)
    assert watch.wrong == []
    assert 0.0 < watch.worst_ratio <= 1.0


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_shadows_are_as_exact_as_they_claim(dtype: torch.dtype, route: Arithmetic) -> None:
    generator = torch.Generator().manual_seed(3)
    for count in (1, 2, 3, 17, 100, 999):
        x = torch.randn(4, count, generator=generator, dtype=torch.float64).to(dtype)
        x[1] *= 10.0 ** torch.linspace(-9.0, 9.0, count, dtype=dtype)
        x[2] = ill_conditioned_sum(count, 1e12).to(dtype) if count > 5 else x[2]
        for name, overload in (("sum", aten.sum.dim_IntList), ("mean", aten.mean.dim)):
            comparison, verdict = judged(name, overload, x, [1], route=route)
            assert not verdict.wrong
            divisor = count if name == "mean" else 1
            for row, exact in enumerate(comparison.exact.tolist()):
                true = sum(map(Fraction, x[row].tolist())) / divisor
                own = comparison.shadow_error[row].item() + 4 * 2.0**-53 * abs(exact)  # type: ignore[index]
                assert abs(Fraction(exact) - true) <= Fraction(own)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@pytest.mark.parametrize("shape", [(3 * CHUNK + 5,), (7, CHUNK, 1), (CHUNK // 4, 3, 11), (2, 2, CHUNK + 1)], ids=str)
def test_pieces_add_up_to_the_whole(shape: tuple[int, ...], route: Arithmetic) -> None:
    x = torch.randint(-99, 100, shape, generator=torch.Generator().manual_seed(2)).float()
    for num_kept in range(len(shape)):
        (total,), height = row_totals(x, num_kept, lambda piece: iter([piece.double()]), route)
        reduced = tuple(range(num_kept, len(shape)))
        assert torch.equal(total, x.double().sum(reduced))
        assert height >= 1


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40))
def test_integer_sums_wrap_around(values: list[int]) -> None:
    x = torch.tensor(values, dtype=torch.int64)
    exact = (sum(values) + 2**63) % 2**64 - 2**63
    assert int(joined([limb.sum() for limb in limbs_of(x)], len(values))) == exact
    assert not judged("sum", aten.sum.default, x)[1].wrong


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_integers_off_by_one_are_found_at_any_size(dtype: torch.dtype) -> None:
    largest = torch.iinfo(dtype).max
    x = torch.full((3, 50), largest, dtype=dtype)
    probe = Probe(arithmetic=NUMPY)
    call, _ = perform(REGISTRY["sum"], aten.sum.dim_IntList, (x, [1]), {}, probe)
    assert not examine(REGISTRY["sum"], call, None, probe)[0][1].wrong
    call.output[1] += 1
    assert examine(REGISTRY["sum"], call, None, probe)[0][1].wrong


def test_largest_numbers_of_float16_are_judged_and_overflow_is_not() -> None:
    comparison, verdict = judged("sum", aten.sum.dim_IntList, torch.full((2, 8), 8000.0, dtype=torch.float16), [1])
    assert verdict.num_indeterminate == 0.0
    assert comparison.exact.tolist() == [64000.0, 64000.0]
    _, verdict = judged("sum", aten.sum.dim_IntList, torch.full((2, 9), 8000.0, dtype=torch.float16), [1])
    assert verdict.num_indeterminate == 2.0
    assert verdict.num_overflowed == 0.0
    _, verdict = judged("mean", aten.mean.dim, torch.full((2, 900), 8000.0, dtype=torch.float16), [1])
    assert verdict.num_indeterminate == 0.0


def test_partial_sums_that_overflow_are_told_from_wrong_sums() -> None:
    x = torch.tensor([3e38, 3e38, -3e38, -3e38])
    assert judged("sum", aten.sum.default, x)[1].num_indeterminate == 1.0
    huge = torch.tensor([1.7e308, 1.7e308, -1.7e308, 1.0], dtype=torch.float64)
    for order in ([0, 1, 2, 3], [0, 2, 1, 3]):
        assert not judged("sum", aten.sum.default, huge[order])[1].wrong


def test_one_lost_block_among_many_is_found() -> None:
    """With the height of the tree instead of n - 1, one block of 16 in 65,536 shows in float32."""
    x = torch.rand(65_536, generator=torch.Generator().manual_seed(5))
    probe = Probe(arithmetic=NUMPY)
    call, _ = perform(REGISTRY["sum"], aten.sum.default, (x,), {}, probe)
    call.output.sub_(x[:16].sum())
    assert examine(REGISTRY["sum"], call, None, probe)[0][1].wrong


@contextmanager
def sum_without_its_last_columns() -> Iterator[None]:
    """Put a kernel under every overload and dtype of ``torch.sum`` that loses 16 columns."""
    right = torch.library.get_kernel("aten::sum.dim_IntList", "CPU")

    def wrong(keys: Any, x: Tensor, dim: Any, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
        return right.call_boxed(keys, x[..., :-16], dim, keepdim, dtype=dtype)

    library = torch.library.Library("aten", "IMPL")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered kernel")
            library.impl("sum.dim_IntList", wrong, "CPU", with_keyset=True)
        yield
    finally:
        library._destroy()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_broken_kernel_cannot_hide_from_any_route(dtype: torch.dtype, route: Arithmetic) -> None:
    x = torch.rand(6, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    with sum_without_its_last_columns():
        assert judged("sum", aten.sum.dim_IntList, x.to(dtype), [1], route=route)[1].num_wrong == 6.0


def test_sampling_reaches_every_row() -> None:
    x, check, seen = torch.randn(60, 10), REGISTRY["sum"], set()
    for offset in range(20):
        probe = Probe(arithmetic=NUMPY, limit=100.0, offset=offset / 20)
        call, captured = perform(check, aten.sum.dim_IntList, (x, [1]), {}, probe)
        with torch.no_grad():
            (comparison,) = check.judge(call, captured, probe)
        assert 0 < comparison.computed.numel() <= 6
        seen |= set(comparison.computed.tolist())
    assert seen == set(x.sum(1).tolist())


def test_a_result_in_the_memory_of_its_input_is_judged_on_the_input() -> None:
    x = torch.tensor([[3.0], [4.0]])
    probe = Probe(arithmetic=NUMPY)
    call, captured = perform(REGISTRY["sum"], aten.sum.IntList_out, (x, [1], True), {"out": x}, probe)
    x += 1.0
    assert torch.equal(captured, torch.tensor([[3.0], [4.0]]))
    assert examine(REGISTRY["sum"], call, captured, probe)[0][1].num_wrong == 2.0


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.zeros(3, dtype=torch.complex64), "complex numbers"),
        (lambda: torch.zeros(3, device="meta"), "meta tensors hold no numbers"),
        (lambda: torch.eye(3).to_sparse(), "sparse_coo or quantized tensors"),
    ],
)
def test_what_is_not_covered_says_why(make: Any, reason: str) -> None:
    x: Tensor = make()
    with pytest.raises(NotCovered, match=reason):
        judged("sum", aten.sum.default, x)
    with pytest.raises(NotCovered, match="as integers"):
        judged("sum", aten.sum.dim_IntList, torch.ones(3), [0], dtype=torch.int64)
