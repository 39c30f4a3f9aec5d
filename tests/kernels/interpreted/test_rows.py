"""Kernels of rows judge what torch computed: silent where it is right, and loud where it is not."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from numguard_kernels.cross_entropy import checked_cross_entropy
from numguard_kernels.exponential import (
    COARSE_EXP_ERROR_IN_ROUNDOFFS,
    PRECISE_EXP_ERROR_IN_ROUNDOFFS,
    shadow_exp,
)
from numguard_kernels.launching import launch
from numguard_kernels.logsumexp import checked_logsumexp
from numguard_kernels.norm_gradients import checked_norm_gradient
from numguard_kernels.norms import checked_norm
from numguard_kernels.softmax import checked_softmax

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@triton.jit
def exp_body(x_ptr, out_ptr, PRECISE: tl.constexpr, SIZE: tl.constexpr):
    places = tl.arange(0, SIZE)
    tl.store(out_ptr + places, shadow_exp(tl.load(x_ptr + places), PRECISE))


@pytest.mark.parametrize(
    ("precise", "bound"), [(True, PRECISE_EXP_ERROR_IN_ROUNDOFFS), (False, COARSE_EXP_ERROR_IN_ROUNDOFFS)]
)
def test_the_exponential_is_within_its_bound(precise: bool, bound: float) -> None:
    x = torch.cat([torch.linspace(-86.5, 60.0, 2**12), torch.linspace(-1.0, 1.0, 2**12)])
    out = torch.empty_like(x)
    launch(exp_body, (1,), x, out, PRECISE=precise, SIZE=2**13, num_threads=128, device=x.device)
    error = ((out.double() - x.double().exp()) / x.double().exp()).abs().max().item() * 2.0**24
    assert bound / 10 < error <= bound


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_softmaxes_are_judged(dtype: torch.dtype) -> None:
    x = (torch.randn(3, 90) * 9).to(dtype)
    p = F.softmax(x, -1)
    assert checked_softmax(x, computed=p).num_wrong.tolist() == [0, 0, 0]
    wrong = p.clone()
    wrong[1, x[1].argmax()] *= 1.0 + 4.0 * torch.finfo(dtype).eps + 2.0**-14
    wrong[2, 5] = float("nan")
    for longest in (64, 16384):
        assert checked_softmax(x, computed=wrong, longest_on_chip=longest).num_wrong.tolist() == [0, 1, 1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logarithms_and_losses_are_judged(dtype: torch.dtype) -> None:
    x = (torch.randn(3, 90) * 4).to(dtype)
    targets = torch.tensor([3, 89, -100])
    logsumexp, losses = x.logsumexp(-1), F.cross_entropy(x, targets, reduction="none")
    assert not checked_logsumexp(x, computed=logsumexp, intermediate=dtype).is_wrong.any()
    assert not checked_cross_entropy(x, targets, computed=losses).is_wrong.any()
    wrong = losses.clone()
    wrong[1] *= 1.0 + 8.0 * torch.finfo(dtype).eps + 2.0**-14
    assert checked_cross_entropy(x, targets, computed=wrong).is_wrong.tolist() == [False, True, False]
    assert checked_logsumexp(x, computed=logsumexp + 1.0).is_wrong.all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norms_and_their_gradients_are_judged(dtype: torch.dtype) -> None:
    x = (torch.randn(3, 70) + 0.5).to(dtype).requires_grad_()
    weight, bias, gradient = (torch.randn(shape).to(dtype) for shape in (70, 70, (3, 70)))
    for is_centered in (True, False):
        if is_centered:
            y = F.layer_norm(x, (70,), weight, bias, 1e-5)
            found = checked_norm(x, weight, bias, computed=y)
        else:
            y = F.rms_norm(x.float(), (70,), weight.float(), 1e-5).to(dtype)
            found = checked_norm(x, weight, is_centered=False, computed=y)
        (back,) = torch.autograd.grad(y, x, gradient)
        assert found.num_wrong.tolist() == [0, 0, 0]
        options: dict[str, Any] = {"is_centered": is_centered, "saved": dtype if is_centered else torch.float32}
        assert checked_norm_gradient(gradient, x, weight, computed=back, **options).num_wrong.tolist() == [0, 0, 0]
        back[1, 7] += 0.25
        assert checked_norm_gradient(gradient, x, weight, computed=back, **options).num_wrong.tolist() == [0, 1, 0]


def test_what_cannot_be_is_said() -> None:
    x = torch.ones(2, 5)
    with pytest.raises(TypeError, match="float64"):
        checked_softmax(x.double())
    with pytest.raises(ValueError, match="computed"):
        checked_softmax(x, computed=x[:1])
    with pytest.raises(ValueError, match="at least 1 element"):
        checked_norm(torch.ones(3, 0))
    with pytest.raises(TypeError, match=r"targets\.long"):
        checked_cross_entropy(x, torch.ones(2, dtype=torch.int32))
    with pytest.raises(TypeError, match="one dtype"):
        checked_norm(x, torch.ones(5, dtype=torch.float16))
