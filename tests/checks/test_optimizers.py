"""Optimizer checks: silent on every correct step of torch's optimizers, awake for every planted fault."""

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from numguard.checks import foreach_updates, fused_optimizers, pointwise_updates
from numguard.checks.check import Check, Probe
from numguard.checks.examination import examine, perform
from numguard.checks.tensor_lists import as_arrays, lattice, select
from numguard.numerics.error_bounds import optimizer_bounds as bounds
from numguard.numerics.error_bounds.judgement import alarm_threshold
from numguard.numerics.error_bounds.pointwise_bounds import RULES, Operands
from numguard.shadow.call import OpCall, overload_name
from numguard.shadow.comparison import NotCovered, output_at
from numguard.shadow.routes import NUMPY, PAIRWISE
from numguard.testing import faulty_kernel

CHECKS = (*fused_optimizers.CHECKS, *foreach_updates.CHECKS, *pointwise_updates.CHECKS)
BY_OP = {op: check for check in CHECKS for op in check.ops}
EVERYTHING = Probe(arithmetic=NUMPY)
ADAMW = torch.ops.aten._fused_adamw_.default
HYPER = {
    "lr": 1e-3,
    "beta1": 0.9,
    "beta2": 0.999,
    "weight_decay": 0.01,
    "eps": 1e-8,
    "amsgrad": False,
    "maximize": False,
}


class Watch(TorchDispatchMode):
    """Captures and examines every covered operator that runs inside."""

    def __init__(self, probe: Probe = EVERYTHING) -> None:
        super().__init__()
        self.probe = probe
        self.wrong: list[str] = []
        self.not_covered: list[str] = []
        self.checked: dict[str, int] = {}
        self.ran: set[str] = set()
        self.worst = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = overload_name(func)
        self.ran.add(name)
        check = BY_OP.get(name)
        if check is None:
            return func(*args, **(kwargs or {}))
        call, captured = perform(check, func, args, kwargs or {}, self.probe)
        try:
            results = examine(check, call, captured, self.probe)
        except NotCovered as reason:
            self.not_covered.append(f"{name}: {reason}")
            return call.output
        self.checked[name] = self.checked.get(name, 0) + 1
        for comparison, verdict in results:
            self.worst = max(self.worst, verdict.worst_ratio)
            if verdict.wrong:
                self.wrong.append(
                    f"{name} {output_at(comparison.output, comparison.segments, int(verdict.worst_index))} {verdict}"
                )
        return call.output


def parameters(dtype: torch.dtype, generator: torch.Generator) -> list[torch.nn.Parameter]:
    shapes = [(5, 17), (64,), (), (0, 3), (2, 3, 11)]
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [torch.nn.Parameter(tensor) for tensor in drawn]


def train(optimizer: torch.optim.Optimizer, num_steps: int, generator: torch.Generator, watch: Watch) -> None:
    for step in range(num_steps):
        for parameter in optimizer.param_groups[0]["params"]:
            size = 10.0 ** (3 * step - 6)
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = (noise * size).to(parameter.dtype)
        with watch:
            optimizer.step()


MODES: tuple[dict[str, bool], ...] = ({"fused": True}, {"foreach": True}, {"foreach": False})
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_correct_adam_steps_raise_no_alarm(dtype: torch.dtype, mode: dict[str, bool]) -> None:
    sizes = ((1e-3, 1e-8), (0.0, 1e-3))
    grid = itertools.product((torch.optim.Adam, torch.optim.AdamW), (False, True), (False, True), (0.0, 0.3), sizes)
    watch = Watch()
    stride = 1 if mode.get("fused") else 3  # without lists a step is many calls
    for number, (kind, amsgrad, maximize, decay, (lr, eps)) in itertools.islice(enumerate(grid), 0, None, stride):
        generator = torch.Generator().manual_seed(number)
        watch.probe = Probe(arithmetic=(NUMPY, PAIRWISE)[number % 2])
        optimizer = kind(
            parameters(dtype, generator), lr=lr, eps=eps, amsgrad=amsgrad, maximize=maximize, weight_decay=decay, **mode
        )
        train(optimizer, 3, generator, watch)
    assert not watch.wrong
    assert not watch.not_covered
    assert sum(watch.checked.values()) >= 32 * 3 // stride
    assert 0.1 < watch.worst <= 1.0


