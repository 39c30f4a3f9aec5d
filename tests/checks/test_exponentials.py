"""The exponential checks: silent on every correct call, shadows equal to mpmath, faults found."""

import math
from typing import Any

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from numguard.checks.check import Check, Example, Probe
from numguard.checks.examination import examine, perform
from numguard.checks.exponentials import CHECKS
from numguard.checks.planted_faults import flipped_bit, planted_nan
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall, bind
from numguard.shadow.comparison import Comparison
from numguard.shadow.routes import NUMPY, PAIRWISE
from numguard.shadow.verdict import Verdict
from tests.checks.watched_calls import ROUTES, Unsynchronised, Watch, examples, run_samples, verdicts_of

aten = torch.ops.aten
BY_OP = {op: check for check in CHECKS for op in check.ops}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def judged(op: Any, *args: Any, probe: Probe | None = None, output: Any = None) -> list[tuple[Comparison, Verdict]]:
    probe = probe or Probe(arithmetic=NUMPY)
    check: Check = BY_OP[op._schema.name]
    call, captured = perform(check, op, args, {}, probe)
    if output is not None:
        call = OpCall(overload=op, arguments=call.arguments, output=output)
    return examine(check, call, captured, probe)


def assert_silent(op: Any, *args: Any, probe: Probe | None = None) -> list[tuple[Comparison, Verdict]]:
    results = judged(op, *args, probe=probe)
    for comparison, verdict in results:
        assert not verdict.wrong, (op, comparison.output, verdict)
    return results


def logits(kind: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    chance = torch.rand(shape, generator=generator)
    return {
        "normal": x,
        "wide": 40.0 * x,
        "shifted": x + 30.0,
        "constant": torch.full_like(x, -70.0),
        "tiny": 1e-37 * x,
        "huge": 1e30 * x,
        "near-float16-limit": 2e4 * x,
        "masked": x.masked_fill(chance < 0.6, -torch.inf),
        "fully-masked": torch.full_like(x, -torch.inf),
        "nan": x.masked_fill(chance < 0.1, torch.nan),
        "inf": x.masked_fill(chance < 0.1, torch.inf),
    }[kind].to(dtype)


KINDS = ("normal", "wide", "shifted", "constant", "tiny", "huge", "near-float16-limit")
KINDS += ("masked", "fully-masked", "nan", "inf")


@pytest.mark.parametrize("route", [NUMPY, PAIRWISE], ids=lambda route: route.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_correct_calls_are_silent(kind: str, dtype: torch.dtype, route: Arithmetic) -> None:
    probe = Probe(arithmetic=route)
    x = logits(kind, (5, 33, 6), dtype, 1)
    grad = torch.randn(5, 33, 6, generator=torch.Generator().manual_seed(2)).to(dtype)
    for source in (x, x.transpose(0, 2).contiguous().transpose(0, 2), x[:, ::2]):
        g = grad[:, : source.shape[1]]
        for dim in (0, 1, -1):
            assert_silent(aten._softmax.default, source, dim, False, probe=probe)
            assert_silent(aten._safe_softmax.default, source, dim, probe=probe)
            assert_silent(aten._log_softmax.default, source, dim, False, probe=probe)
            assert_silent(aten.logsumexp.default, source, [dim], probe=probe)
            assert_silent(aten._softmax_backward_data.default, g, source.softmax(dim), dim, dtype, probe=probe)
            assert_silent(aten._log_softmax_backward_data.default, g, source.log_softmax(dim), dim, dtype, probe=probe)
        assert_silent(aten.logsumexp.default, source, [0, 2], True, probe=probe)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(1, 40), min_size=0, max_size=3).map(tuple),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    limit=st.sampled_from((math.inf, 40.0, 900.0)),
    offset=st.floats(0.0, 1.0, exclude_max=True),
    data=st.data(),
)
def test_random_shapes_are_silent(
    shape: tuple[int, ...], kind: str, dtype: torch.dtype, limit: float, offset: float, data: st.DataObject
) -> None:
    x = logits(kind, shape, dtype, 3)
    dim = data.draw(st.integers(-max(1, len(shape)), max(0, len(shape) - 1)))
    probe = Probe(arithmetic=NUMPY, limit=limit, offset=offset)
    saved = assert_silent(aten._softmax.default, x, dim, False, probe=probe)
    assert_silent(aten._log_softmax.default, x, dim, False, probe=probe)
    assert_silent(aten.logsumexp.default, x, [dim], probe=probe)
    assert_silent(aten._softmax_backward_data.default, x.flip(-1) if shape else x, x.softmax(dim), dim, dtype)
    assert 0 < saved[0][1].num_elements <= x.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_shadows_equal_mpmath_within_their_bound(dtype: torch.dtype) -> None:
    x = logits("wide", (3, 25), dtype, 4)
    grad = logits("normal", (3, 25), dtype, 5)
    p, log_p = x.softmax(-1), x.log_softmax(-1)
    shadows = {
        name: judged(op, *args)[0][0]
        for name, op, args in (
            ("softmax", aten._softmax.default, (x, -1, False)),
            ("log_softmax", aten._log_softmax.default, (x, -1, False)),
            ("logsumexp", aten.logsumexp.default, (x, [-1])),
            ("softmax_backward", aten._softmax_backward_data.default, (grad, p, -1, dtype)),
            ("log_softmax_backward", aten._log_softmax_backward_data.default, (grad, log_p, -1, dtype)),
        )
    }
    with mpmath.workdps(60):
        for row in range(3):
            values, g, y, z = ([mpmath.mpf(v) for v in t[row].double().tolist()] for t in (x, grad, p, log_p))
            total = mpmath.fsum(mpmath.exp(v) for v in values)
            inner, plain = mpmath.fsum(a * b for a, b in zip(g, y, strict=True)), mpmath.fsum(g)
            expected = {
                "softmax": [mpmath.exp(v) / total for v in values],
                "log_softmax": [v - mpmath.log(total) for v in values],
                "logsumexp": [mpmath.log(total)],
                "softmax_backward": [b * (a - inner) for a, b in zip(g, y, strict=True)],
                "log_softmax_backward": [a - mpmath.exp(b) * plain for a, b in zip(g, z, strict=True)],
            }
            for name, exact in expected.items():
                comparison = shadows[name]
                own = comparison.shadow_error + 4 * 2.0**-53 * comparison.exact.abs()
                allowed = own.broadcast_to(comparison.exact.shape)[row].reshape(-1).tolist()
                for value, shadow, bound in zip(
                    exact, comparison.exact[row].reshape(-1).tolist(), allowed, strict=True
                ):
                    assert abs(value - shadow) <= bound, (name, value, shadow, bound)


