"""Attention: silent on every correct call, awake for every planted fault, forward and backward."""

from math import inf
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from numguard.checks.attention import CHECKS
from numguard.checks.check import Check, Probe
from numguard.checks.examination import examine, perform
from numguard.numerics.error_bounds.attention_bounds import exponential_error
from numguard.shadow.call import OpCall, bind
from numguard.shadow.comparison import NotCovered
from numguard.shadow.routes import NUMPY, PAIRWISE, REDUCTION
from tests.checks.watched_calls import ROUTES, Unsynchronised, Watch, examples, run_samples, verdicts_of

FORWARD, BACKWARD = CHECKS
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
aten = torch.ops.aten
flash = aten._scaled_dot_product_flash_attention_for_cpu.default
flash_backward = aten._scaled_dot_product_flash_attention_for_cpu_backward.default


@pytest.mark.parametrize(("check", "example", "dtype"), examples(CHECKS, "silent"))
@pytest.mark.parametrize("limit", [inf, 300.0])
def test_is_silent_on_correct_calls(check: Check, example: Any, dtype: torch.dtype, limit: float) -> None:
    for route in ROUTES:
        verdicts = verdicts_of(check, example, dtype, Probe(arithmetic=route, limit=limit, offset=0.37))
        assert verdicts
        assert not [v for _, v in verdicts if v.wrong]


@pytest.mark.parametrize(("check", "example", "dtype"), examples(CHECKS, "fires"))
def test_fires_on_planted_faults_along_every_route(check: Check, example: Any, dtype: torch.dtype) -> None:
    for route in ROUTES:
        assert any(v.wrong for _, v in verdicts_of(check, example, dtype, Probe(arithmetic=route)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("limit", [inf, 500.0])
def test_is_silent_on_the_samples_of_pytorch(dtype: torch.dtype, limit: float) -> None:
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY, limit=limit, offset=0.61))
    assert run_samples("nn.functional.scaled_dot_product_attention", dtype, watch) > 0
    assert set(watch.checked) == {FORWARD.ops[0], BACKWARD.ops[0]}
    assert not watch.wrong