@pytest.mark.parametrize("betas", [(0.0, 0.0), (0.0, 0.999), (0.3, 0.0), (0.6, 0.5), (0.99, 0.999999)], ids=str)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_unusual_betas_raise_no_alarm(betas: tuple[float, float], mode: dict[str, bool]) -> None:
    watch = Watch()
    for dtype in DTYPES:
        generator = torch.Generator().manual_seed(3)
        train(torch.optim.AdamW(parameters(dtype, generator), betas=betas, **mode), 4, generator, watch)
    assert not watch.wrong


SGD_OPTIONS = (
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1, "maximize": True},
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES[1:], ids=str)
def test_correct_sgd_steps_raise_no_alarm(dtype: torch.dtype, mode: dict[str, bool]) -> None:
    watch = Watch()
    for options in SGD_OPTIONS:
        generator = torch.Generator().manual_seed(5)
        train(torch.optim.SGD(parameters(dtype, generator), lr=0.1, **options, **mode), 4, generator, watch)
    assert not watch.wrong
    assert not watch.not_covered
    assert watch.checked


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_correct_fused_sgd_steps_raise_no_alarm(dtype: torch.dtype) -> None:
    watch = Watch()
    for options in SGD_OPTIONS:
        generator = torch.Generator().manual_seed(5)
        train(torch.optim.SGD(parameters(dtype, generator), lr=0.1, fused=True, **options), 4, generator, watch)
    assert not watch.wrong
    assert watch.checked["aten::_fused_sgd_"] == 16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [7, 64])
