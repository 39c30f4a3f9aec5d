"""Moments of long rows and gradients of parameters within their stated bounds, against exact rationals and torch."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from numguard_kernels import launching
from numguard_kernels.element_formats import ELEMENT_FORMATS
from numguard_kernels.launching import launch
from numguard_kernels.long_row_moments import (
    first_mean,
    loaded,
    long_row_errors,
    long_row_shape,
    native_moments,
    no_moments,
    shadow_moments,
    take_tile,
)
from numguard_kernels.norm_gradients import checked_norm_gradient
from numguard_kernels.norm_parameter_gradients import (
    checked_norm_parameter_gradient,
    column_height,
    gradient_growth,
    shadow_error,
)
from numguard_kernels.norms import LONGEST_ON_CHIP, checked_norm

from numguard.numerics import ill_conditioned_sum

U = Fraction(1, 2**24)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@triton.jit
def moments_body(
    x_ptr, out_ptr, n, eps, growth, own_roundoff, CODE: tl.constexpr, THREADS: tl.constexpr, LANES: tl.constexpr
):
    inside = tl.arange(0, THREADS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    shift = first_mean(x_ptr, n, inside, CODE, True)
    shadow, native = no_moments(THREADS, LANES, True)
    for first in range(0, n, THREADS * LANES):
        valid = first + inside < n
        x = loaded(x_ptr + first + inside, valid, CODE)
        _, shadow, native = take_tile(x, valid, shift, shadow, native, True, False)
    moved, mean, variance, _, constant, relative = shadow_moments(shift, shadow, n, eps, growth, own_roundoff, True)
    native_mean, native_deviation = native_moments(native, n, eps, True)
    tl.store(out_ptr, moved)
    tl.store(out_ptr + 1, mean)
    tl.store(out_ptr + 2, variance)
    tl.store(out_ptr + 3, constant)
    tl.store(out_ptr + 4, relative)
    tl.store(out_ptr + 5, native_mean)
    tl.store(out_ptr + 6, native_deviation)


def row_of(kind: str, count: int) -> torch.Tensor:
    x = torch.randn(count)
    if kind == "far mean":
        x += 1e3
    elif kind == "far first tile":
        x[:8] += 3e4
    elif kind == "one outlier":
        x[count // 2] = 1e6
    elif kind == "ramp":
        x = torch.arange(float(count)) - 7.0
    elif kind == "constant":
        x = torch.full((count,), 0.1)
    elif kind == "cancelling":
        x = ill_conditioned_sum(max(count, 14), 1e12, dtype=torch.float32)[:count]
    return x


KINDS = ["ordinary", "far mean", "far first tile", "one outlier", "ramp", "constant", "cancelling"]


@pytest.mark.parametrize("count", [5, 64, 203])
@pytest.mark.parametrize("kind", KINDS)
def test_moments_of_a_long_row_are_within_their_bounds(kind: str, count: int) -> None:
    x = row_of(kind, count)
    form, eps = ELEMENT_FORMATS[torch.float32], 1e-5
    tile, num_threads = long_row_shape(form, x.device)
    growth, own = long_row_errors(count, tile)
    out = torch.empty(7)
    launch(
        moments_body, (1,), x, out, count, eps, growth, own, CODE=form.code, **tile, num_threads=num_threads,
        device=x.device,
    )  # fmt: skip
    moved, mean, variance, constant, relative, native_mean, native_deviation = (Fraction(y) for y in out.tolist())
    exact = [Fraction(value) for value in x.tolist()]
    center = sum(exact, Fraction(0)) / count
    spread = sum(((value - center) ** 2 for value in exact), Fraction(0)) / count
    own_spread = spread + (center - (mean - moved)) ** 2
    root = Fraction(float(own_spread) ** 0.5) * Fraction(1001, 1000) + Fraction(1, 2**60)
    # The shadow by itself, before what an implementation may add to it.
    assert abs(mean - center) <= Fraction(1.125 * own) * root + 2 * U * abs(mean)
    assert abs(variance - spread) <= Fraction(4.0 * own) * own_spread * Fraction(1001, 1000) + 4 * U * spread
    # The native moments against the bound that a verdict takes.
    inverse = 1.0 / (float(spread) + eps) ** 0.5
    assert abs(native_mean - center) * Fraction(inverse) <= constant * Fraction(101, 100)
    assert abs(float(native_deviation) / inverse - 1.0) <= float(relative) * 1.01 + 2.0**-21


def exact_gradients(
    gradient: torch.Tensor, x: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor
) -> list[tuple[list[Fraction], list[Fraction]]]:
    """By column, the terms of the sums for weight and bias."""
    rows = range(x.shape[0])
    g, wide = ([[Fraction(value) for value in row] for row in tensor.double().tolist()] for tensor in (gradient, x))
    centers, scales = ([Fraction(value) for value in tensor.double().tolist()] for tensor in (mean, deviation))
    columns = range(x.shape[1])
    return [([g[i][j] * (wide[i][j] - centers[i]) * scales[i] for i in rows], [g[i][j] for i in rows]) for j in columns]


@pytest.mark.parametrize("condition_number", [1.0, 1e8, 1e16, 1e30])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parameter_gradients_are_within_their_bounds(dtype: torch.dtype, condition_number: float) -> None:
    if condition_number > 1e8 and dtype is torch.float16:
        condition_number = 1e6  # the range of the format holds no more
    num_rows = 61
    columns = [ill_conditioned_sum(num_rows, condition_number, dtype=dtype, seed=seed) for seed in range(5)]
    gradient = torch.stack(columns, 1)
    x = (torch.randn(num_rows, 5) * 0.1 + 1.0).to(dtype)
    mean, deviation = x.float().mean(1) * 0.5, torch.rand(num_rows) + 0.5
    found = checked_norm_parameter_gradient(gradient, x, mean, deviation)
    assert not found.is_wrong.any()
    own = Fraction(shadow_error(num_rows, 3))
    for column, sums in enumerate(exact_gradients(gradient, x, mean, deviation)):
        for number, terms in enumerate(sums):
            total, mass = sum(terms, Fraction(0)), sum(map(abs, terms), Fraction(0))
            assert abs(Fraction(found.shadow[number, column].item()) - total) <= own * mass
            bound = Fraction(found.error_bound[number, column].item())
            assert abs(Fraction(found.value[number, column].double().item()) - total) <= bound
            assert bound >= Fraction(gradient_growth(num_rows, 3, 1)) * mass


def test_a_row_that_is_left_out_is_noticed() -> None:
    gradient, x = torch.randn(40, 9), torch.randn(40, 9)
    forward = checked_norm(x)
    moments = (forward.mean, forward.deviation)
    normalized = (x - forward.mean[:, None]) * forward.deviation[:, None]
    right = (gradient * normalized).sum(0), gradient.sum(0)
    assert not checked_norm_parameter_gradient(gradient, x, *moments, computed=right).is_wrong.any()
    less = (gradient * normalized)[:-1].sum(0), gradient[1:].sum(0)
    assert checked_norm_parameter_gradient(gradient, x, *moments, computed=less).is_wrong.all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parameter_gradients_of_torch_are_judged(dtype: torch.dtype) -> None:
    x = (torch.randn(50, 21) * 2.0 + 1.0).to(dtype)
    gradient, weight, bias = torch.randn(50, 21).to(dtype), torch.randn(21).to(dtype), torch.randn(21).to(dtype)
    _, mean, deviation = torch.native_layer_norm(x, [21], weight, bias, 1e-5)
    computed = torch.ops.aten.native_layer_norm_backward(
        gradient, x, [21], mean, deviation, weight, bias, [False, True, True]
    )[1:]
    kept = mean[:, 0].float(), deviation[:, 0].float()
    added = {"computed": computed, "accumulated": dtype, "height": 50}
    assert not checked_norm_parameter_gradient(gradient, x, *kept, **added).is_wrong.any()
    # The same from moments of one's own, whose errors then count.
    forward = checked_norm(x)
    errors = {"shift_error": forward.shift_error, "scale_error": forward.scale_error}
    moments = (forward.mean, forward.deviation)
    own = checked_norm_parameter_gradient(gradient, x, *moments, saved=mean.dtype, **added, **errors)
    assert not own.is_wrong.any()
    off = {**added, "computed": tuple(entry + 64.0 for entry in computed)}
    assert checked_norm_parameter_gradient(gradient, x, *kept, **off).is_wrong.all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weight_gradients_of_a_root_mean_square_norm_are_judged(dtype: torch.dtype) -> None:
    x, gradient = torch.randn(50, 21).to(dtype), torch.randn(50, 21).to(dtype)
    weight = torch.randn(21).to(dtype).requires_grad_()
    (computed,) = torch.autograd.grad(F.rms_norm(x, (21,), weight, 1e-5), weight, gradient)
    forward = checked_norm(x, is_centered=False)
    errors = {"shift_error": forward.shift_error, "scale_error": forward.scale_error}
    found = checked_norm_parameter_gradient(
        gradient, x, None, forward.deviation, has_bias=False, computed=(computed,), saved=dtype, **errors
    )
    assert found.is_wrong.tolist() == [[False] * 21]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_longer_than_registers_hold_are_judged(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_EMULATED_LANES", 64)  # with two, these rows would take minutes
    count = LONGEST_ON_CHIP + 17
    x = (torch.randn(2, count) + 0.5).to(dtype).requires_grad_()
    weight, bias, gradient = (torch.randn(shape).to(dtype) for shape in (count, count, (2, count)))
    y = F.layer_norm(x, (count,), weight, bias, 1e-5)
    (back,) = torch.autograd.grad(y, x, gradient)
    y = y.detach().clone()
    assert checked_norm(x, weight, bias).num_wrong.tolist() == [0, 0]
    assert checked_norm_gradient(gradient, x, weight).num_wrong.tolist() == [0, 0]
    y[1, count - 1] += 0.25
    assert checked_norm(x, weight, bias, computed=y).num_wrong.tolist() == [0, 1]
    back[0, 4] += 0.25
    assert checked_norm_gradient(gradient, x, weight, computed=back, saved=dtype).num_wrong.tolist() == [1, 0]


def test_heights_of_columns() -> None:
    assert [column_height(rows) for rows in (0, 1, 128, 129, 4096)] == [1, 1, 128, 129, 1120]


def test_what_cannot_be_is_said() -> None:
    x, moments = torch.ones(4, 3), (torch.zeros(4), torch.ones(4))
    with pytest.raises(ValueError, match="at least 1 element"):
        checked_norm_parameter_gradient(x[:, :0], x[:, :0], *moments)
    with pytest.raises(ValueError, match="deviation"):
        checked_norm_parameter_gradient(x, x, torch.zeros(4), torch.ones(3))
    with pytest.raises(ValueError, match="both, or neither"):
        checked_norm_parameter_gradient(x, x, *moments, shift_error=moments[0])
    with pytest.raises(ValueError, match="give it 2"):
        checked_norm_parameter_gradient(x, x, *moments, computed=(x[0],))
    with pytest.raises(ValueError, match=r"computed\[1\]"):
        checked_norm_parameter_gradient(x, x, *moments, computed=(x[0], x[0, :2]))
    with pytest.raises(TypeError, match="float64"):
        checked_norm_parameter_gradient(x.double(), x.double(), *moments)
