"""Layer norms that the twin judges in one pass: the same shadows and bounds as the general formulas, and right ones."""

from fractions import Fraction

import pytest
import torch
from numguard_kernels.native import TWIN
from torch import Tensor

from numguard.backends.selection import prepare
from numguard.checks import REGISTRY
from numguard.checks.check import Probe
from numguard.shadow.arithmetic import Arithmetic
from numguard.shadow.call import OpCall, bind
from numguard.shadow.comparison import Comparison, JudgedComparison
from numguard.shadow.routes import NATIVE, NUMPY
from numguard.shadow.verdict import Verdict, evaluate

aten = torch.ops.aten
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@pytest.fixture(autouse=True)
def _twin(monkeypatch: pytest.MonkeyPatch) -> None:
    if TWIN.wait() != "ready":
        pytest.skip(TWIN.reason)
    monkeypatch.setenv("NUMGUARD_BACKEND", "native")
    prepare()


def _rows(kind: str, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(6, 5, 24, generator=generator, dtype=torch.float64)
    x = {
        "plain": lambda: x,
        "shifted": lambda: x + 40.0,
        "tiny": lambda: x * float(torch.finfo(dtype).smallest_normal),
        "large": lambda: x * float(torch.finfo(dtype).max) / 8.0,
        "constant": lambda: torch.full_like(x, 3.0),
        "nonfinite": lambda: torch.where(
            torch.arange(24) == 7, torch.tensor([[float("inf")], [float("nan")]] * 3)[:, None], x
        ),
    }[kind]()
    return x.to(dtype).transpose(0, 1)  # rows that are not adjacent


def _calls(kind: str, dtype: torch.dtype, affine: bool) -> tuple[OpCall, OpCall]:
    x = _rows(kind, dtype)
    generator = torch.Generator().manual_seed(12)
    weight, bias = (
        torch.randn(2, 24, generator=generator, dtype=torch.float64).to(dtype).unbind() if affine else (None,) * 2
    )
    forward, backward = aten.native_layer_norm.default, aten.native_layer_norm_backward.default
    args = (x, [24], weight, bias, 1e-5)
    out = forward(*args)
    dy = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(dtype)
    back = (dy, x, [24], out[1], out[2], weight, bias, [True, affine, affine])
    return (
        OpCall(overload=forward, arguments=bind(forward, args, {}), output=out),
        OpCall(overload=backward, arguments=bind(backward, back, {}), output=backward(*back)),
    )


def _compared(call: OpCall, arithmetic: Arithmetic, limit: float) -> list[Comparison]:
    check = REGISTRY["layer_norm_backward" if "backward" in call.op else "layer_norm"]
    return list(check.judge(call, None, Probe(arithmetic=arithmetic, limit=limit, offset=0.4)))


def _same(left: Tensor, right: Tensor, slack: Tensor | float) -> bool:
    """Return whether numbers agree within a slack, non-finite ones as they are."""
    finite = left.isfinite() & right.isfinite()
    like = torch.nan_to_num(left, 0.0, 1.0, -1.0) * ~finite == torch.nan_to_num(right, 0.0, 1.0, -1.0) * ~finite
    near = ((left - right).abs() <= slack) | ~finite
    return bool(torch.equal(left.isfinite(), right.isfinite()) and like.all() and near.all())


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("limit", [float("inf"), 2000.0])
@pytest.mark.parametrize("kind", ["plain", "shifted", "tiny", "large", "constant", "nonfinite"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shadows_and_bounds_are_those_of_the_general_route(
    dtype: torch.dtype, kind: str, limit: float, affine: bool
) -> None:
    for call in _calls(kind, dtype, affine):
        native, plain = (_compared(call, arithmetic, limit) for arithmetic in (NATIVE, NUMPY))
        assert [c.output for c in native] == [c.output for c in plain]
        assert any(isinstance(c, JudgedComparison) for c in native)
        for one, other in zip(native, plain, strict=True):
            if not isinstance(one, JudgedComparison):
                continue
            assert torch.equal(one.computed.nan_to_num(), other.computed.nan_to_num())
            both = one.shadow_error + other.shadow_error + 2.0**-50 * other.exact.abs()
            assert _same(one.exact, other.exact, both)
            # The bounds are evaluated in float64 in another order of additions.
            for bounds in ("strict", "permissive", "shadow_error"):
                mine, its = getattr(one, bounds), getattr(other, bounds)
                assert (mine is None) == (its is None)
                if mine is not None:
                    assert _same(mine, its, 1e-9 * its)


@pytest.mark.parametrize("kind", ["plain", "shifted", "nonfinite"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_verdict_is_that_of_equation_1(dtype: torch.dtype, kind: str) -> None:
    for call in _calls(kind, dtype, True):
        for comparison in _compared(call, NATIVE, float("inf")):
            if not isinstance(comparison, JudgedComparison):
                continue
            found, expected = Verdict(*comparison.verdict), Verdict(*evaluate(comparison).tolist())
            assert found[:5] == expected[:5]
            assert found.worst_ratio == pytest.approx(expected.worst_ratio, rel=1e-9)
            assert found.worst_strict_ratio == pytest.approx(expected.worst_strict_ratio, rel=1e-9)


def _exact_gradient(dy: list[Fraction], x: list[Fraction], mean: Fraction, rstd: Fraction) -> list[Fraction]:
    count = len(x)
    xhat = [(value - mean) * rstd for value in x]
    first, second = sum(dy) / count, sum(a * b for a, b in zip(dy, xhat, strict=True)) / count
    return [rstd * (a - first - b * second) for a, b in zip(dy, xhat, strict=True)]


@pytest.mark.parametrize("kind", ["plain", "shifted", "constant"])
def test_shadows_err_by_what_they_state_at_most(kind: str) -> None:
    forward, backward = _calls(kind, torch.float32, False)
    mean = next(c for c in _compared(forward, NATIVE, float("inf")) if c.output == "mean")
    gradient = next(c for c in _compared(backward, NATIVE, float("inf")) if c.output == "grad_input")
    for at in ((0, 0), (4, 5)):
        x = [Fraction(value) for value in forward["input"][at].tolist()]
        error = abs(Fraction(mean.exact[at].item()) - sum(x) / len(x))
        assert error <= Fraction(mean.shadow_error[at].item()) + Fraction(2) ** -51 * abs(sum(x) / len(x))
        dy, center, scale = (backward[name][at].tolist() for name in ("grad_out", "mean", "rstd"))
        exact = _exact_gradient([Fraction(value) for value in dy], x, Fraction(center[0]), Fraction(scale[0]))
        for value, found, slack in zip(
            exact, gradient.exact[at].tolist(), gradient.shadow_error[at].tolist(), strict=True
        ):
            assert abs(value - Fraction(found)) <= Fraction(slack) + Fraction(2) ** -51 * abs(value)


def test_a_wrong_row_is_found() -> None:
    forward, backward = _calls("plain", torch.float32, True)
    forward.output[0][2, 3, 4] *= 1.001
    backward.output[0][2, 3, 4] += 0.01
    for call in (forward, backward):
        verdict = Verdict(
            *next(c.verdict for c in _compared(call, NATIVE, float("inf")) if isinstance(c, JudgedComparison))
        )
        assert verdict.wrong
        assert verdict.worst_index == (2 * 6 + 3) * 24 + 4