def test_fused_sgd_in_16_bits_is_reported_exactly_where_this_build_is_wrong(dtype: torch.dtype, size: int) -> None:
    """torch 2.13.0 skips whole vectors of 16-bit parameters (pytorch#191763); a repaired build must pass."""
    parameter = torch.nn.Parameter(torch.ones(size, dtype=dtype))
    parameter.grad = torch.ones(size, dtype=dtype)
    watch = Watch()
    with watch:
        torch.optim.SGD([parameter], lr=0.25, fused=True).step()
    assert bool(watch.wrong) is bool((parameter.detach() != 0.75).any())


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_arithmetic_operator_of_a_step_is_covered(mode: dict[str, bool]) -> None:
    generator, watch = torch.Generator().manual_seed(1), Watch()
    for kind, options in (
        (torch.optim.AdamW, {"amsgrad": True, "maximize": True}),
        (torch.optim.Adam, {"weight_decay": 0.1}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ):
        train(kind(parameters(torch.float32, generator), **options, **mode), 2, generator, watch)
    made = {"aten::zeros_like", "aten::zeros", "aten::clone", "aten::detach", "aten::empty_like", "aten::lift_fresh"}
    bookkeeping = {"aten::_local_scalar_dense", "aten::scalar_tensor"}
    left_out = {"aten::neg", "aten::maximum.out"}  # they select and change sign; their inputs and results are judged
    rest = {name for name in watch.ran if name.startswith("aten::")} - set(BY_OP) - made - bookkeeping - left_out
    assert not rest


@pytest.mark.parametrize("kind", ["fused", "foreach"])
def test_gradient_scaler_with_and_without_overflow(kind: str) -> None:
    parameter = torch.nn.Parameter(torch.linspace(-2.0, 2.0, 40))
    optimizer = torch.optim.AdamW([parameter], **{kind: True})
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    watch = Watch()
    for factor in (1.0, 3.0, math.inf, 2.0):
        optimizer.zero_grad()
        scaler.scale((parameter.square() * factor).sum()).backward()
        before = parameter.detach().clone()
        with watch:
            scaler.step(optimizer)
            scaler.update()
        assert torch.equal(before, parameter.detach()) is math.isinf(factor)
    assert not watch.wrong
    assert watch.checked["aten::_amp_foreach_non_finite_check_and_unscale_"] == 4


def test_clipping_and_tensor_learning_rate_raise_no_alarm() -> None:
    generator, watch = torch.Generator().manual_seed(1), Watch()
    drawn = parameters(torch.float32, generator)
    optimizer = torch.optim.AdamW(drawn, lr=torch.tensor(1e-3), fused=True)
    train(optimizer, 2, generator, watch)
    with watch:
        torch.nn.utils.clip_grad_norm_(drawn, 1e-3)
    assert not watch.wrong
    assert watch.checked["aten::_fused_adamw_.tensor_lr"] == 2
    assert watch.checked["aten::_foreach_mul_.Tensor"] == 1


def adam_call(dtype: torch.dtype, values: list[float], step: float = 1.0, **changed: Any) -> tuple[Any, ...]:
    size = len(values)
    grads = torch.tensor(values, dtype=torch.float64).to(dtype)
    state = [torch.linspace(-1.0, 1.0, size).to(dtype), grads, grads.roll(1) * 0.5, grads.roll(2).abs().clamp(max=1e4)]
    return ADAMW, (*([tensor.clone()] for tensor in state), [], [torch.tensor(step)]), {**HYPER, **changed}


def verdicts(check: Check, overload: Any, args: Any, kwargs: Any, probe: Probe = EVERYTHING) -> dict[str, Any]:
    call, captured = perform(check, overload, args, kwargs, probe)
    return {comparison.output: verdict for comparison, verdict in examine(check, call, captured, probe)}


EXTREMES = [0.0, -0.0, 1e-45, -1e-40, 1e-38, 1e-30, 1e-20, 1e-12, 1e-8, 1.0, 1e4, 1e10, 1e19, 1e20, 3e38]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("step", [1.0, 2.0, 1e3, 1e6, 2.0**24])
@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_extreme_gradients_and_steps_raise_no_alarm(dtype: torch.dtype, step: float, eps: float) -> None:
    values = EXTREMES + [-value for value in EXTREMES] + [torch.nan, torch.inf, -torch.inf]
    for changed in ({"weight_decay": 0.0}, {"amsgrad": False, "beta1": 0.0}, {"beta2": 0.0}, {"maximize": True}):
        overload, args, kwargs = adam_call(dtype, values, step, eps=eps, **changed)
        found = verdicts(BY_OP["aten::_fused_adamw_"], overload, args, kwargs)
        assert not any(verdict.wrong for verdict in found.values())


def test_lost_nan_is_found() -> None:
    overload, args, kwargs = adam_call(torch.float32, [1.0, torch.nan, 2.0])
    check = BY_OP["aten::_fused_adamw_"]
    call, captured = perform(check, overload, args, kwargs, EVERYTHING)
    args[2][0][1] = 0.25
    found = {c.output: v.wrong for c, v in examine(check, call, captured, EVERYTHING)}
    assert found == {"param[0]": False, "exp_avg[0]": True, "exp_avg_sq[0]": False}


def test_different_strides_of_parameter_and_gradient_are_found_where_the_kernel_mixes_them_up() -> None:
    """The fused CPU kernels of torch 2.13.0 walk memory and ignore strides; CUDA refuses such a call."""
    param, grad = torch.zeros(4, 6), torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).t()
    args = ([param], [grad], [torch.zeros(4, 6)], [torch.zeros(4, 6)], [], [torch.tensor(1.0)])
    found = verdicts(BY_OP["aten::_fused_adamw_"], ADAMW, args, HYPER)
    is_mixed_up = not torch.allclose(args[2][0], 0.1 * grad)
    assert found["exp_avg[0]"].wrong is is_mixed_up


