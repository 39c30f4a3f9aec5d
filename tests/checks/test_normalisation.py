"""The normalisation checks: silent on correct calls, equal to mpmath, 16-bit sums replayed, faults found."""

from math import inf, prod
from typing import Any

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from numguard.checks import normalisation_replay
from numguard.checks.check import Check, Example, Probe
from numguard.checks.examination import examine, perform
from numguard.checks.normalisation import CHECKS
from numguard.checks.planted_faults import flipped_bit, stale_row
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall, bind
from numguard.shadow.comparison import Comparison
from numguard.shadow.routes import NUMPY, PAIRWISE
from numguard.shadow.verdict import Verdict
from tests.checks.watched_calls import ROUTES, Unsynchronised, Watch, examples, run_samples, verdicts_of

aten = torch.ops.aten
FORWARD, BACKWARD = aten.native_layer_norm.default, aten.native_layer_norm_backward.default
BY_OP = {op: check for check in CHECKS for op in check.ops}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
NARROW = (torch.bfloat16, torch.float16)

Results = dict[str, tuple[Comparison, Verdict]]


def judged(op: Any, *args: Any, probe: Probe | None = None, output: Any = None) -> Results:
    probe = probe or Probe(arithmetic=NUMPY)
    check: Check = BY_OP[op._schema.name]
    call = OpCall(overload=op, arguments=bind(op, args, {}), output=op(*args) if output is None else output)
    return {comparison.output: (comparison, verdict) for comparison, verdict in examine(check, call, None, probe)}


def wrong_outputs(results: Results) -> set[str]:
    return {name for name, (_, verdict) in results.items() if verdict.wrong}


def values(kind: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    chance = torch.rand(shape, generator=generator)
    return {
        "normal": x,
        "shifted": x + 30.0,
        "far": 0.1 * x + 300.0,
        "constant": torch.full_like(x, 3.0),
        "zero": torch.zeros_like(x),
        "tiny": 1e-37 * x,
        "subnormal": 1e-42 * x,
        "huge": 1e18 * x,
        "near-float16-limit": 2e4 * x,
        "nan": x.masked_fill(chance < 0.1, torch.nan),
        "inf": x.masked_fill(chance < 0.1, torch.inf),
    }[kind].to(dtype)


KINDS = (
    "normal",
    "shifted",
    "far",
    "constant",
    "zero",
    "tiny",
    "subnormal",
    "huge",
    "near-float16-limit",
    "nan",
    "inf",
)


@pytest.mark.parametrize(("check", "example", "dtype"), [*examples(CHECKS, "silent"), *examples(CHECKS, "fires")])
def test_examples_along_every_route(check: Check, example: Example, dtype: torch.dtype) -> None:
    for route in ROUTES:
        verdicts = verdicts_of(check, example, dtype, Probe(arithmetic=route))
        assert verdicts
        assert any(verdict.wrong for _, verdict in verdicts) is (example.corrupt is not None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["nn.functional.layer_norm", "native_layer_norm"])
@pytest.mark.parametrize("limit", [inf, 50.0])
def test_silent_on_the_samples_of_pytorch(name: str, dtype: torch.dtype, limit: float) -> None:
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY, limit=limit, offset=0.37))
    assert run_samples(name, dtype, watch) > 0
    assert watch.checked
    assert not watch.wrong
    assert not watch.not_covered


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_composed_rms_norm_is_left_to_other_checks(dtype: torch.dtype) -> None:
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY))
    assert run_samples("nn.functional.rms_norm", dtype, watch) > 0
    assert not watch.checked


@settings(derandomize=True, deadline=None, max_examples=120)
@given(
    shape=st.lists(st.sampled_from((1, 2, 3, 7, 16, 40)), min_size=1, max_size=3).map(tuple),
    kind=st.sampled_from(KINDS),
    grad_kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    mixed=st.booleans(),
    affine=st.booleans(),
    eps=st.sampled_from((1e-5, 1e-12, 0.0)),
    limit=st.sampled_from((inf, 300.0)),
    route=st.sampled_from((NUMPY, PAIRWISE)),
    data=st.data(),
)
def test_random_calls_are_silent(
    shape: tuple[int, ...],
    kind: str,
    grad_kind: str,
    dtype: torch.dtype,
    mixed: bool,
    affine: bool,
    eps: float,
    limit: float,
    route: Arithmetic,
    data: st.DataObject,
) -> None:
    normalised = shape[-data.draw(st.integers(1, len(shape))) :]
    x, dy = values(kind, shape, dtype, 1), values(grad_kind, shape, dtype, 2)
    if len(shape) > 1 and data.draw(st.booleans()):
        x, dy = (part.transpose(0, -1).contiguous().transpose(0, -1) for part in (x, dy))
    parameter = torch.float32 if mixed and dtype in NARROW else dtype
    weight, bias = (values("normal", normalised, parameter, seed) for seed in (3, 4)) if affine else (None, None)
    probe = Probe(arithmetic=route, limit=limit, offset=data.draw(st.floats(0.0, 1.0, exclude_max=True)))
    _, mean, rstd = FORWARD(x, list(normalised), weight, bias, eps)
    assert not wrong_outputs(judged(FORWARD, x, list(normalised), weight, bias, eps, probe=probe))
    arguments = (dy, x, list(normalised), mean, rstd, weight, bias, [True, affine, affine])
    assert not wrong_outputs(judged(BACKWARD, *arguments, probe=probe))
    like_input = None if weight is None else weight.to(dtype)
    assert not wrong_outputs(judged(aten._fused_rms_norm.default, x, list(normalised), like_input, eps, probe=probe))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["normal", "shifted"])
