"""Matrix products: silent on every correct call, awake for every planted fault."""

from math import inf
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from numguard.checks.check import Check, Probe
from numguard.checks.contractions import CHECKS
from numguard.checks.examination import examine, perform
from numguard.checks.freivalds import signs
from numguard.checks.integer_products import integer_product
from numguard.checks.matmul_precision import precision_now
from numguard.numerics.error_bounds.contraction_bounds import ieee_accumulation, product_bound
from numguard.shadow.call import OpCall, bind
from numguard.shadow.comparison import NotCovered
from numguard.shadow.routes import NUMPY, PAIRWISE, REDUCTION
from tests.checks.watched_calls import ROUTES, Unsynchronised, Watch, examples, run_samples, verdicts_of

BY_OP = {op: check for check in CHECKS for op in check.ops}
EVERYTHING = Probe(arithmetic=NUMPY)
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
aten = torch.ops.aten


def normal(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def judged(overload: Any, *args: Any, probe: Probe = EVERYTHING, change: Any = None, **kwargs: Any) -> list[Any]:
    check: Check = BY_OP[overload._schema.name + ("." + o if (o := overload._schema.overload_name) else "")]
    call, captured = perform(check, overload, args, kwargs, probe)
    if change is not None:
        call = OpCall(overload=overload, arguments=call.arguments, output=change(call.output))
    return examine(check, call, captured, probe)


@pytest.mark.parametrize(("check", "example", "dtype"), examples(CHECKS, "silent"))
@pytest.mark.parametrize("limit", [inf, 300.0])
def test_is_silent_on_correct_calls(check: Check, example: Any, dtype: torch.dtype, limit: float) -> None:
    for route in ROUTES:
        verdicts = verdicts_of(check, example, dtype, Probe(arithmetic=route, limit=limit, offset=0.37))
        assert not [v for _, v in verdicts if v.wrong]


@pytest.mark.parametrize(("check", "example", "dtype"), examples(CHECKS, "fires"))
def test_fires_on_planted_faults_along_every_route(check: Check, example: Any, dtype: torch.dtype) -> None:
    for route in ROUTES:
        assert any(v.wrong for _, v in verdicts_of(check, example, dtype, Probe(arithmetic=route)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    "name", ["mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "matmul", "nn.functional.linear"]
)
@pytest.mark.parametrize("limit", [inf, 60.0])
def test_is_silent_on_the_samples_of_pytorch(name: str, dtype: torch.dtype, limit: float) -> None:
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY, limit=limit, offset=0.61))
    assert run_samples(name, dtype, watch) > 0
    assert watch.checked
    assert not watch.wrong


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_integer_samples_are_exact(dtype: torch.dtype) -> None:
    watch = Watch(CHECKS, EVERYTHING)
    for name in ("mm", "addmm", "bmm"):
        assert run_samples(name, dtype, watch) > 0
    assert watch.checked
    assert not watch.wrong


DATA = {
    "normal": lambda x: x,
    "positive": lambda x: x.abs(),
    "offset": lambda x: x + 30,
    "wide": lambda x: (x * 5).exp(),
    "sparse": lambda x: torch.where(x.abs() < 1, 0.0, x),
    "nan": lambda x: torch.where(x > 2, torch.nan, x),
    "inf": lambda x: torch.where(x > 2, torch.inf, x),
    "subnormal": lambda x: x * 1e-38,
}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    shape=st.tuples(*(st.integers(0, 40) for _ in range(3))),
    dtype=st.sampled_from(FLOATS),
    kinds=st.tuples(*(st.sampled_from(sorted(DATA)) for _ in range(3))),
    scalars=st.sampled_from([(1, 1), (0.3, 1), (1, 0), (-2, 0.7), (1, -3)]),
    transposed=st.booleans(),
    limit=st.sampled_from([inf, 2000.0, 10.0]),
    offset=st.floats(0, 0.99),
)
def test_is_silent_on_any_shape_and_data(
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    kinds: tuple[str, str, str],
    scalars: tuple[float, float],
    transposed: bool,
    limit: float,
    offset: float,
) -> None:
    rows, terms, columns = shape
    a, b, c = (
        DATA[kind](normal(torch.float64, *size, seed=seed)).to(dtype)
        for seed, (kind, size) in enumerate(zip(kinds, ((rows, terms), (terms, columns), (rows, columns)), strict=True))
    )
    if transposed:
        a, c = a.t().contiguous().t(), c.t().contiguous().t()
    probe = Probe(arithmetic=NUMPY, limit=limit, offset=offset)
    alpha, beta = scalars
    for verdicts in (
        judged(aten.mm.default, a, b, probe=probe),
        judged(aten.addmm.default, c, a, b, probe=probe, alpha=alpha, beta=beta),
        judged(aten.addmm_.default, c.clone(), a, b, probe=probe, alpha=alpha, beta=beta),
    ):
        assert not [v for _, v in verdicts if v.wrong]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("terms", [4097, 65536])