def fractions(values: Tensor) -> Tensor:
    """Spread values over the range of their format: half of them as they are, the rest much smaller."""
    return values * torch.logspace(0, -12, values.numel(), dtype=torch.float64).reshape(values.shape)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(["_fused_adam_", "_fused_adamw_"]),
    betas=st.tuples(st.floats(0.0, 0.999), st.floats(0.0, 0.99999)),
    lr=st.floats(0.0, 1.0),
    decay=st.sampled_from([0.0, 0.01, 1.0]),
    eps=st.sampled_from([0.0, 1e-15, 1e-8, 1e-3]),
    step=st.integers(1, 10**6),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    scale=st.sampled_from([None, 0.1, 3.0, 65536.0]),
    seed=st.integers(0, 10**6),
)
def test_random_adam_calls_raise_no_alarm(
    dtype: torch.dtype,
    kind: str,
    betas: tuple[float, float],
    lr: float,
    decay: float,
    eps: float,
    step: int,
    flags: tuple[bool, bool, bool],
    scale: float | None,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    amsgrad, maximize, skipped = flags
    p, g, m, v, largest = (torch.randn(75, generator=generator, dtype=torch.float64) for _ in range(5))
    state = [[x.to(dtype)] for x in (p, fractions(g), fractions(m).flip(0), v.square(), largest.square())]
    args = (*state[:4], state[4] if amsgrad else [], [torch.tensor(float(step))])
    hyper = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "weight_decay": decay, "eps": eps}
    hyper |= {"amsgrad": amsgrad, "maximize": maximize}
    if scale is not None:
        hyper |= {"grad_scale": torch.tensor(scale), "found_inf": torch.tensor(float(skipped))}
    found = verdicts(BY_OP["aten::_fused_adam_"], getattr(torch.ops.aten, kind).default, args, hyper)
    assert not any(verdict.wrong for verdict in found.values())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), dtype=st.sampled_from(DTYPES), op=st.sampled_from(sorted(BY_OP)))
def test_random_calls_raise_no_alarm(data: st.DataObject, dtype: torch.dtype, op: str) -> None:
    check = BY_OP[op]
    examples = [e for e in check.silent if dtype in e.dtypes]
    example = data.draw(st.sampled_from(examples))
    size = 2.0 ** data.draw(st.integers(-40, 12))
    overload, args, kwargs = example.call(dtype, torch.Generator().manual_seed(data.draw(st.integers(0, 10**6))))
    for tensor in args[0] if isinstance(args[0], list) else [args[0]]:
        tensor.mul_(size)
    assert not any(verdict.wrong for verdict in verdicts(check, overload, args, kwargs).values())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("route", [NUMPY, PAIRWISE], ids=lambda route: route.name)
def test_examples_of_every_check(check: Check, route: Any) -> None:
    probe = Probe(arithmetic=route)
    for example in (*check.silent, *check.fires):
        for dtype in example.dtypes:
            overload, args, kwargs = example.call(dtype, torch.Generator().manual_seed(7))
            call, captured = perform(check, overload, args, kwargs, probe)
            if example.corrupt is not None:
                call = OpCall(overload=overload, arguments=call.arguments, output=example.corrupt(call.output, args))
            found = any(verdict.wrong for _, verdict in examine(check, call, captured, probe))
            assert found is (example.corrupt is not None), (example.name, dtype)


