"""Lookups and sums by slot: silent on every correct call, awake for every planted fault."""

from math import inf
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from numguard.checks.check import Check, Probe
from numguard.checks.examination import examine, perform
from numguard.checks.order_replay import replay, reproduces
from numguard.checks.scatters import CHECKS
from numguard.shadow.call import OpCall, bind
from numguard.shadow.comparison import NotCovered
from numguard.shadow.routes import NUMPY, PAIRWISE, REDUCTION
from tests.checks.watched_calls import ROUTES, Unsynchronised, Watch, examples, run_samples, verdicts_of

BY_OP = {op: check for check in CHECKS for op in check.ops}
EVERYTHING = Probe(arithmetic=NUMPY)
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SIXTEEN = (torch.bfloat16, torch.float16)
aten = torch.ops.aten


def routes_of(check: Check) -> list[Any]:
    return [route for route in ROUTES if check.family not in route.families]


@pytest.mark.parametrize(("check", "example", "dtype"), examples(CHECKS, "silent"))
@pytest.mark.parametrize("limit", [inf, 300.0])
def test_is_silent_on_correct_calls(check: Check, example: Any, dtype: torch.dtype, limit: float) -> None:
    for route in routes_of(check):
        verdicts = verdicts_of(check, example, dtype, Probe(arithmetic=route, limit=limit, offset=0.37))
        assert verdicts
        assert not [v for _, v in verdicts if v.wrong]


@pytest.mark.parametrize(("check", "example", "dtype"), examples(CHECKS, "fires"))
def test_fires_on_planted_faults_along_every_route(check: Check, example: Any, dtype: torch.dtype) -> None:
    for route in routes_of(check):
        assert any(v.wrong for _, v in verdicts_of(check, example, dtype, Probe(arithmetic=route)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    "name",
    ["nn.functional.embedding", "index_add", "scatter_add", "scatter_reduce", "index_put", "gather", "index_select"],
)
@pytest.mark.parametrize("limit", [inf, 30.0])
def test_is_silent_on_the_samples_of_pytorch(name: str, dtype: torch.dtype, limit: float) -> None:
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY, limit=limit, offset=0.61))
    assert run_samples(name, dtype, watch) > 0
    assert watch.checked
    assert not watch.wrong


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from([*FLOATS, torch.int64, torch.int32]),
    count=st.integers(0, 300),
    num_slots=st.integers(1, 20),
    rank=st.integers(1, 3),
    data=st.data(),
    scale=st.sampled_from([1, 2, -0.7]),
    limit=st.sampled_from([inf, 500.0]),
    seed=st.integers(0, 2**31),
)
def test_sums_of_any_shape_are_silent(
    dtype: torch.dtype, count: int, num_slots: int, rank: int, data: Any, scale: float, limit: float, seed: int
) -> None:
    dim = data.draw(st.integers(-rank, rank - 1))
    generator = torch.Generator().manual_seed(seed)
    sizes = [data.draw(st.integers(1, 5)) for _ in range(rank)]
    sizes[dim] = num_slots
    own = (torch.randn(sizes, generator=generator) * 9).to(dtype)
    sizes[dim] = count
    source = (torch.randn(sizes, generator=generator) * 9).to(dtype)
    index = torch.randint(0, num_slots, (count,), generator=generator)
    where = torch.randint(0, num_slots, sizes, generator=generator)
    scale = scale if dtype.is_floating_point else int(scale)
    probe = Probe(arithmetic=NUMPY, limit=limit, offset=0.4)
    rows = source.movedim(dim, 0)
    calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
        (aten.index_add.default, (own, dim, index, source), {"alpha": scale}),
        (aten.index_add_.default, (own.clone(), dim, index, source), {"alpha": scale}),
        (aten.scatter_add.default, (own, dim, where, source), {}),
        (aten.scatter_add_.default, (own.clone(), dim, where, source), {}),
        (aten.scatter_reduce.two, (own, dim, where, source, "sum"), {"include_self": False}),
        (aten.index_put.default, (own.movedim(dim, 0), [index - num_slots], rows, True), {}),
        (aten._index_put_impl_.default, (own.movedim(dim, 0).clone(), [index], rows, True), {}),
    ]
    for overload, args, kwargs in calls:
        name = overload._schema.name + (".two" if overload._schema.overload_name == "two" else "")
        check = BY_OP[name]
        call, captured = perform(check, overload, args, kwargs, probe)
        verdicts = examine(check, call, captured, probe)
        assert not [(name, c.output, v) for c, v in verdicts if v.wrong]