def test_is_silent_on_long_inner_products(dtype: torch.dtype, terms: int) -> None:
    a, b = normal(dtype, 2, terms).abs(), normal(dtype, terms, 2, seed=1).abs()
    verdicts = judged(aten.mm.default, a, b) + judged(aten.dot.default, a[0], b[:, 1])
    assert not [v for _, v in verdicts if v.wrong]
    assert sum(v.num_elements - v.num_indeterminate for _, v in verdicts) > 0


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("place", [(0, 0), (57, 13), (199, 49)])
def test_the_checksum_finds_one_wrong_element_outside_the_sampled_rows(
    dtype: torch.dtype, place: tuple[int, int]
) -> None:
    a, b = normal(dtype, 200, 64), normal(dtype, 64, 50, seed=1)

    def corrupt(output: Tensor) -> Tensor:
        wrong = output.clone()
        wrong[place] += 100
        return wrong

    probe = Probe(arithmetic=NUMPY, limit=110_000, offset=0.5)
    assert [c.output for c, v in judged(aten.mm.default, a, b, probe=probe) if not v.wrong] == ["result", "checksum"]
    verdicts = judged(aten.mm.default, a, b, probe=probe, change=corrupt)
    assert {c.output: v.num_elements for c, v in verdicts}["result"] < 200 * 50
    assert [c.output for c, v in verdicts if v.wrong] == ["checksum"]


def test_the_checksum_finds_a_nan_and_survives_nan_rows() -> None:
    a, b = normal(torch.float32, 200, 64), normal(torch.float32, 64, 50, seed=1)
    a[3, 5] = torch.nan
    probe = Probe(arithmetic=NUMPY, limit=110_000, offset=0.5)

    def corrupt(output: Tensor) -> Tensor:
        wrong = output.clone()
        wrong[57, 13] = torch.nan
        return wrong

    silent = {c.output: v for c, v in judged(aten.mm.default, a, b, probe=probe)}
    assert silent["checksum"].num_indeterminate == 0
    assert not silent["checksum"].wrong
    assert any(v.wrong for _, v in judged(aten.mm.default, a, b, probe=probe, change=corrupt))


def test_signs_are_balanced_and_differ_with_the_offset() -> None:
    one, other = (signs(4096, offset, torch.device("cpu")) for offset in (0.1, 0.2))
    assert set(one.tolist()) == {-1.0, 1.0}
    assert abs(one.sum()) < 6 * 64  # six standard deviations
    assert abs((one * other).sum()) < 6 * 64
    assert torch.equal(one, signs(4096, 0.1, torch.device("cpu")))


def test_every_row_is_reached_by_some_offset() -> None:
    a, b = normal(torch.float32, 40, 8), normal(torch.float32, 8, 8, seed=1)
    found = set()
    for number in range(40):
        for row in range(40):
            probe = Probe(arithmetic=NUMPY, limit=600, offset=number / 40)

            def corrupt(output: Tensor, row: int = row) -> Tensor:
                wrong = output.clone()
                wrong[row, 0] *= 1.01
                return wrong

            if row in found:
                continue
            if any(
                c.output == "result" and v.wrong for c, v in judged(aten.mm.default, a, b, probe=probe, change=corrupt)
            ):
                found.add(row)
    assert found == set(range(40))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 9), st.integers(1, 9), st.sampled_from([8, 16, 32, 64]), st.integers(0, 2**31))
def test_integer_products_wrap(rows: int, terms: int, bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, (rows, terms), generator=generator)
    b = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, (terms, 3), generator=generator)
    exact = [[sum(int(x) * int(y) for x, y in zip(r, c, strict=True)) for c in b.t()] for r in a]
    result = integer_product(a, b, bits, NUMPY.product)
    assert [[value % 2**bits for value in row] for row in exact] == [[v % 2**bits for v in r] for r in result.tolist()]


def test_an_added_matrix_of_nan_is_ignored_only_without_its_factor() -> None:
    a, b = normal(torch.float32, 4, 9), normal(torch.float32, 9, 3, seed=1)
    nan = torch.full((4, 3), torch.nan)
    [(_, ignored)] = judged(aten.addmm.default, nan, a, b, beta=0)
    assert (ignored.num_indeterminate, ignored.wrong) == (0, False)
    [(_, lost)] = judged(aten.addmm.default, nan, a, b, change=torch.zeros_like)
    assert lost.wrong


