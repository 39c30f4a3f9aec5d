"""Rounding bounds of fused attention and its gradients, as pure formulas on float64 tensors.

The structure is that of Blanchard, Higham and Higham (IMA J. Numer. Anal. 41(4), 2021) for softmax: an error delta
in a score multiplies its weight by at most ``exp(delta)``. Nothing is linearised, so that scores of any size keep a
true, if wide, bound.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

EXP_WIDE: Final = 40.0  # roundoffs of the float32 exponential of flash kernels: documented 20 ulp, measured 6.1 u
EXP_SIXTEEN: Final = 2.0**-12  # relative error of the exponential when weights are stored in 16 bits, measured 2**-12.9
LOG: Final = 4.0  # roundoffs of the logarithm, measured 1.6 u
KEY_BLOCK: Final = 512  # keys between two rescalings of the running sums
QUERY_BLOCK: Final = 32  # queries whose gradients are added before the 16-bit store


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionModel:
    """How an implementation computes attention.

    Parameters
    ----------
    unit_roundoff, smallest_normal
        Of the accumulator.
    exponential
        Relative error of one exponential.
    weight_roundoff, weight_smallest
        Rounding of the weights P and of dS to the dtype of the factors; 0 where they stay in the accumulator.
    weight_largest
        Largest number of that dtype.
    factor_roundoff
        Rounding of the factors before a product (TF32); 0 where there is none.
    store_roundoff, store_smallest
        Rounding of gradients that are stored after every block of rows; 0 where they are not.
    """

    unit_roundoff: float
    smallest_normal: float
    exponential: float
    weight_roundoff: float = 0.0
    weight_smallest: float = 0.0
    weight_largest: float = float("inf")
    factor_roundoff: float = 0.0
    store_roundoff: float = 0.0
    store_smallest: float = 0.0


def score_error(mass: Tensor, num_features: int, model: AttentionModel) -> Tensor:
    """Return the error of ``scale q k + mask``, whose terms have the total size ``mass`` (0 where masked)."""
    relative = (num_features + 5) * model.unit_roundoff + 2.0 * model.factor_roundoff
    return torch.where(mass > 0, relative * mass + num_features * model.smallest_normal, 0.0)


def exponential_error(exponent: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``exp(exponent)`` and the largest change of it when the exponent moves by ``delta``; 0 where masked."""
    value = torch.exp(exponent)
    moved = torch.where(delta < 1.0, value * torch.expm1(delta.clamp(max=1.0)), torch.exp(exponent + delta))
    return value, torch.where(exponent == -torch.inf, 0.0, moved)


def weights_bound(error: Tensor, total_error: Tensor, weights: Tensor) -> Tensor:
    """Return the error of normalised weights ``e / Z``.

    Parameters
    ----------
    error
        Error of e, divided by Z.
    total_error
        Relative error of Z; weights have no bound from one half upwards.
    weights
        ``e / Z``.
    """
    bound = (error + weights * total_error) / (1.0 - total_error)
    return torch.where(total_error < 0.5, bound, torch.inf)


def total_error(errors_over_total: Tensor, num_keys: int, model: AttentionModel) -> Tensor:
    """Return the relative error of Z: that of its terms and of their sum with its rescalings."""
    return errors_over_total + sum_height(num_keys) * model.unit_roundoff


def sum_height(num_keys: int) -> int:
    """Return the additions that a term of Z or of an output passes through, with its rescalings."""
    return num_keys + 4 + 3 * -(-num_keys // KEY_BLOCK)


def weights_with_rounding(weights: Tensor, bound: Tensor, num_keys: int, model: AttentionModel) -> Tensor:
    """Return the factor of ``|v|`` in the error of ``P v``: weight errors, inner product, rescalings, rounding of P."""
    relative = (sum_height(num_keys) + 4) * model.unit_roundoff + model.weight_roundoff + model.factor_roundoff
    return bound + (weights + bound) * relative


def output_floor(largest_value: Tensor, value_sizes: Tensor, num_keys: int, model: AttentionModel) -> Tensor:
    """Return the underflow term of the output: largest ``|v|`` over the keys, and their sum for rounded weights."""
    return 4.0 * num_keys * model.smallest_normal * (1.0 + largest_value) + model.weight_smallest * value_sizes


def logsumexp_bound(total_error: Tensor, log_total: Tensor, model: AttentionModel) -> Tensor:
    """Return the error of ``m + log Z`` before output rounding."""
    relative = -torch.log1p(-total_error.clamp(max=0.5))
    bound = relative + (LOG + 1.0) * model.unit_roundoff * log_total.abs()
    return torch.where(total_error < 0.5, bound, torch.inf)


def score_gradient_bound(
    weights: Tensor, weights_error: Tensor, difference: Tensor, mass: Tensor, num_features: int, model: AttentionModel
) -> Tensor:
    """Return the error of ``dS = P (dP - D)``.

    Parameters
    ----------
    weights, weights_error
        P and its error.
    difference
        ``dP - D`` with ``dP = dO V^T`` and ``D = sum dO O``.
    mass
        ``|dO| |V|^T + sum |dO O|``.
    num_features
        Length of the two inner products.
    """
    u = model.unit_roundoff
    relative = (num_features + 4) * u + 2.0 * model.factor_roundoff
    of_difference = relative * mass + num_features * model.smallest_normal
    value = (weights * difference).abs()
    bound = weights_error * (difference.abs() + of_difference) + weights * of_difference + 3.0 * u * value
    return torch.where(1.05 * value < model.weight_largest, bound, torch.inf)


def gradient_bound(
    error_mass: Tensor,
    mass: Tensor,
    factor_sizes: Tensor,
    num_terms: int,
    num_stores: int,
    scale: float,
    model: AttentionModel,
) -> Tensor:
    """Return E of a gradient ``scale * L @ R`` whose left factor P or dS has an error.

    Parameters
    ----------
    error_mass
        ``error(L) @ |R|``.
    mass
        ``|L| @ |R|``.
    factor_sizes
        ``sum |R|`` over the terms.
    num_terms
        Length of the inner products.
    num_stores
        How often the gradient is stored while it grows.
    """
    relative = (num_terms + 5) * model.unit_roundoff + 1.01 * model.weight_roundoff
    relative += 2.0 * model.factor_roundoff + num_stores * model.store_roundoff
    floor = (2.0 * model.smallest_normal + model.weight_smallest) * factor_sizes
    floor = floor + 3.0 * num_terms * model.smallest_normal
    return abs(scale) * (error_mass * 1.01 + relative * mass + floor) + num_stores * model.store_smallest