def test_shadows_equal_mpmath_within_their_bound(kind: str, dtype: torch.dtype) -> None:
    x, dy, length = values(kind, (4, 20), dtype, 1), values("normal", (4, 20), dtype, 2), 20
    weight, bias = (values("normal", (length,), dtype, seed) for seed in (3, 4))
    forward = judged(FORWARD, x, [length], weight, bias, 1e-5)
    _, mean, rstd = FORWARD(x, [length], weight, bias, 1e-5)
    backward = judged(BACKWARD, dy, x, [length], mean, rstd, weight, bias, [True, True, True])

    def exact_rows(tensor: Tensor) -> list[list[Any]]:
        return [[mpmath.mpf(v) for v in row] for row in tensor.double().reshape(-1, tensor.shape[-1]).tolist()]

    with mpmath.workdps(60):
        (w,), (b,) = exact_rows(weight), exact_rows(bias)
        saved = zip(exact_rows(x), exact_rows(dy), exact_rows(mean), exact_rows(rstd), strict=True)
        expected: dict[str, list[list[Any]]] = {"output": [], "grad_input": [], "terms": [], "dy": []}
        for row, g, (mu,), (a,) in saved:
            centre = mpmath.fsum(row) / length
            spread = mpmath.fsum((v - centre) ** 2 for v in row) / length
            inverse = 1 / mpmath.sqrt(spread + mpmath.mpf(1e-5))
            expected["output"].append([(v - centre) * inverse * p + q for v, p, q in zip(row, w, b, strict=True)])
            hats = [(v - mu) * a for v in row]
            t = [p * q for p, q in zip(g, w, strict=True)]
            first = mpmath.fsum(t) / length
            second = mpmath.fsum(p * q for p, q in zip(t, hats, strict=True)) / length
            expected["grad_input"].append([a * (p - first - q * second) for p, q in zip(t, hats, strict=True)])
            expected["terms"].append([p * q for p, q in zip(g, hats, strict=True)])
            expected["dy"].append(g)
        for name, source in (("grad_weight", "terms"), ("grad_bias", "dy")):
            expected[name] = [[mpmath.fsum(column) for column in zip(*expected.pop(source), strict=True)]]
        for name, rows in expected.items():
            comparison = {**forward, **backward}[name][0]
            own = torch.as_tensor(comparison.shadow_error) + 4 * 2.0**-53 * comparison.exact.abs()
            flat = [value for row in rows for value in row]
            shadows, bounds = comparison.exact.reshape(-1).tolist(), own.expand(comparison.exact.shape).reshape(-1)
            for value, shadow, bound in zip(flat, shadows, bounds.tolist(), strict=True):
                assert abs(value - shadow) <= bound, (name, value, shadow, bound)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("parameter", [None, torch.float32], ids=["same", "float32-parameters"])
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_sixteen_bit_sums_are_replayed_bit_for_bit(
    dtype: torch.dtype, parameter: torch.dtype | None, threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows, length in ((1, 5), (2, 64), (7, 33), (300, 40)):
            x, dy = values("normal", (rows, length), dtype, 1), values("normal", (rows, length), dtype, 2)
            weight = torch.ones(length, dtype=parameter or dtype)
            _, mean, rstd = FORWARD(x, [length], weight, weight, 1e-5)
            arguments = (dy, x, [length], mean, rstd, weight, weight, [True, True, True])
            output = BACKWARD(*arguments)
            results = judged(BACKWARD, *arguments, output=output)
            for name, gradient in (("grad_weight", output[1]), ("grad_bias", output[2])):
                assert results[f"{name} (replayed)"][1].num_elements == length
                assert results[f"{name} (replayed)"][1].worst_ratio == 0.0
                # Eight neighbours on: a difference that no sum in float32 explains either.
                place = int(gradient.abs().argmax())
                gradient[place] *= 1.0 + 8.0 * torch.finfo(dtype).eps
            results = judged(BACKWARD, *arguments, output=output)
            assert {"grad_weight (replayed)", "grad_bias (replayed)"} <= wrong_outputs(results)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_a_sum_that_is_better_than_the_replayed_one_is_right(dtype: torch.dtype) -> None:
    x, dy = values("normal", (300, 40), dtype, 1), values("normal", (300, 40), dtype, 2)
    weight = torch.ones(40, dtype=dtype)
    _, mean, rstd = FORWARD(x, [40], weight, weight, 1e-5)
    arguments = (dy, x, [40], mean, rstd, weight, weight, [True, True, True])
    output = BACKWARD(*arguments)
    for name, gradient in (("grad_weight", output[1]), ("grad_bias", output[2])):
        better = judged(BACKWARD, *arguments)[name][0].exact.to(dtype)
        assert not torch.equal(better, gradient)
        gradient.copy_(better)
    results = judged(BACKWARD, *arguments, output=output)
    assert {"grad_weight (replayed)", "grad_bias (replayed)"} <= set(results)
    assert not wrong_outputs(results)


def test_a_replay_that_this_build_does_not_follow_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another division of rows the replay fails its proof, and the bound decides alone."""
    monkeypatch.setattr(normalisation_replay, "row_totals", lambda terms, storage, threads: terms.sum(0).float() + 1)
    normalisation_replay.replays.cache_clear()
    try:
        x = values("normal", (12, 10), torch.bfloat16, 1)
        _, mean, rstd = FORWARD(x, [10], None, None, 1e-5)
        weight = torch.ones(10, dtype=torch.bfloat16)
        results = judged(BACKWARD, x, x, [10], mean, rstd, weight, weight, [True, True, True])
        assert set(results) == {"grad_input", "grad_weight", "grad_bias"}
        assert not wrong_outputs(results)
    finally:
        normalisation_replay.replays.cache_clear()


def test_replays_stay_within_the_limit_of_the_probe() -> None:
    x = values("normal", (500, 10), torch.bfloat16, 1)
    _, mean, rstd = FORWARD(x, [10], None, None, 1e-5)
    weight = torch.ones(10, dtype=torch.bfloat16)
    arguments = (x, x, [10], mean, rstd, weight, weight, [True, True, True])
    results = judged(BACKWARD, *arguments, probe=Probe(arithmetic=NUMPY, limit=1e4))
    assert set(results) == {"grad_input", "grad_weight", "grad_bias"}
    assert results["grad_weight"][1].num_elements < 10


def test_values_whose_squares_overflow_are_indeterminate() -> None:
    results = judged(FORWARD, values("huge", (3, 40), torch.float32, 1) * 1e6, [40], None, None, 1e-5)
    assert results["output"][1].num_indeterminate == 120
    assert not wrong_outputs(results)


def test_subnormal_rows_lose_a_rounding_a_step() -> None:
    x = values("subnormal", (500, 70), torch.float32, 1)
    assert not wrong_outputs(judged(FORWARD, x, [70], None, None, 1e-5))


def test_float16_buffers_that_overflow_are_indeterminate() -> None:
    """The buffers have the dtype of dy, so float32 parameters do not help."""
    rows, length = 400, 8
    x, dy = values("normal", (rows, length), torch.float16, 1), torch.full((rows, length), 3e3, dtype=torch.float16)
    weight = torch.ones(length)
    _, mean, rstd = FORWARD(x, [length], weight, weight, 1e-5)
    results = judged(BACKWARD, dy, x, [length], mean, rstd, weight, weight, [True, True, True])
    assert results["grad_bias"][1].num_indeterminate == length
    assert results["grad_bias"][1].worst_strict_ratio == inf
    assert not wrong_outputs(results)


def test_the_accumulator_has_the_dtype_of_the_gradient() -> None:
    rows, length = 600, 16
    x = values("normal", (rows, length), torch.bfloat16, 1)
    dy = values("normal", (rows, length), torch.bfloat16, 2) + 1
    weight = torch.ones(length)
    _, mean, rstd = FORWARD(x, [length], weight, weight, 1e-5)
    results = judged(BACKWARD, dy, x, [length], mean, rstd, weight, weight, [True, True, True])
    assert results["grad_bias"][0].computed.dtype == torch.float32
    assert not wrong_outputs(results)
    assert results["grad_bias"][1].worst_strict_ratio > 100.0


def test_the_backward_pass_is_judged_by_the_statistics_that_it_was_given() -> None:
    x, dy = values("normal", (5, 30), torch.float32, 1), values("normal", (5, 30), torch.float32, 2)
    weight = torch.ones(30)
    _, mean, rstd = FORWARD(x, [30], weight, weight, 1e-5)
    arguments = [dy, x, [30], mean + 1.0, rstd * 2.0, weight, weight, [True, True, True]]
    output = BACKWARD(*arguments)
    assert not wrong_outputs(judged(BACKWARD, *arguments, output=output))
    arguments[3] = mean
    assert wrong_outputs(judged(BACKWARD, *arguments, output=output)) >= {"grad_input", "grad_weight"}


def test_gradients_that_were_not_asked_for_are_left_out() -> None:
    x = values("normal", (5, 30), torch.float32, 1)
    weight = torch.ones(30)
    _, mean, rstd = FORWARD(x, [30], weight, weight, 1e-5)
    results = judged(BACKWARD, x, x, [30], mean, rstd, weight, weight, [False, False, True])
    assert set(results) == {"grad_bias"}


@pytest.mark.parametrize("shape", [(0, 6), (3, 0), (0, 0)])
def test_calls_without_elements(shape: tuple[int, int]) -> None:
    x, weight = torch.zeros(shape), torch.ones(shape[1])
    output = FORWARD(x, [shape[1]], weight, weight, 1e-5)
    assert not wrong_outputs(judged(FORWARD, x, [shape[1]], weight, weight, 1e-5))
    arguments = (x, x, [shape[1]], output[1], output[2], weight, weight, [True, True, True])
    results = judged(BACKWARD, *arguments)
    assert not wrong_outputs(results)
    if prod(shape[1:]):
        assert set(results) == {"grad_weight", "grad_bias"}
        wrong = judged(BACKWARD, *arguments, output=(x, weight, weight))
        assert wrong_outputs(wrong) == {"grad_weight", "grad_bias"}


def rms_backward(dy: Tensor, x: Tensor, rstd: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the fused kernel computes, composed in float32."""
    t, xhat = dy.float() * weight.float(), x.float() * rstd
    dx = rstd * (t - xhat * (t * xhat).mean(-1, keepdim=True))
    return dx.to(x.dtype), (dy.float() * xhat).sum(0).to(weight.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, *NARROW], ids=str)