def test_a_dropped_term_in_a_long_row_is_found() -> None:
    x = torch.zeros(2, 1000)
    wrong = torch.full_like(x, 1 / 999)
    assert judged(aten._softmax.default, x, -1, False, output=wrong)[0][1].wrong


def test_a_row_that_no_sample_holds_is_not_judged() -> None:
    x = torch.randn(64, 50, generator=torch.Generator().manual_seed(6))
    wrong = x.softmax(-1)
    wrong[17] = wrong[18]
    verdicts = []
    for step in range(64):
        probe = Probe(arithmetic=NUMPY, limit=400.0, offset=step / 64)
        ((_, verdict),) = judged(aten._softmax.default, x, -1, False, probe=probe, output=wrong)
        assert verdict.num_elements < x.numel()
        verdicts.append(verdict.wrong)
    assert any(verdicts)
    assert not all(verdicts)


def test_calls_without_elements_are_silent() -> None:
    for shape in ((0, 7), (7, 0), (0,)):
        x = torch.zeros(shape)
        for op in (aten._softmax.default, aten._log_softmax.default):
            assert not any(verdict.num_elements for _, verdict in assert_silent(op, x, -1, False))
        assert_silent(aten.logsumexp.default, x, [-1])


def test_a_masked_row_must_not_become_finite() -> None:
    x = torch.full((2, 5), -torch.inf)
    assert judged(aten._softmax.default, x, -1, False, output=torch.zeros(2, 5))[0][1].wrong
    assert_silent(aten._softmax.default, x, -1, False)
    assert judged(aten._safe_softmax.default, x, -1, output=torch.full((2, 5), 0.2))[0][1].wrong
    assert judged(aten._safe_softmax.default, x, -1, output=torch.full((2, 5), torch.nan))[0][1].wrong