def gradient(dtype: torch.dtype, count: int = 2000, slots: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    grad = torch.randn(count, 5, generator=generator, dtype=torch.float64).to(dtype)
    return grad, torch.randint(0, slots, (count,), generator=generator)


@pytest.mark.parametrize("dtype", SIXTEEN, ids=str)
def test_the_replay_sees_what_no_bound_can(dtype: torch.dtype) -> None:
    grad, index = gradient(dtype)
    overload = aten.embedding_dense_backward.default
    args = (grad, index, 4, -1, False)
    dropped = overload(grad[:-20], index[:-20], 4, -1, False)
    call = OpCall(overload=overload, arguments=bind(overload, args, {}), output=dropped)
    verdicts = {c.output: v for c, v in examine(BY_OP["aten::embedding_dense_backward"], call, None, EVERYTHING)}
    assert not verdicts["result"].wrong
    assert verdicts["replay"].wrong


@pytest.mark.parametrize("dtype", SIXTEEN, ids=str)
def test_a_sum_in_float32_is_right_though_its_bits_differ(dtype: torch.dtype) -> None:
    grad, index = gradient(dtype)
    overload = aten.embedding_dense_backward.default
    better = overload(grad.float(), index, 4, -1, False).to(dtype)
    assert not torch.equal(better, overload(grad, index, 4, -1, False))
    call = OpCall(overload=overload, arguments=bind(overload, (grad, index, 4, -1, False), {}), output=better)
    verdicts = examine(BY_OP["aten::embedding_dense_backward"], call, None, EVERYTHING)
    silent = [c.output for c, v in verdicts if not v.wrong and not v.inaccurate]
    assert silent == ["result", "result of one sign", "replay"]


@pytest.mark.parametrize("dtype", SIXTEEN, ids=str)
@pytest.mark.parametrize(
    ("form", "sequential"),
    [
        (("embedding_dense_backward",), True),
        (("index_put", "2", "1"), True),
        (("index_put", "1", "2"), True),
        (("index_add", "1", "0"), True),
        (("index_add", "2", "0"), False),
    ],
)
def test_the_order_of_this_build_is_known(form: tuple[str, ...], sequential: bool, dtype: torch.dtype) -> None:
    assert reproduces(form, dtype) is sequential


def test_a_replay_stops_at_its_limit() -> None:
    source = torch.ones(50, 2, dtype=torch.bfloat16)
    index = torch.arange(50) % 3
    assert replay(3, index, source, None, 10.0) is None
    again = replay(3, index, source, None, inf)
    assert again is not None
    assert dict(zip(again.slots.tolist(), again.value[:, 0].tolist(), strict=True)) == {0: 17.0, 1: 17.0, 2: 16.0}


def test_what_is_not_a_sum_is_not_covered() -> None:
    own, index, source = torch.zeros(3), torch.tensor([0, 0]), torch.ones(2)
    for overload, args, reason in (
        (aten.index_put.default, (own, [index], source, False), "without accumulation"),
        (aten.scatter_reduce.two, (own, 0, index, source, "amax"), "amax"),
        (aten.index_add.default, (own + 0j, 0, index, source + 0j), "complex"),
    ):
        name = overload._schema.name + (".two" if overload._schema.overload_name == "two" else "")
        call, captured = perform(BY_OP[name], overload, args, {}, EVERYTHING)
        with pytest.raises(NotCovered, match=reason):
            examine(BY_OP[name], call, captured, EVERYTHING)


@pytest.mark.parametrize("route", [NUMPY, PAIRWISE, REDUCTION], ids=lambda route: route.name)
def test_sums_by_slot_of_every_route_agree(route: Any) -> None:
    index = torch.tensor([4, 0, 4, 1, 4, 0])
    source = torch.arange(12.0, dtype=torch.float64).reshape(6, 2)
    expected = [[12.0, 14.0], [6.0, 7.0], [0.0, 0.0], [0.0, 0.0], [12.0, 15.0]]
    assert route.slot_totals(5, index, source).tolist() == expected
    assert route.slot_totals(5, index[:0], source[:0]).tolist() == [[0.0, 0.0]] * 5


def test_shadows_neither_synchronise_nor_draw() -> None:
    state = torch.get_rng_state()
    grad, index = gradient(torch.float32, 60)
    calls = [
        (aten.embedding_dense_backward.default, (grad, index, 4, -1, False)),
        (aten.index_add.default, (torch.zeros(4, 5), 0, index, grad)),
        (aten.scatter_add.default, (torch.zeros(4, 5), 0, index.unsqueeze(1).expand(-1, 5), grad)),
        (aten.index_put.default, (torch.zeros(4, 5), [index], grad, True)),
        (aten.embedding.default, (grad, index)),
    ]
    for overload, args in calls:
        call = OpCall(overload=overload, arguments=bind(overload, args, {}), output=overload(*args))
        with Unsynchronised():
            comparisons = BY_OP[overload._schema.name].judge(call, None, Probe(arithmetic=PAIRWISE, limit=200))
        assert len(comparisons) == 1
    assert torch.equal(state, torch.get_rng_state())