def test_fused_rms_norm_backward_on_composed_outputs(dtype: torch.dtype) -> None:
    """The CPU has no such kernel, so its outputs are composed."""
    op = aten._fused_rms_norm_backward.default
    for kind in ("tiny", "shifted", "normal"):
        x, dy = values(kind, (50, 64), dtype, 1), values("normal", (50, 64), dtype, 2)
        weight = values("normal", (64,), dtype, 3)
        _, rstd = aten._fused_rms_norm(x, [64], weight, 1e-6)
        arguments = (dy, x, [64], rstd, weight, [True, True])
        good = rms_backward(dy, x, rstd, weight)
        results = judged(op, *arguments, output=good)
        assert set(results) == {"grad_input", "grad_weight"}
        assert all(comparison.model == "assumed" for comparison, _ in results.values())
        assert not wrong_outputs(results)
        for position, fault in ((0, stale_row), (0, flipped_bit), (1, flipped_bit)):
            bad = [fault(part, ()) if place == position else part for place, part in enumerate(good)]
            assert wrong_outputs(judged(op, *arguments, output=tuple(bad)))
    dropped = rms_backward(torch.cat([dy[:-1], torch.zeros_like(dy[:1])]), x, rstd, weight)
    assert "grad_weight" in wrong_outputs(judged(op, *arguments, output=(good[0], dropped[1])))


