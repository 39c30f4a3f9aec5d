"""Grouped matrix products: every layout of groups is judged, what belongs to no group is left alone."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain
from math import inf
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from numguard.checks import grouped_products, unread_groups
from numguard.checks.check import Check, Probe
from numguard.checks.examination import examine, perform
from numguard.checks.grouped_products import CHECKS
from numguard.shadow.call import OpCall, bind
from numguard.shadow.comparison import Compared, NotCovered
from numguard.shadow.routes import NATIVE, NUMPY, PAIRWISE, REDUCTION
from numguard.shadow.verdict import Verdict
from tests.checks.watched_calls import ROUTES, Unsynchronised, Watch, examples, verdicts_of

[CHECK] = CHECKS
EVERYTHING = Probe(arithmetic=NUMPY)
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
DEVICE_ROUTES = (REDUCTION, PAIRWISE)
grouped_mm = torch.ops.aten._grouped_mm.default


@pytest.fixture(params=[False, True], ids=["read", "unread"])
def is_read(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether offsets are read by the host, or treated as those that lie on an accelerator."""
    if request.param:
        monkeypatch.setattr(grouped_products, "_host_values", lambda ends: None)
    return not request.param


def routes(is_read: bool) -> Sequence[Any]:
    return (NATIVE, *ROUTES) if is_read else DEVICE_ROUTES