DATA = {
    "normal": lambda x: x,
    "positive": lambda x: x.abs(),
    "offset": lambda x: x + 30,
    "large": lambda x: x * 30,
    "outliers": lambda x: torch.where(x > 2, 100.0, x),
    "subnormal": lambda x: x * 1e-38,
    "nan": lambda x: torch.where(x > 3, torch.nan, x),
}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(FLOATS),
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(1, 33)),
    kinds=st.tuples(*(st.sampled_from(sorted(DATA)) for _ in range(4))),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    causal=st.booleans(),
    masked=st.sampled_from([None, -inf, -60000.0, -3.0]),
    scale=st.sampled_from([None, 0.3]),
    limit=st.sampled_from([inf, 3000.0]),
    seed=st.integers(0, 2**31),
)
def test_is_silent_on_any_shape_and_data(
    dtype: torch.dtype,
    sizes: tuple[int, int, int],
    kinds: tuple[str, ...],
    heads: tuple[int, int],
    causal: bool,
    masked: float | None,
    scale: float | None,
    limit: float,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries, keys, features = sizes
    shapes = [(2, heads[0], queries, features), *[(2, heads[1], keys, features)] * 2, (2, heads[0], queries, features)]
    q, k, v, grad = (
        DATA[kind](torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
        for kind, shape in zip(kinds, shapes, strict=True)
    )
    options: dict[str, Any] = {"scale": scale}
    if masked is not None and not causal:
        hidden = torch.rand(queries, keys, generator=generator) < 0.5
        options["attn_mask"] = torch.zeros(queries, keys).masked_fill(hidden, masked).to(dtype)
    probe = Probe(arithmetic=NUMPY, limit=limit, offset=0.4)
    call, captured = perform(FORWARD, flash, (q, k, v, 0.0, causal), options, probe)
    verdicts = examine(FORWARD, call, captured, probe)
    call, captured = perform(BACKWARD, flash_backward, (grad, q, k, v, *call.output, 0.0, causal), options, probe)
    verdicts += examine(BACKWARD, call, captured, probe)
    assert not [(c.output, v) for c, v in verdicts if v.wrong]


def factors(dtype: torch.dtype, length: int = 100) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, length, 32, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_bounds_are_tight_enough_to_see_one_lost_key(dtype: torch.dtype) -> None:
    query, key, value = factors(dtype)
    call = OpCall(
        overload=flash,
        arguments=bind(flash, (query, key, value), {}),
        output=flash(query, key[:, :, :-1], value[:, :, :-1]),
    )
    outputs = {c.output: v for c, v in examine(FORWARD, call, None, Probe(arithmetic=NUMPY))}
    assert outputs["output"].wrong
    assert outputs["logsumexp"].wrong


def test_sampled_rows_of_every_gradient_are_reached() -> None:
    query, key, value = factors(torch.float32, 16)
    output, lse = flash(query, key, value)
    args = (torch.ones_like(output), query, key, value, output, lse, 0.0, False)
    grads = flash_backward(*args)
    for position in range(3):
        wrong = [grad.clone() for grad in grads]
        wrong[position][1, 2, 9, 0] += 1.0
        call = OpCall(overload=flash_backward, arguments=bind(flash_backward, args, {}), output=tuple(wrong))
        found = False
        for number in range(16):
            probe = Probe(arithmetic=NUMPY, limit=100_000, offset=number / 16)
            verdicts = examine(BACKWARD, call, None, probe)
            assert all(v.num_elements < wrong[0].numel() for _, v in verdicts)
            found |= verdicts[position][1].wrong
        assert found


def test_dropout_is_not_covered() -> None:
    query, key, value = factors(torch.float32, 5)
    call = OpCall(overload=flash, arguments=bind(flash, (query, key, value, 0.5), {}), output=flash(query, key, value))
    with pytest.raises(NotCovered, match="dropout"):
        FORWARD.judge(call, None, Probe(arithmetic=NUMPY))


def test_exponentials_of_masked_and_uncertain_scores() -> None:
    exponent = torch.tensor([0.0, -torch.inf, -3e38, -1.0], dtype=torch.float64)
    delta = torch.tensor([1e-6, 0.0, 1e31, 5.0], dtype=torch.float64)
    value, error = exponential_error(exponent, delta)
    assert value.tolist()[1:3] == [0.0, 0.0]
    assert error.tolist()[1:3] == [0.0, 0.0]
    assert error[0] == pytest.approx(1e-6, rel=1e-5)
    assert error[3] >= torch.tensor(4.0).exp() - torch.tensor(-1.0).exp()


@pytest.mark.parametrize("route", [PAIRWISE, REDUCTION], ids=lambda route: route.name)
def test_shadows_neither_synchronise_nor_draw(route: Any) -> None:
    state = torch.get_rng_state()
    query, key, value = factors(torch.float32, 20)
    output, lse = flash(query, key, value, 0.0, True)
    args = (torch.ones_like(output), query, key, value, output, lse, 0.0, True)
    grads = flash_backward(*args)
    forward = OpCall(overload=flash, arguments=bind(flash, (*args[1:4], 0.0, True), {}), output=(output, lse))
    backward = OpCall(overload=flash_backward, arguments=bind(flash_backward, args, {}), output=grads)
    probe = Probe(arithmetic=route, limit=20_000, offset=0.3)
    with Unsynchronised():
        comparisons = [*FORWARD.judge(forward, None, probe), *BACKWARD.judge(backward, None, probe)]
    names = [comparison.output for comparison in comparisons]
    assert names == ["output", "logsumexp", "grad_query", "grad_key", "grad_value"]
    assert torch.equal(state, torch.get_rng_state())