def test_fused_rms_norm_without_eps_takes_that_of_the_accumulator() -> None:
    x = torch.full((1, 8), 1e-4, dtype=torch.bfloat16)
    assert not wrong_outputs(judged(aten._fused_rms_norm.default, x, [8], None, None))
    y, _ = aten._fused_rms_norm(x, [8], None, torch.finfo(torch.bfloat16).eps)
    _, rstd = aten._fused_rms_norm(x, [8], None, None)
    assert wrong_outputs(judged(aten._fused_rms_norm.default, x, [8], None, None, output=(y, rstd))) == {"output"}


@pytest.mark.parametrize("check", [check for check in CHECKS if check.silent], ids=lambda check: check.name)
def test_shadows_neither_synchronise_nor_draw(check: Check) -> None:
    state = torch.get_rng_state()
    for example in check.silent:
        overload, args, kwargs = example.call(torch.bfloat16, torch.Generator().manual_seed(0))
        call, captured = perform(check, overload, args, kwargs, Probe(arithmetic=PAIRWISE))
        with Unsynchronised():
            assert check.judge(call, captured, Probe(arithmetic=PAIRWISE))
            assert check.judge(call, captured, Probe(arithmetic=PAIRWISE, limit=500.0))
    assert torch.equal(state, torch.get_rng_state())