def normal(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def offsets(*ends: int) -> Tensor:
    return torch.tensor(ends, dtype=torch.int32)


def judged(*args: Any, probe: Probe = EVERYTHING, change: Any = None) -> list[tuple[Compared, Verdict]]:
    call, captured = perform(CHECK, grouped_mm, args, {}, probe)
    if change is not None:
        call = OpCall(overload=grouped_mm, arguments=call.arguments, output=change(call.output))
    return examine(CHECK, call, captured, probe)


def wrong(verdicts: Sequence[tuple[Compared, Verdict]]) -> list[str]:
    return [compared.output for compared, verdict in verdicts if verdict.wrong]


@pytest.mark.parametrize(("check", "example", "dtype"), examples(CHECKS, "silent"))
@pytest.mark.parametrize("limit", [inf, 300.0])
def test_is_silent_on_correct_calls(
    check: Check, example: Any, dtype: torch.dtype, limit: float, is_read: bool
) -> None:
    for route in routes(is_read):
        assert wrong(verdicts_of(check, example, dtype, Probe(arithmetic=route, limit=limit, offset=0.37))) == []


@pytest.mark.parametrize(("check", "example", "dtype"), examples(CHECKS, "fires"))
def test_fires_on_planted_faults_along_every_route(
    check: Check, example: Any, dtype: torch.dtype, is_read: bool
) -> None:
    for route in routes(is_read):
        assert wrong(verdicts_of(check, example, dtype, Probe(arithmetic=route))) != []


# what this build does -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_each_group_is_a_matrix_product_of_this_build(dtype: torch.dtype) -> None:
    """What the accumulation models of the check rest on."""
    ends = [7, 7, 40, 64]
    a, b = normal(dtype, 64, 320), normal(dtype, 4, 320, 24, seed=1)
    rows, terms = grouped_mm(a, b, offsets(*ends)), grouped_mm(a.t(), a, offsets(*ends))
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        assert torch.equal(rows[start:end], torch.mm(a[start:end], b[number]))
        assert torch.equal(terms[number], torch.mm(a.t()[:, start:end], a[start:end]))
    assert torch.equal(grouped_mm(b.mT, b), torch.bmm(b.mT, b))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_forward_and_both_gradients_are_checked(dtype: torch.dtype) -> None:
    a, b = normal(dtype, 40, 16).requires_grad_(), normal(dtype, 3, 16, 24, seed=1).requires_grad_()
    with Watch(CHECKS, EVERYTHING) as watch:
        F.grouped_mm(a, b, offs=offsets(11, 11, 40)).backward(normal(dtype, 40, 24, seed=2))
    # Two groups of rows forward, two in the gradient of the rows, and the gradients of three matrices.
    assert watch.checked == {"aten::_grouped_mm": 2 + 2 + 3}
    assert watch.num_judged == 40 * 24 + 40 * 16 + 3 * 16 * 24
    assert (watch.num_indeterminate, watch.wrong, watch.not_covered) == (0, [], [])


# exact results --------------------------------------------------------------------------------------------------


def exact_product(a: Tensor, b: Tensor) -> list[Fraction]:
    rows, columns = ([[Fraction(float(x)) for x in row] for row in matrix] for matrix in (a, b.t()))
    return [sum((x * y for x, y in zip(row, column, strict=True)), Fraction(0)) for row in rows for column in columns]


def layouts(dtype: torch.dtype) -> Iterator[tuple[tuple[Any, ...], list[list[Fraction]]]]:
    """Yield arguments of every layout, and the exact results by group, in the order in which they are compared."""
    ends = (2, 2, 5, 8)
    ranges = [slice(start, end) for start, end in zip((0, *ends), ends, strict=False)]
    a, b, tall = normal(dtype, 8, 16), normal(dtype, 4, 16, 8, seed=1), normal(dtype, 16, 8, seed=2)
    rows = [exact_product(a[part], matrix) for part, matrix in zip(ranges, b, strict=True)]
    yield (a, b, offsets(*ends)), rows
    columns = [exact_product(tall.t()[part], matrix) for part, matrix in zip(ranges, b, strict=True)]
    yield (b.mT, tall, offsets(*ends)), columns
    terms = [exact_product(a.t()[:, part], a[part]) for part in ranges]
    yield (a.t(), a, offsets(*ends)), terms
    yield (b.mT, b), [exact_product(matrix.t(), matrix) for matrix in b]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_shadows_are_exact_within_their_own_bound(dtype: torch.dtype, is_read: bool) -> None:
    for args, expected in layouts(dtype):
        for route in routes(is_read):
            found = [compared for compared, _ in judged(*args, probe=Probe(arithmetic=route))]
            values, errors = (
                [x for c in found for x in getattr(c, name).flatten().tolist()] for name in ("exact", "shadow_error")
            )
            for value, error, exact in zip(values, errors, chain(*expected), strict=True):
                assert abs(Fraction(value) - exact) <= Fraction(error) + 4 * Fraction(abs(value)) / 2**53


# what belongs to no group ---------------------------------------------------------------------------------------


def test_rows_in_no_group_are_not_judged(is_read: bool) -> None:
    a, b = normal(torch.bfloat16, 20, 16), normal(torch.bfloat16, 2, 16, 8, seed=1)

    poisoned = a.clone()
    poisoned[15] = torch.nan

    def leave(rest: float) -> Any:
        def change(output: Tensor) -> Tensor:
            output[9:] = rest
            return output

        return change

    for route in routes(is_read):
        for rest in (torch.nan, torch.inf, 1e30):
            verdicts = judged(a, b, offsets(4, 9), probe=Probe(arithmetic=route), change=leave(rest))
            assert wrong(verdicts) == []
            assert sum(v.num_overflowed + v.num_indeterminate for _, v in verdicts) == 0
            if is_read:
                assert sum(v.num_elements for _, v in verdicts) == 9 * 8
        assert wrong(judged(poisoned, b, offsets(4, 9), probe=Probe(arithmetic=route), change=leave(0.0))) == []


def test_offsets_past_the_last_row_end_there(is_read: bool) -> None:
    a, b = normal(torch.float32, 8, 16), normal(torch.float32, 3, 16, 8, seed=1)
    for args in ((a, b, offsets(3, 30, 40)), (a.t(), a, offsets(3, 30, 40))):
        for route in routes(is_read):
            assert wrong(judged(*args, probe=Probe(arithmetic=route))) == []
            broken = judged(*args, probe=Probe(arithmetic=route), change=lambda output: output + 1.0)
            assert sum(v.num_wrong for _, v in broken) > 0


@pytest.mark.parametrize("ends", [(5, 3), (-2, 3)])
def test_nothing_is_said_of_offsets_that_decrease(ends: tuple[int, int]) -> None:
    a, b = normal(torch.float32, 8, 16), normal(torch.float32, 2, 16, 8, seed=1)
    for args in ((a, b, offsets(*ends)), (a.t(), a, offsets(*ends))):
        with pytest.raises(NotCovered, match="offsets decrease"):
            judged(*args)


@pytest.mark.parametrize("ends", [(5, 3), (-2, 3)])
def test_unread_offsets_that_decrease_are_let_be(ends: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped_products, "_host_values", lambda given: None)
    a, b = normal(torch.float32, 8, 16), normal(torch.float32, 2, 16, 8, seed=1)
    for args in ((a, b, offsets(*ends)), (a.t(), a, offsets(*ends))):
        for route in DEVICE_ROUTES:
            assert wrong(judged(*args, probe=Probe(arithmetic=route), change=lambda output: output + 9.0)) == []


def test_what_is_not_covered_says_so() -> None:
    a, b = normal(torch.float32, 8, 16), normal(torch.float32, 2, 16, 8, seed=1)
    for args, reason in (
        ((a, b, offsets(3, 8), torch.zeros(8)), "with a bias"),
        ((a.to(torch.float8_e4m3fn), b, offsets(3, 8)), "16 bits or more"),
    ):
        call = OpCall(overload=grouped_mm, arguments=bind(grouped_mm, args, {}), output=torch.zeros(8, 8))
        with pytest.raises(NotCovered, match=reason):
            examine(CHECK, call, None, EVERYTHING)


# a part of a product --------------------------------------------------------------------------------------------


def test_a_small_budget_buys_a_part_and_every_element_is_in_some(is_read: bool) -> None:
    a, b = normal(torch.float32, 24, 8), normal(torch.float32, 3, 8, 8, seed=1)
    ends = offsets(10, 10, 24)
    for args, count in (((a, b, ends), 24 * 8), ((a.t(), a, ends), 3 * 8 * 8)):
        result, reached = grouped_mm(*args), set()
        for number in range(64):
            probe = Probe(arithmetic=PAIRWISE, limit=700.0, offset=number / 64)
            seen = [c.computed for c, _ in judged(*args, probe=probe) if c.output == "result"]
            values = {value for part in seen for value in part.flatten().tolist()}
            assert 0 < len(values) < count
            reached |= values
        assert reached == set(result.flatten().tolist())


@pytest.mark.parametrize("place", [(3, 0), (57, 13), (199, 49)])
def test_the_checksum_finds_one_wrong_element_outside_the_sampled_rows(place: tuple[int, int]) -> None:
    a, b = normal(torch.bfloat16, 200, 64), normal(torch.bfloat16, 2, 64, 56, seed=1)

    def corrupt(output: Tensor) -> Tensor:
        wrong = output.clone()
        wrong[place] += 100
        return wrong

    for route in (NATIVE, NUMPY):
        probe = Probe(arithmetic=route, limit=250_000, offset=0.5)
        assert wrong(judged(a, b, offsets(90, 200), probe=probe)) == []
        verdicts = judged(a, b, offsets(90, 200), probe=probe, change=corrupt)
        assert sum(v.num_elements for c, v in verdicts if c.output == "result") < 200 * 56
        assert "checksum" in wrong(verdicts)


# any call -------------------------------------------------------------------------------------------------------

DATA = {
    "normal": lambda x: x,
    "positive": lambda x: x.abs(),
    "wide": lambda x: (x * 5).exp(),
    "nan": lambda x: torch.where(x > 2, torch.nan, x),
    "inf": lambda x: torch.where(x > 2, torch.inf, x),
    "subnormal": lambda x: x * 1e-38,
}


def laid_out(x: Tensor, is_transposed: bool) -> Tensor:
    """Return the numbers with rows or columns in lines of a multiple of 16 bytes, as the operator wants them."""
    lines = x.mT if is_transposed else x
    room = torch.full((*lines.shape[:-1], -(-lines.shape[-1] // 8) * 8 + 8), torch.nan, dtype=x.dtype)
    part = room[..., : lines.shape[-1]].copy_(lines)
    return part.mT if is_transposed else part


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    shape=st.tuples(*(st.integers(1, 20) for _ in range(3))),
    cuts=st.lists(st.integers(0, 22), min_size=1, max_size=5).map(sorted),
    layout=st.sampled_from(["rows", "columns", "terms"]),
    dtype=st.sampled_from(FLOATS),
    kinds=st.tuples(*(st.sampled_from(sorted(DATA)) for _ in range(2))),
    transposed=st.tuples(st.booleans(), st.booleans()),
    limit=st.sampled_from([inf, 2000.0, 10.0]),
    offset=st.floats(0, 0.99),
)
def test_is_silent_on_any_shape_and_data(
    shape: tuple[int, int, int],
    cuts: list[int],
    layout: str,
    dtype: torch.dtype,
    kinds: tuple[str, str],
    transposed: tuple[bool, bool],
    limit: float,
    offset: float,
) -> None:
    rows, terms, columns = shape
    groups = (len(cuts),)
    lead = {"rows": ((), groups), "columns": (groups, ()), "terms": ((), ())}[layout]
    a, b = (
        laid_out(DATA[kind](normal(torch.float64, *before, *size, seed=seed)).to(dtype), is_transposed)
        for seed, (kind, before, size, is_transposed) in enumerate(
            zip(kinds, lead, ((rows, terms), (terms, columns)), transposed, strict=True)
        )
    )
    for route in (NATIVE, NUMPY, PAIRWISE):
        assert wrong(judged(a, b, offsets(*cuts), probe=Probe(arithmetic=route, limit=limit, offset=offset))) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouped_products, "_host_values", lambda ends: None)
        for route in DEVICE_ROUTES:
            assert wrong(judged(a, b, offsets(*cuts), probe=Probe(arithmetic=route, limit=limit, offset=offset))) == []


def test_unread_shadows_in_many_parts_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped_products, "_host_values", lambda ends: None)
    for args, _ in list(layouts(torch.bfloat16))[:3]:
        whole = [c for c, _ in judged(*args, probe=Probe(arithmetic=REDUCTION))]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(unread_groups, "HELD", 300)
            parts = [c for c, _ in judged(*args, probe=Probe(arithmetic=REDUCTION))]
        for one, other in zip(whole, parts, strict=True):
            for name in ("computed", "exact", "strict", "permissive", "shadow_error"):
                assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("route", DEVICE_ROUTES, ids=lambda route: route.name)
def test_unread_shadows_neither_synchronise_nor_draw(route: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped_products, "_host_values", lambda ends: None)
    state = torch.get_rng_state()
    for args, _ in layouts(torch.bfloat16):
        arguments = bind(grouped_mm, args, {})
        call = OpCall(overload=grouped_mm, arguments=arguments, output=grouped_mm(*args))
        with Unsynchronised():
            comparisons = CHECK.judge(call, None, Probe(arithmetic=route, limit=2000, offset=0.3))
        assert comparisons[0].output == "result"
    assert torch.equal(state, torch.get_rng_state())


def test_the_cost_is_that_of_the_terms_that_are_multiplied() -> None:
    for (args, _), terms in zip(
        layouts(torch.float32), (8 * 16 * 8, 8 * 16 * 8, 16 * 8 * 16, 4 * 8 * 16 * 8), strict=True
    ):
        call = OpCall(overload=grouped_mm, arguments=bind(grouped_mm, args, {}))
        assert CHECK.cost(call) == 2.0 * terms