def exact_adamw(p: Fraction, g: Fraction, m: Fraction, v: Fraction, t: int) -> tuple[Fraction, Fraction, Fraction]:
    """Take one AdamW step in rational numbers, with square roots to 60 digits."""
    b1, b2, lr, wd, eps = (Fraction(HYPER[n]) for n in ("beta1", "beta2", "lr", "weight_decay", "eps"))

    def root(x: Fraction) -> Fraction:
        scale = 10**120
        return Fraction(math.isqrt(x.numerator * scale // x.denominator), 10**60)

    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    denominator = root(v) / root(1 - b2**t) + eps
    return p * (1 - lr * wd) - lr / (1 - b1**t) * m / denominator, m, v


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shadow_and_bound_against_rational_arithmetic(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(11)
    p, g, m = (torch.randn(20, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3))
    v = torch.rand(20, generator=generator, dtype=torch.float64).to(dtype)
    m[:10] = -g[:10] * 0.1 / 0.9  # the new moment cancels
    rows = [[Fraction(float(x)) for x in row] for row in zip(p, g, m, v, strict=True)]
    exact = [exact_adamw(*row, 3) for row in rows]
    args = ([p], [g], [m], [v], [], [torch.tensor(3.0)])
    check = BY_OP["aten::_fused_adamw_"]
    call, captured = perform(check, ADAMW, args, HYPER, EVERYTHING)
    comparisons = check.judge(call, captured, EVERYTHING)
    assert [c.output for c in comparisons] == ["param[0]", "exp_avg[0]", "exp_avg_sq[0]"]
    for position, comparison in enumerate(comparisons):
        threshold = alarm_threshold(comparison.exact, comparison.strict, dtype)
        for number, row in enumerate(exact):
            value, computed = row[position], Fraction(float(comparison.computed[number]))
            assert abs(computed - value) <= Fraction(float(threshold[number]))
            shadow_error = abs(Fraction(float(comparison.exact[number])) - value)
            assert shadow_error <= Fraction(float(threshold[number])) / (1 if dtype == torch.float64 else 1000)


def test_bounds_stay_useful() -> None:
    """A parameter that moves by a thousandth is judged to within two roundings of float32."""
    overload, args, kwargs = adam_call(torch.float32, [0.5, -0.25, 1.0, 2.0])
    check = BY_OP["aten::_fused_adamw_"]
    call, captured = perform(check, overload, args, kwargs, EVERYTHING)
    param = check.judge(call, captured, EVERYTHING)[0]
    relative = alarm_threshold(param.exact, param.strict, torch.float32) / param.exact.abs()
    assert float(relative.max()) < 8 * 2.0**-24


def test_sampling_reaches_every_element_and_stays_small() -> None:
    tensors = [torch.zeros(6, 8), torch.zeros(5), torch.zeros(3, 2, 7)]
    seen: set[tuple[int, int]] = set()
    for offset in np.linspace(0.0, 1.0, 400, endpoint=False):
        selection = select(tensors, range(3), Probe(arithmetic=NUMPY, limit=12.0, offset=float(offset)), 1.0)
        assert sum(selection.sizes) <= 48
        for number, window in zip(selection.numbers, selection.windows, strict=True):
            places = torch.arange(tensors[number].numel()).reshape(tensors[number].shape)[window]
            seen.update((number, int(place)) for place in places.reshape(-1))
    assert len(seen) == sum(tensor.numel() for tensor in tensors)


@pytest.mark.parametrize("shape", [(), (1,), (0, 4), (1000,), (3, 1000, 7)], ids=str)
def test_lattice_takes_at_least_one_element(shape: tuple[int, ...]) -> None:
    for fraction in (0.0, 0.4, 0.999):
        taken = torch.empty(shape)[lattice(shape, 10.0, fraction)].numel()
        assert taken >= 1 or 0 in shape
        assert taken <= 10 * 2 ** len(shape)


def test_a_sampled_fault_is_found_and_named() -> None:
    sizes = [300] * 40
    args = (
        *([torch.ones(size) for size in sizes] for _ in range(4)),
        [],
        [torch.tensor(2.0) for _ in sizes],
    )
    check, probe = BY_OP["aten::_fused_adamw_"], Probe(arithmetic=NUMPY, limit=50.0 * 1024, offset=0.55)
    call, captured = perform(check, ADAMW, args, HYPER, probe)
    for tensor in args[0]:
        tensor.add_(1e-4)
    comparison, verdict = examine(check, call, captured, probe)[0]
    assert verdict.wrong
    assert verdict.num_elements <= 2048
    assert output_at(comparison.output, comparison.segments, int(verdict.worst_index)).startswith("param[")


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ([torch.zeros(3, dtype=torch.complex64)], "complex64"),
        ([torch.zeros(3, dtype=torch.int64)], "int64"),
        ([torch.eye(3).to_sparse()], "sparse"),
        ([torch.zeros(3, device="meta")], "meta"),
    ],
    ids=["complex", "integer", "sparse", "meta"],
)
def test_tensors_that_cannot_be_judged_are_declined_with_a_reason(tensors: list[Tensor], reason: str) -> None:
    check = BY_OP["aten::_foreach_mul_.Scalar"]
    call, captured = perform(check, torch.ops.aten._foreach_mul_.Scalar, (tensors, 2), {}, EVERYTHING)
    with pytest.raises(NotCovered, match=reason):
        examine(check, call, captured, EVERYTHING)


def test_tensors_without_elements_have_nothing_to_compare() -> None:
    args = (*([torch.zeros(0, 3)] for _ in range(4)), [], [torch.tensor(1.0)])
    found = verdicts(BY_OP["aten::_fused_adamw_"], ADAMW, args, HYPER)
    assert [verdict.num_elements for verdict in found.values()] == [0.0, 0.0, 0.0]


class NoReadBack(TorchDispatchMode):
    """Fails on every operator that an accelerator could only answer by waiting."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        assert name not in {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}, name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_nothing_is_read_back_on_a_route_for_accelerators(check: Check) -> None:
    probe = Probe(arithmetic=PAIRWISE, limit=2000.0, offset=0.3)
    for example in check.silent:
        overload, args, kwargs = example.call(torch.float32, torch.Generator().manual_seed(7))
        before = OpCall(overload=overload, arguments=dict(perform(check, overload, args, kwargs, probe)[0].arguments))
        state = torch.random.get_rng_state()
        with NoReadBack(), torch.no_grad():
            captured = check.capture(before, probe) if check.capture else None
        output = overload(*args, **kwargs)
        with NoReadBack(), torch.no_grad():
            call = OpCall(overload=overload, arguments=before.arguments, output=output)
            assert check.judge(call, captured, probe)
        assert torch.equal(state, torch.random.get_rng_state())


def test_rounding_models() -> None:
    assert bounds.rounding_of(torch.float32, constants_in_dtype=True).constant == 0.0
    assert bounds.rounding_of(torch.bfloat16, constants_in_dtype=True).constant == 2.0**-8
    assert bounds.rounding_of(torch.bfloat16).store == 2.0**-24
    assert bounds.rounding_of(torch.float64).unit == 2.0**-52


@pytest.mark.parametrize("kernel", ["aten::sqrt", "aten::maximum", "aten::lerp.Scalar", "aten::addcmul"])
@pytest.mark.parametrize("route", [NUMPY, PAIRWISE], ids=lambda route: route.name)
def test_a_shadow_does_not_run_the_operator_that_it_checks(kernel: str, route: Any) -> None:
    name = kernel.partition("::")[2].partition(".")[0]
    rule, terms = RULES[name], [torch.full((8,), value, dtype=torch.float64) for value in (4.0, 2.0, 0.5)]
    operands = Operands(tuple(terms[: rule.num_terms]), 0.25)
    xp, into, back = as_arrays(Probe(arithmetic=route), torch.device("cpu"))
    before = rule.value(xp, operands._replace(terms=tuple(into(term) for term in operands.terms)))
    with faulty_kernel(kernel, lambda call: call.results[0].add_(1.0)):
        after = rule.value(xp, operands._replace(terms=tuple(into(term) for term in operands.terms)))
    assert torch.equal(back(before), back(after))


@pytest.mark.parametrize("first", [math.nan, -0.0, -math.inf, 2.0])
@pytest.mark.parametrize("second", [math.nan, 0.0, math.inf, 1.0])
def test_the_larger_of_two_is_that_of_the_operator(first: float, second: float) -> None:
    terms = torch.tensor([first], dtype=torch.float64), torch.tensor([second], dtype=torch.float64)
    larger = RULES["maximum"].value(torch, Operands(terms))
    assert torch.equal(larger, torch.maximum(*terms)) or (larger.isnan().all() and torch.maximum(*terms).isnan().all())