def test_overwritten_operands_are_captured() -> None:
    a, b = normal(torch.float32, 4, 9), normal(torch.float32, 9, 3, seed=1)
    own = normal(torch.float32, 4, 3, seed=2)
    [(_, verdict)] = judged(aten.addmm.out, own, a, b, beta=0.5, out=own)
    assert not verdict.wrong
    three = [normal(torch.bfloat16, 2, 4, 9), normal(torch.bfloat16, 2, 9, 3), normal(torch.bfloat16, 2, 4, 3)]
    [(_, verdict)] = judged(aten.baddbmm_.default, three[2], three[0], three[1], alpha=2)
    assert not verdict.wrong


def test_complex_and_gelu_are_not_covered() -> None:
    a = torch.ones(2, 2, dtype=torch.complex64)
    with pytest.raises(NotCovered, match="complex"):
        judged(aten.mm.default, a, a)
    with pytest.raises(NotCovered, match="GELU"):
        judged(aten._addmm_activation.default, a.real.clone(), a.real.clone(), a.real.clone(), use_gelu=True)


def test_reduced_precision_on_request_widens_the_bound() -> None:
    before = precision_now(torch.float32, torch.float32, "cpu").strict
    assert (before.input_roundoff, before.model) == (0.0, "proved")
    matmul = torch.backends.mkldnn.matmul
    old = matmul.fp32_precision
    a, b = normal(torch.float32, 64, 300), normal(torch.float32, 300, 64, seed=1)
    try:
        matmul.fp32_precision = "bf16"
        after = precision_now(torch.float32, torch.float32, "cpu").strict
        [(comparison, verdict)] = judged(aten.mm.default, a, b)
    finally:
        matmul.fp32_precision = old
    assert (after.input_roundoff, after.model) == (2.0**-8, "assumed")
    assert comparison.model == "assumed"
    assert not verdict.wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("flushed", [False, True])
def test_subnormal_factors_may_count_as_zero(dtype: torch.dtype, flushed: bool) -> None:
    smallest = torch.finfo(dtype).smallest_normal
    a = (normal(torch.float64, 8, 200) * smallest / 4).to(dtype)
    b = (normal(torch.float64, 200, 8, seed=1) * 1e20).to(dtype)
    try:
        torch.set_flush_denormal(flushed)
        verdicts = judged(aten.mm.default, a, b)
    finally:
        torch.set_flush_denormal(False)
    assert not [v for _, v in verdicts if v.wrong]


def test_the_checksum_of_a_wide_float16_sum_has_a_bound() -> None:
    a, b = normal(torch.float16, 300, 200), normal(torch.float16, 200, 20, seed=1)
    bias = normal(torch.float16, 20, seed=2)
    verdicts = judged(aten.addmm.default, bias, a, b, probe=Probe(arithmetic=NUMPY, limit=400_000, offset=0.2))
    assert [(c.output, v.num_indeterminate, v.wrong) for c, v in verdicts] == [("result", 0, 0), ("checksum", 0, 0)]


def test_accelerators_are_assumed_and_truncate() -> None:
    for dtype in FLOATS[1:]:
        strict, permissive = precision_now(dtype, dtype, "cuda")
        assert strict.unit_roundoff == 2.0**-23
        assert (strict.model, permissive.model) == ("assumed", "assumed")


def test_a_sum_that_may_overflow_has_no_bound() -> None:
    mass = torch.tensor([1.0, 1e39], dtype=torch.float64)
    bound = product_bound(mass, 10, 1.0, ieee_accumulation(torch.float32))
    assert torch.isfinite(bound).tolist() == [True, False]


@pytest.mark.parametrize("route", [PAIRWISE, REDUCTION], ids=lambda route: route.name)
def test_shadows_neither_synchronise_nor_draw(route: Any) -> None:
    state = torch.get_rng_state()
    a, b, bias = normal(torch.float32, 40, 16), normal(torch.float32, 16, 30), normal(torch.float32, 30)
    call = OpCall(
        overload=aten.addmm.default,
        arguments=bind(aten.addmm.default, (bias, a, b), {}),
        output=torch.addmm(bias, a, b),
    )
    with Unsynchronised():
        comparisons = BY_OP["aten::addmm"].judge(call, None, Probe(arithmetic=route, limit=2000, offset=0.3))
    assert [comparison.output for comparison in comparisons] == ["result", "checksum"]
    assert torch.equal(state, torch.get_rng_state())
