"""Calls that the twin judges in one pass: the same shadows and bounds as the general formulas, and right ones."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from numguard_kernels.native import TWIN
from numguard_kernels.native.library import VARIANTS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from numguard.backends.selection import prepare
from numguard.checks import REGISTRY
from numguard.checks.check import Check, Probe
from numguard.checks.examination import perform
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall, bind, overload_name, tensors_in
from numguard.shadow.comparison import Comparison, JudgedComparison
from numguard.shadow.routes import NATIVE, NUMPY
from numguard.shadow.verdict import Verdict, evaluate, evaluate_on_host

aten = torch.ops.aten
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
Draw = Callable[..., Tensor]
Call = tuple[Any, ...]  # overload, arguments and, where there are some, keywords


@pytest.fixture(autouse=True)
def _twin(monkeypatch: pytest.MonkeyPatch) -> None:
    if TWIN.wait() != "ready":
        pytest.skip(TWIN.reason)
    monkeypatch.setenv("NUMGUARD_BACKEND", "native")
    prepare()


def _drawn(dtype: torch.dtype, seed: int = 5) -> Draw:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return draw


def _attention(
    draw: Draw, *, kv_heads: int = 3, mask: str = "none", queries: int = 9, keys: int = 9
) -> tuple[Any, ...]:
    query = draw(2, queries, 3, 16).transpose(1, 2)  # heads beside features, as a model has them
    key, value = draw(2, keys, kv_heads, 16).transpose(1, 2), draw(2, keys, kv_heads, 16).transpose(1, 2)
    bias = {
        "none": None,
        "causal": None,
        "additive": draw(2, 1, queries, keys),
        "masking": torch.where(draw(1, 1, queries, keys) > 0.5, -torch.inf, 0.0).to(query.dtype),
    }[mask]
    return query, key, value, bias


def _forward_call(draw: Draw, **options: Any) -> Call:
    query, key, value, bias = _attention(draw, **options)
    op = aten._scaled_dot_product_flash_attention_for_cpu.default
    return op, (query, key, value, 0.0, options.get("mask") == "causal"), {"attn_mask": bias}


def _backward_call(draw: Draw, **options: Any) -> Call:
    query, key, value, bias = _attention(draw, **options)
    causal = options.get("mask") == "causal"
    out, lse = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, attn_mask=bias)
    given = (draw(*out.shape), query, key, value, out, lse, 0.0, causal)
    op = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    return op, given, {"attn_mask": bias}


def _norm_gradient(draw: Draw, **_options: Any) -> Call:
    x, weight, bias = draw(4, 7, 24) + 0.5, draw(24), draw(24)
    _, mean, rstd = aten.native_layer_norm(x, [24], weight, bias, 1e-5)
    dy = draw(7, 4, 24).transpose(0, 1)
    return aten.native_layer_norm_backward.default, (dy, x, [24], mean, rstd, weight, bias, [False, True, True])


def _indices(count: int, slots: int) -> Tensor:
    return torch.randint(0, slots, (count,), generator=torch.Generator().manual_seed(6))


CALLS: dict[str, Callable[[Draw], Call]] = {
    "attention": _forward_call,
    "attention, causal": lambda draw: _forward_call(draw, mask="causal"),
    "attention, additive mask": lambda draw: _forward_call(draw, mask="additive", keys=13),
    "attention, masked": lambda draw: _forward_call(draw, mask="masking"),
    "attention backward": _backward_call,
    "attention backward, causal": lambda draw: _backward_call(draw, mask="causal"),
    "attention backward, additive mask": lambda draw: _backward_call(draw, mask="additive", keys=13),
    "attention backward, masked": lambda draw: _backward_call(draw, mask="masking"),
    "sum": lambda draw: (aten.sum.default, (draw(6, 50),)),
    "sum of columns": lambda draw: (aten.sum.dim_IntList, (draw(40, 24), [0], True)),
    "sum of rows": lambda draw: (aten.sum.dim_IntList, (draw(5, 8, 30).transpose(1, 2), [-1])),
    "sum of both ends": lambda draw: (aten.sum.dim_IntList, (draw(5, 8, 30), [0, 2])),
    "mean of columns": lambda draw: (aten.mean.dim, (draw(40, 24), [0], True)),
    "mean of rows": lambda draw: (aten.mean.dim, (draw(40, 24)[:, ::2], [-1])),
    "parameter gradients": _norm_gradient,
    "embedding gradient": lambda draw: (
        aten.embedding_dense_backward.default,
        (draw(3, 20, 24), _indices(60, 11).reshape(3, 20), 11, 4, False),
    ),
    "mm": lambda draw: (aten.mm.default, (draw(14, 20).t(), draw(14, 9))),
    "bmm": lambda draw: (aten.bmm.default, (draw(3, 20, 14), draw(3, 9, 14).transpose(1, 2))),
    "addmm": lambda draw: (aten.addmm.default, (draw(9), draw(20, 14), draw(14, 9)), {"beta": 0.5, "alpha": -2.0}),
    "baddbmm": lambda draw: (aten.baddbmm.default, (draw(3, 1, 9), draw(3, 20, 14), draw(3, 14, 9))),
    "sqrt": lambda draw: (aten._foreach_sqrt.default, ([draw(6, 50).abs(), draw(9).abs()],)),
    "add": lambda draw: (aten.add_.Tensor, (draw(6, 50), draw(50)), {"alpha": -0.1}),
    "add, scalar": lambda draw: (aten._foreach_add_.Scalar, ([draw(6, 50), draw(9)], 1e-3)),
    "sub": lambda draw: (aten.sub_.Tensor, (draw(6, 50), draw(6, 50))),
    "mul": lambda draw: (aten.mul_.Tensor, (draw(6, 50), draw(6, 1))),
    "mul, scalar": lambda draw: (aten.mul_.Tensor, (draw(6, 50), torch.tensor(0.999))),
    "div": lambda draw: (aten.div_.Tensor, (draw(6, 50), draw(6, 50))),
    "div, scalars": lambda draw: (aten._foreach_div_.ScalarList, ([draw(6, 50), draw(9)], [0.3, 0.7])),
    "lerp": lambda draw: (aten.lerp_.Scalar, (draw(6, 50), draw(6, 50), 0.1)),
    "lerp, mostly the end": lambda draw: (aten.lerp_.Scalar, (draw(6, 50), draw(6, 50), 0.9)),
    "addcmul": lambda draw: (aten.addcmul_.default, (draw(6, 50), draw(6, 50), draw(6, 50)), {"value": 0.001}),
    "addcmul, scalar": lambda draw: (aten.addcmul_.default, (draw(6, 50), draw(1)[0], draw(6, 50)), {"value": 0.1}),
    "addcdiv, scalar": lambda draw: (aten.addcdiv_.default, (draw(6, 50), draw(1)[0], draw(6, 50)), {"value": 0.1}),
    "addcdiv": lambda draw: (aten.addcdiv_.default, (draw(6, 50), draw(6, 50), draw(6, 50)), {"value": -0.5}),
    "index_add": lambda draw: (aten.index_add.default, (draw(11, 24), 0, _indices(60, 11), draw(60, 24))),
}


def _performed(
    kind: str, dtype: torch.dtype, limit: float = float("inf"), *, spoiled: bool = False
) -> tuple[OpCall, Any]:
    """Return a call and what its check has captured before it."""
    op, args, *keywords = CALLS[kind](_drawn(dtype))
    if spoiled:
        first = next(x for value in args for x in tensors_in(value) if x.is_floating_point() and x.dim())
        first[(0,) * (first.dim() - 1) + (3,)] = torch.nan if dtype == torch.float32 else torch.inf
    probe = Probe(arithmetic=NATIVE, limit=limit, offset=0.4)
    return perform(_check_of(op), op, args, keywords[0] if keywords else {}, probe)


def _compared(performed: tuple[OpCall, Any], arithmetic: Arithmetic, limit: float) -> list[Comparison]:
    call, captured = performed
    return list(_check_of(call.overload).judge(call, captured, Probe(arithmetic=arithmetic, limit=limit, offset=0.4)))


def _check_of(overload: torch._ops.OpOverload) -> Check:
    return next(check for check in REGISTRY.values() if overload_name(overload) in check.ops)


def _is_fused(kind: str, dtype: torch.dtype) -> bool:
    """Return whether the twin judges calls of a kind itself.

    Sums in float64 tell an infinite total from one that has overflowed, which takes a sum of its own; slots of 16 bits
    are judged by their signs and bits besides.
    """
    if kind in ("embedding gradient", "index_add"):
        return dtype in (torch.float32, torch.float64)
    return dtype != torch.float64 or not kind.startswith(("sum", "mean"))


def _same(left: Tensor | float, right: Tensor | float, slack: Tensor | float) -> bool:
    """Return whether numbers agree within a slack, and are not finite in the same places."""
    left, right = torch.as_tensor(left, dtype=torch.float64), torch.as_tensor(right, dtype=torch.float64)
    finite = left.isfinite() & right.isfinite()
    near = ((left - right).abs() <= slack) | ~finite
    return bool((left.isfinite() == right.isfinite()).all() and near.all())


@pytest.mark.parametrize("spoiled", [False, True], ids=["finite", "nonfinite"])
@pytest.mark.parametrize("limit", [float("inf"), 900.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", CALLS)
def test_shadows_and_bounds_are_those_of_the_general_route(
    kind: str, dtype: torch.dtype, limit: float, spoiled: bool
) -> None:
    call = _performed(kind, dtype, limit, spoiled=spoiled)
    native, plain = (_compared(call, arithmetic, limit) for arithmetic in (NATIVE, NUMPY))
    assert [c.output for c in native] == [c.output for c in plain]
    # A scalar for each tensor is spread first, where more than one of them was picked.
    assert kind == "div, scalars" or any(isinstance(c, JudgedComparison) for c in native) == _is_fused(kind, dtype)
    for one, other in zip(native, plain, strict=True):
        if not isinstance(one, JudgedComparison):
            continue
        # A checksum of the results is formed in float64 as well.
        sums = 1e-10 if one.output == "checksum" else 0.0
        assert _same(one.computed, other.computed, sums)
        both = one.shadow_error + other.shadow_error + 2.0**-49 * other.exact.abs()
        assert _same(one.exact, other.exact, both)
        for bounds in ("strict", "permissive", "shadow_error"):
            mine, its = getattr(one, bounds), getattr(other, bounds)
            assert (mine is None) == (its is None)
            # The bounds are evaluated in float64 in another order of additions.
            assert mine is None or _same(mine, its, 1e-9 * torch.as_tensor(its).abs())


@pytest.mark.parametrize("spoiled", [False, True], ids=["finite", "nonfinite"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", CALLS)
def test_the_verdict_is_that_of_equation_1(kind: str, dtype: torch.dtype, spoiled: bool) -> None:
    for comparison in _compared(_performed(kind, dtype, spoiled=spoiled), NATIVE, float("inf")):
        expected = Verdict(*evaluate(comparison).tolist())
        found = expected if not isinstance(comparison, JudgedComparison) else Verdict(*comparison.verdict)
        assert found[:5] == expected[:5]
        assert found.worst_ratio == pytest.approx(expected.worst_ratio, rel=1e-9)
        assert not found.wrong


@pytest.mark.parametrize("kind", CALLS)
def test_a_wrong_element_is_found(kind: str) -> None:
    performed = _performed(kind, torch.float32)
    call = performed[0]
    result = next(x for value in (call.output, call.arguments.get("self")) for x in tensors_in(value))
    result += 0.25 * (torch.arange(result.numel()).reshape(result.shape) == result.numel() // 2)
    verdicts = [
        Verdict(*evaluate(c).tolist()) if not isinstance(c, JudgedComparison) else Verdict(*c.verdict)
        for c in _compared(performed, NATIVE, float("inf"))
    ]
    assert any(verdict.wrong for verdict in verdicts)


@pytest.mark.parametrize("variant", range(len(VARIANTS)), ids=VARIANTS)
@pytest.mark.parametrize("kind", CALLS)
def test_every_instruction_set_finds_the_same(kind: str, variant: int) -> None:
    library = TWIN.library()
    assert library is not None
    performed = _performed(kind, torch.bfloat16)
    expected = _compared(performed, NATIVE, float("inf"))
    if not library.ng_select(variant):
        pytest.skip(f"this processor has no {VARIANTS[variant]}")
    try:
        found = _compared(performed, NATIVE, float("inf"))
    finally:
        library.ng_select(-1)
    for one, other in zip(found, expected, strict=True):
        assert _same(one.exact, other.exact, one.shadow_error + other.shadow_error + 2.0**-49 * other.exact.abs())
        assert _same(one.strict, other.strict, 1e-9 * torch.as_tensor(other.strict).abs())


class _Dispatched(TorchDispatchMode):
    """Counts the operators of torch that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(overload_name(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["mm", "bmm", "addmm"])
def test_a_sound_product_is_judged_without_a_single_operator_of_torch(kind: str) -> None:
    call = _performed(kind, torch.float32)[0]
    check = next(check for check in REGISTRY.values() if call.op in check.ops)
    probe = Probe(arithmetic=NATIVE, limit=900.0, offset=0.4)
    check.judge(call, None, probe)  # coefficients are formed once
    with _Dispatched() as dispatched:
        verdicts = [evaluate_on_host(comparison) for comparison in check.judge(call, None, probe)]
    assert verdicts
    assert all(verdict.worst_ratio <= 1.0 for verdict in verdicts)
    assert dispatched.names == []


def test_every_other_element_of_a_vector_is_judged_where_it_lies() -> None:
    parameter, step = torch.randn(5000), torch.randn(5000)
    for check in (check for check in REGISTRY.values() if "aten::add_.Tensor" in check.ops):
        for route in (NATIVE, NUMPY):
            probe = Probe(arithmetic=route, limit=20_000.0, offset=0.7)
            call, captured = perform(check, aten.add_.Tensor, (parameter, step), {"alpha": -0.1}, probe)
            (comparison,) = check.judge(call, captured, probe)
            assert 500 <= comparison.computed.numel() < 5000
            assert comparison.computed.is_contiguous()
            assert not evaluate_on_host(comparison).wrong


@pytest.mark.parametrize("limit", [4096.0, 65536.0, float("inf")])
@pytest.mark.parametrize("op", [aten.mm.default, aten.addmm.default, aten.bmm.default])
def test_products_of_one_layout_are_judged_each_on_its_own(op: Any, limit: float) -> None:
    """The plan of a layout is shared: addresses and the rows that an offset picks are each call's own."""
    draw = _drawn(torch.float32)
    lead = (3,) if op is aten.bmm.default else ()
    check = next(check for check in REGISTRY.values() if overload_name(op) in check.ops)
    added = (draw(40),) if op is aten.addmm.default else ()
    for offset in (0.0, 0.37, 0.999):
        factors = (*added, draw(*lead, 30, 24), draw(*lead, 24, 40))
        result = op(*factors)
        call = OpCall(overload=op, arguments=bind(op, factors, {}), output=result)
        probe = Probe(arithmetic=NATIVE, limit=limit, offset=offset)
        comparisons = list(check.judge(call, None, probe))
        assert all(isinstance(comparison, JudgedComparison) for comparison in comparisons)
        general = list(check.judge(call, None, replace(probe, arithmetic=NUMPY)))
        for judged, known in zip(comparisons, general, strict=True):
            torch.testing.assert_close(judged.exact.reshape(-1), known.exact.reshape(-1), rtol=1e-13, atol=1e-12)
            assert torch.equal(judged.computed.double().reshape(-1), known.computed.double().reshape(-1))
            assert not Verdict._make(judged.verdict).wrong
        result += 1.0
        assert any(Verdict._make(judged.verdict).wrong for judged in check.judge(call, None, probe))