@pytest.mark.parametrize("op", [aten._softmax.out, aten._log_softmax.out], ids=str)
def test_an_input_overwritten_by_out_is_kept(op: Any) -> None:
    check = BY_OP[op._schema.name]
    assert f"{op._schema.name}.out" in check.ops
    x = torch.randn(4, 9, generator=torch.Generator().manual_seed(7))
    probe = Probe(arithmetic=NUMPY)
    call, captured = perform(check, op, (x, -1, False), {"out": x}, probe)
    assert captured is not None
    assert not any(verdict.wrong for _, verdict in examine(check, call, captured, probe))
    x += 1
    assert any(verdict.wrong for _, verdict in examine(check, call, captured, probe))


def test_half_to_float_is_judged_in_float32() -> None:
    """The CPU has no such kernel, so the outputs are made by hand."""
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(8)).half()
    good = x.float().softmax(-1)
    for output, wrong in ((good, False), (good.half().float(), True)):
        arguments = bind(aten._softmax.default, (x, -1, True), {})
        call = OpCall(overload=aten._softmax.default, arguments=arguments, output=output)
        ((comparison, verdict),) = examine(BY_OP["aten::_softmax"], call, None, Probe(arithmetic=NUMPY))
        assert verdict.wrong is wrong
        assert comparison.permissive is None


def test_the_strict_bound_measures_sixteen_bit_storage() -> None:
    x = logits("wide", (64, 128), torch.bfloat16, 9)
    ((_, verdict),) = assert_silent(aten._log_softmax.default, x, -1, False)
    assert verdict.inaccurate
    ((_, verdict),) = assert_silent(aten._log_softmax.default, x.float(), -1, False)
    assert not verdict.inaccurate


def test_float16_normaliser_overflow_is_not_called_wrong() -> None:
    x = torch.zeros(1, 70000, dtype=torch.float16)
    ((_, verdict),) = judged(aten._log_softmax.default, x, -1, False, output=torch.full_like(x, -torch.inf))
    assert not verdict.wrong
    assert verdict.inaccurate


@pytest.mark.parametrize(("check", "example", "dtype"), [*examples(CHECKS, "silent"), *examples(CHECKS, "fires")])
def test_examples_along_every_route(check: Check, example: Example, dtype: torch.dtype) -> None:
    for route in ROUTES:
        verdicts = verdicts_of(check, example, dtype, Probe(arithmetic=route))
        assert verdicts
        assert any(verdict.wrong for _, verdict in verdicts) is (example.corrupt is not None)


SAMPLED = ("softmax", "log_softmax", "logsumexp", "nn.functional.cross_entropy")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("limit", [math.inf, 50.0])
def test_silent_on_the_samples_of_pytorch(name: str, dtype: torch.dtype, limit: float) -> None:
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY, limit=limit, offset=0.37))
    assert run_samples(name, dtype, watch) > 0
    assert watch.checked
    assert not watch.wrong
    assert not watch.not_covered


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_shadows_neither_synchronise_nor_draw(check: Check) -> None:
    state = torch.get_rng_state()
    for example in check.silent:
        overload, args, kwargs = example.call(torch.bfloat16, torch.Generator().manual_seed(0))
        call, captured = perform(check, overload, args, kwargs, Probe(arithmetic=PAIRWISE))
        with Unsynchronised():
            assert check.judge(call, captured, Probe(arithmetic=PAIRWISE, limit=500.0))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fault", [flipped_bit, planted_nan])
def test_gradients_with_a_planted_fault_are_found(dtype: torch.dtype, fault: Any) -> None:
    grad, y = logits("normal", (4, 30), dtype, 10), logits("normal", (4, 30), dtype, 11).softmax(-1)
    op = aten._softmax_backward_data.default
    good = op(grad, y, -1, dtype)
    assert judged(op, grad, y, -1, dtype, output=fault(good, ()))[0][1].wrong
