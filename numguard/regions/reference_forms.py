"""Reference forms of known regions: what such a module should return, written to be right in float64.

A form takes ``state`` and then the arguments of the module. ``state`` holds the module's parameters and buffers in
float64 under their names, and its plain numbers (``eps``, ``dim``) as they are. A form is a function: it writes to
nothing, runs none of the user's code, and adds in pairs, for the sums of torch may be what is wrong. Users name one in
``regions={"blocks.*.norm": "layer_norm"}``, or give a function of their own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from numguard.numerics import pairwise_sum

State = Mapping[str, Any]
Form = Callable[..., Tensor | Sequence[Tensor]]


def _affine(y: Tensor, state: State) -> Tensor:
    weight, bias = state.get("weight"), state.get("bias")
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def layer_norm(state: State, x: Tensor) -> Tensor:
    """Return ``(x - mean) / sqrt(variance + eps)`` over the last dimensions, in two passes, scaled and shifted."""
    weight = state.get("weight")
    dims = tuple(range(-(weight.dim() if weight is not None else 1), 0))
    centred = x - _mean(x, dims)
    variance = _mean(centred * centred, dims)
    return _affine(centred / torch.sqrt(variance + state.get("eps", 1e-5)), state)


def rms_norm(state: State, x: Tensor) -> Tensor:
    """Return ``x / sqrt(mean x**2 + eps)`` over the last dimension, scaled."""
    eps = state.get("eps")
    return _affine(x / torch.sqrt(_mean(x * x, (-1,)) + (1e-6 if eps is None else eps)), state)


def variance(state: State, x: Tensor) -> Tensor:
    """Return the variance over the last dimension, in two passes, less ``correction`` degrees of freedom (0)."""
    centred = x - _mean(x, (-1,))
    spread: Tensor = pairwise_sum(centred * centred) / (x.shape[-1] - state.get("correction", 0))
    return spread


def welford_merge(
    state: State, count_a: Tensor, mean_a: Tensor, m2_a: Tensor, count_b: Tensor, mean_b: Tensor, m2_b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return count, mean and summed squared deviations of two parts together.

    Notes
    -----
    Chan, Golub, LeVeque, The American Statistician 37, 1983: with ``d = mean_b - mean_a``, the mean is
    ``mean_a + d n_b / n`` and the squared deviations are ``M_a + M_b + d**2 n_a n_b / n``.
    """
    total = count_a + count_b
    delta = mean_b - mean_a
    share = torch.where(total > 0, count_b / total.clamp(min=1), 0.0)
    return total, mean_a + delta * share, m2_a + m2_b + delta * delta * count_a * share


def softmax(state: State, x: Tensor) -> Tensor:
    """Return probabilities over ``dim`` (the last one), shifted by the maximum."""
    powers = torch.exp(_shifted(x, _dim(state)))
    return powers / _sum(powers, _dim(state))


def log_softmax(state: State, x: Tensor) -> Tensor:
    """Return log probabilities over ``dim`` (the last one), shifted by the maximum."""
    shifted = _shifted(x, _dim(state))
    return shifted - torch.log(_sum(torch.exp(shifted), _dim(state)))


def logsumexp(state: State, x: Tensor) -> Tensor:
    """Return ``log sum exp x`` over ``dim`` (the last one)."""
    largest = _maximum(x, _dim(state))
    return (largest + torch.log(_sum(torch.exp(x - largest), _dim(state)))).squeeze(_dim(state))


def cross_entropy(state: State, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean negative log probability of class ``targets``, over those that are not ``ignore_index``."""
    counted = targets != state.get("ignore_index", -100)
    classes = torch.where(counted, targets, 0).unsqueeze(1)
    shifted = _shifted(logits, 1)
    picked = torch.log(pairwise_sum(torch.exp(shifted), 1)) - shifted.gather(1, classes).squeeze(1)
    mean: Tensor = pairwise_sum((picked * counted).reshape(-1)) / pairwise_sum(counted.reshape(-1))
    return mean


def attention(state: State, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return ``softmax(q k' scale + mask) v`` over [..., length, width]; ``scale`` is ``1 / sqrt(width)``."""
    scores = query @ key.transpose(-1, -2) * state.get("scale", 1.0 / math.sqrt(query.shape[-1]))
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask
    return softmax({}, scores) @ value


def gelu(state: State, x: Tensor) -> Tensor:
    """Return ``x Phi(x)`` by the complementary error function, whose tail does not cancel."""
    return 0.5 * x * torch.erfc(-x / math.sqrt(2.0))


def softplus(state: State, x: Tensor) -> Tensor:
    """Return ``log(1 + exp x)`` without overflow on one side or loss on the other."""
    return x.clamp(min=0.0) + torch.log1p(torch.exp(-x.abs()))


def vector_norm(state: State, x: Tensor) -> Tensor:
    """Return the Euclidean norm over ``dim`` (the last one), scaled by the largest element."""
    largest = x.abs().amax(_dim(state), keepdim=True).detach()
    scale = torch.where(largest > 0.0, largest, 1.0)
    scaled = x / scale
    return (_sum(scaled * scaled, _dim(state)).sqrt() * scale).squeeze(_dim(state))


def cosine_similarity(state: State, a: Tensor, b: Tensor) -> Tensor:
    """Return ``a b / max(|a| |b|, eps)`` over ``dim`` (the last one); 0 for a zero vector."""
    dim = _dim(state)
    norms = vector_norm({"dim": dim}, a) * vector_norm({"dim": dim}, b)
    product: Tensor = pairwise_sum(a * b, dim) / norms.clamp(min=state.get("eps", 1e-8))
    return product


def softmax_cross_entropy_gradient(state: State, logits: Tensor, targets: Tensor) -> Tensor:
    """Return ``p - onehot`` by row, where the entry of the target is minus the sum of all others."""
    shifted = _shifted(logits, -1)
    picked = torch.nn.functional.one_hot(targets, logits.shape[-1]).to(torch.bool)
    powers = torch.exp(shifted)
    total = _sum(powers, -1)
    others = torch.where(picked, 0.0, powers)
    return torch.where(picked, -_sum(others, -1), others) / total


def _sum(x: Tensor, dim: int) -> Tensor:
    return pairwise_sum(x, dim).unsqueeze(dim)


def _mean(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    total = x
    for dim in dims:
        total = _sum(total, dim)
    return total / math.prod(x.shape[dim] for dim in dims)


def _dim(state: State) -> int:
    dim = state.get("dim")
    return -1 if dim is None else int(dim)


def _maximum(x: Tensor, dim: int) -> Tensor:
    largest = x.detach().amax(dim, keepdim=True)
    return torch.where(torch.isfinite(largest), largest, 0.0)


def _shifted(x: Tensor, dim: int) -> Tensor:
    return x - _maximum(x, dim)


#: Forms by the name that ``regions=`` takes.
REFERENCE_FORMS: Final[Mapping[str, Form]] = MappingProxyType(
    {
        form.__name__: form
        for form in (
            attention,
            cosine_similarity,
            cross_entropy,
            gelu,
            layer_norm,
            log_softmax,
            logsumexp,
            rms_norm,
            softmax,
            softmax_cross_entropy_gradient,
            softplus,
            variance,
            vector_norm,
            welford_merge,
        )
    }
)
