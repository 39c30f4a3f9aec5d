"""Regions as people write them, wrongly and well, each with its mathematics and with data that turn bad by degrees.

The judge of the tests is independent of numguard's: the mathematics in float64, its Jacobian, and one ulp.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Function = Callable[..., Tensor]
ROWS = 6


class Region(NamedTuple):
    """``wrong`` and ``well`` compute ``exact``; ``data(badness, dtype)`` returns their inputs, worse from 0 to 1."""

    wrong: Function
    well: Function
    exact: Function
    data: Callable[[float, torch.dtype], tuple[Tensor, ...]]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)


class Written(nn.Module):
    """A function as a module, so that the guard sees it as a region."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- variance and normalisation ------------------------------------------------------------------------------------


def one_pass_norm(x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x * x).mean(-1, keepdim=True) - mean * mean
    return (x - mean) * torch.rsqrt(variance.clamp_min(0) + 1e-5)


def two_pass_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + 1e-5)


def one_pass_variance(x: Tensor) -> Tensor:
    return (x * x).mean(-1) - x.mean(-1) ** 2


def two_pass_variance(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (centred * centred).mean(-1)


def shifted_rows(badness: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return ((_normal(ROWS, 64) + 1000.0**badness - 1.0).to(dtype),)


# -- softmax -------------------------------------------------------------------------------------------------------


def log_softmax_by_others(x: Tensor) -> Tensor:
    """Return log probabilities; the largest term, 1, is kept apart from the others, which may be far below an ulp."""
    largest = x.amax(-1, keepdim=True)
    place = x.argmax(-1, keepdim=True)
    shifted = x - largest
    others = torch.exp(shifted).scatter(-1, place, 0.0)
    return shifted - torch.log1p(others.sum(-1, keepdim=True))


def log_of_softmax(x: Tensor) -> Tensor:
    return torch.log(torch.softmax(x, -1))


def softmax_without_maximum(x: Tensor) -> Tensor:
    powers = torch.exp(x)
    return powers / powers.sum(-1, keepdim=True)


def softmax_with_maximum(x: Tensor) -> Tensor:
    powers = torch.exp(x - x.amax(-1, keepdim=True))
    return powers / powers.sum(-1, keepdim=True)


def scaled_logits(badness: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return ((_normal(ROWS, 24) * (0.5 + 150.0 * badness**2)).to(dtype),)


def p_minus_onehot(x: Tensor) -> Tensor:
    return torch.softmax(x, -1) - F.one_hot(torch.zeros(len(x), dtype=torch.int64), x.shape[-1]).to(x.dtype)


def p_minus_onehot_by_others(x: Tensor) -> Tensor:
    powers = torch.exp(x - x.amax(-1, keepdim=True))
    total = powers.sum(-1, keepdim=True)
    return torch.cat([-powers[:, 1:].sum(-1, keepdim=True), powers[:, 1:]], -1) / total


def confident_logits(badness: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Logits near zero but for a target that wins by more and more: what training ends in."""
    x = 0.01 * _normal(ROWS, 24)
    x[:, 0] += 18.0 * badness
    return (x.to(dtype),)


# -- norms ---------------------------------------------------------------------------------------------------------


def naive_norm(x: Tensor) -> Tensor:
    return torch.sqrt((x * x).sum(-1))


def scaled_norm(x: Tensor) -> Tensor:
    largest = x.abs().amax(-1, keepdim=True)
    return torch.sqrt(((x / largest) ** 2).sum(-1)) * largest.squeeze(-1)


def exact_norm(x: Tensor) -> Tensor:
    return torch.sqrt((x * x).sum(-1))


def shrinking_rows(badness: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    deepest = 5.0 if dtype is torch.float16 else 26.0
    return ((_normal(ROWS, 32) * 10.0 ** (-deepest * badness)).to(dtype),)


def cosine_with_lost_eps(a: Tensor, b: Tensor) -> Tensor:
    norms = torch.sqrt((a * a).sum(-1)) * torch.sqrt((b * b).sum(-1))
    return (a * b).sum(-1) / (norms + 1e-8)


def cosine_in_float32(a: Tensor, b: Tensor) -> Tensor:
    return cosine_with_lost_eps(a.float(), b.float()).to(a.dtype)


def vanishing_pairs(badness: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Pairs of vectors, of which the first turns to padding (zeros) at the end."""
    first = _normal(ROWS, 16)
    first[0] *= 1.0 if badness < 0.7 else 0.0
    return (first.to(dtype), _normal(ROWS, 16, seed=1).to(dtype))


# -- tails ---------------------------------------------------------------------------------------------------------


def naive_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))


def erfc_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * torch.erfc(-x / math.sqrt(2.0))


def naive_softplus(x: Tensor) -> Tensor:
    return torch.log(1.0 + torch.exp(x))


def log1p_softplus(x: Tensor) -> Tensor:
    return x.clamp(min=0.0) + torch.log1p(torch.exp(-x.abs()))


def _tail(furthest: float) -> Callable[[float, torch.dtype], tuple[Tensor, ...]]:
    def data(badness: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return ((torch.linspace(0.5, 1.5, 16, dtype=torch.float64) - furthest * badness).to(dtype),)

    return data


REGIONS: dict[str, Region] = {
    "one-pass layer norm": Region(one_pass_norm, two_pass_norm, two_pass_norm, shifted_rows),
    "one-pass variance": Region(one_pass_variance, two_pass_variance, two_pass_variance, shifted_rows),
    "log(softmax)": Region(log_of_softmax, log_softmax_by_others, log_softmax_by_others, scaled_logits),
    "softmax without maximum": Region(
        softmax_without_maximum, softmax_with_maximum, softmax_with_maximum, scaled_logits
    ),
    "p - onehot": Region(p_minus_onehot, p_minus_onehot_by_others, p_minus_onehot_by_others, confident_logits),
    "naive norm": Region(naive_norm, scaled_norm, exact_norm, shrinking_rows, (torch.float32, torch.float16)),
    "cosine whose eps is lost": Region(
        cosine_with_lost_eps, cosine_in_float32, cosine_with_lost_eps, vanishing_pairs, (torch.float16,)
    ),
    "naive GELU": Region(naive_gelu, erfc_gelu, erfc_gelu, _tail(6.0)),
    "naive softplus": Region(naive_softplus, log1p_softplus, log1p_softplus, _tail(30.0)),
}


class Holder(nn.Module):
    """A model with one region."""

    def __init__(self, region: nn.Module) -> None:
        super().__init__()
        self.region = region

    def forward(self, *inputs: Tensor) -> Any:
        return self.region(*inputs)


def one_ulp(x: Tensor) -> Tensor:
    """Return the gap at each element, from the exponent alone."""
    info = torch.finfo(x.dtype)
    size = x.double().abs().clamp(min=info.tiny)
    return info.eps * 2.0 ** torch.floor(torch.log2(size))


def error_in_one_ulp_changes(region: Region, computed: Tensor, inputs: tuple[Tensor, ...]) -> float:
    """Return the largest error of an element, over what one-ulp changes of the inputs can make of it."""
    wide = tuple(x.double() for x in inputs)
    exact = region.exact(*wide)
    change = 0.5 * one_ulp(exact.to(computed.dtype))
    jacobians = torch.autograd.functional.jacobian(region.exact, wide)  # of the mathematics, not of the program
    for jacobian, x in zip(jacobians, inputs, strict=True):
        change = change + (jacobian.abs() * one_ulp(x)).flatten(exact.dim()).sum(-1)
    error = (computed.double() - exact).abs()
    ratio = torch.where(torch.isfinite(computed), error / change, torch.inf)
    return float(ratio.nan_to_num(nan=0.0, posinf=torch.inf).max())  # a cosine of padding has no derivative
