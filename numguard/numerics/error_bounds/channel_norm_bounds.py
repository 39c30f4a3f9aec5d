"""Rounding bounds of batch, group and instance normalisation, forward and backward.

Notation: mu and V mean and variance of the elements that are normalised together, n their number, a = 1 / sqrt(V +
eps), xhat = (x - mu) a, dy the incoming gradient. Everything is float64; statistics and weights broadcast against the
elements. Every result bounds ``|computed - exact|`` before output rounding; u is the unit roundoff of ``dtype``.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from numguard.numerics.error_bounds.exponential_bounds import bounded_while, storage_roundings
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF

STORED: Final = 1.05  # second-order terms of the 16-bit roundings


class Given(NamedTuple):
    """Mean and rstd as the backward operator was given them, and the absolute weight."""

    mean: Tensor
    rstd: Tensor
    weight: Tensor | float = 1.0


class GradientSums(NamedTuple):
    """Sums over the n elements of t, t x and t xhat, and of their absolute values, for t = dy or dy w."""

    t: Tensor
    tx: Tensor
    txhat: Tensor
    t_mass: Tensor
    tx_mass: Tensor
    txhat_mass: Tensor


def scaled_bound(
    x: Tensor, given: Given, mean_error: Tensor, rstd_error: Tensor, bias: Tensor | float, dtype: torch.dtype
) -> Tensor:
    """Return the bound of ``w (x - mu) a + b``, also as ``x alpha + beta`` with alpha = w a, beta = b - mu alpha.

    Parameters
    ----------
    x
        Elements.
    mean_error, rstd_error
        Absolute bound of the mean, relative bound of a.
    bias
        b.

    Notes
    -----
    ``|w| a (1 + rho) (d mu + 4 u (|x| + |mu|)) + |w xhat| (rho + 6 u) + 3 u |b|`` and the underflow of the products:
    the terms x alpha and mu alpha round separately.
    """
    unit, tiny = UNIT_ROUNDOFF[dtype], torch.finfo(dtype).smallest_normal
    magnitude = given.weight.abs() if isinstance(given.weight, Tensor) else abs(given.weight)
    offset = bias.abs() if isinstance(bias, Tensor) else abs(bias)
    outer = magnitude * given.rstd * (1.0 + rstd_error)
    moved = outer * (mean_error + 4.0 * unit * (x.abs() + given.mean.abs()))
    scaled = magnitude * (x - given.mean).abs() * given.rstd * (rstd_error + 9.0 * unit)
    underflow = tiny * (1.0 + magnitude) * (1.0 + x.abs() + given.mean.abs()) + 2.0 * tiny
    largest = outer * (x.abs() + given.mean.abs()) + offset
    return bounded_while(4.0 * largest, dtype, moved + scaled + 3.0 * unit * offset + underflow)


def stored_statistics_bound(
    x: Tensor, given: Given, bias: Tensor | float, storage: torch.dtype | None
) -> Tensor | float:
    """Return what 16-bit mean, rstd, alpha and beta add to :func:`scaled_bound`: nothing where they are not 16-bit.

    Notes
    -----
    ``u_s (4 |x alpha| + 6 |mu alpha| + 2 |beta| + 2 |b|)``: each of the four is rounded once where it is stored and
    once where it enters a product.
    """
    unit, smallest = storage_roundings(storage)
    if not unit:
        return 0.0
    alpha = given.weight * given.rstd
    centre = given.mean * alpha
    offset = bias.abs() if isinstance(bias, Tensor) else abs(bias)
    rounded = 4.0 * (x * alpha).abs() + 8.0 * centre.abs() + 4.0 * offset
    return STORED * unit * rounded + 4.0 * smallest * (1.0 + x.abs() + given.mean.abs())


def stored_moments_bounds(
    mean: Tensor, mean_error: Tensor, variance: Tensor, variance_error: Tensor, storage: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the absolute bounds of mean and variance where the kernel rounds both to 16 bits.

    Notes
    -----
    Deviations are taken from the mean that was rounded by ``d <= 2 u_s |mean|``, which adds d^2 to the variance; that
    is rounded three times itself.
    """
    unit, smallest = storage_roundings(storage)
    rounded = mean_error + STORED * 2.0 * unit * mean.abs() + 2.0 * smallest
    spread = variance_error + rounded * rounded
    spread = spread + 4.0 * STORED * unit * (variance + spread) + 4.0 * smallest
    return rounded, bounded_while(4.0 * variance, storage, spread)


def running_bound(old: Tensor, new: Tensor, new_error: Tensor, momentum: float, dtype: torch.dtype) -> Tensor:
    """Return the bound of ``momentum * new + (1 - momentum) * old``: that of ``new`` and six roundings."""
    unit, tiny = UNIT_ROUNDOFF[dtype], torch.finfo(dtype).smallest_normal
    mass = (momentum * new).abs() + ((1.0 - momentum) * old).abs() + abs(momentum) * old.abs()
    return abs(momentum) * new_error + 6.0 * unit * mass + 2.0 * tiny


def normalised_gradient_bounds(
    t: Tensor, x: Tensor, given: Given, sums: GradientSums, num_terms: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the bounds of ``w a (t - mean(t) - xhat mean(t xhat))``, evaluated as written and from raw sums.

    Parameters
    ----------
    t, x
        Incoming gradients (with the weights inside where these differ within the n elements) and inputs.
    given
        Statistics; ``weight`` is what is left outside of t.
    sums, num_terms
        Over all n elements, of which t and x may be some.

    Notes
    -----
    Inner products of n terms err by (n + 2) u of their mass in any order (Higham, ASNA 2nd ed., section 3.1). The raw
    form ``a t + s x + c`` with ``s = (sum t mu - sum t x) a^3 / n`` cancels where |mu| a is large, and its a^3 may
    underflow.
    """
    unit, n = UNIT_ROUNDOFF[dtype], num_terms
    outer = given.weight.abs() if isinstance(given.weight, Tensor) else abs(given.weight)
    rstd, mean = given.rstd, given.mean.abs()
    size, xhat = x.abs() + mean, ((x - given.mean) * rstd).abs()
    slack = 4.0 * unit * rstd * size
    first, second = (sums.t / n).abs(), (sums.txhat / n).abs()
    # The sums over (x - mu) dy are formed first and scaled by a^2 / n: the deviations err by 4 u (|x| + |mu|).
    spread = 4.0 * unit * rstd * (sums.tx_mass + mean * sums.t_mass) / n
    product = (n + 6.0) * unit * sums.txhat_mass / n + spread + 9.0 * unit * second
    centred = (n + 5.0) * unit * sums.t_mass / n + 6.0 * unit * first + slack * second + xhat * product
    centred = rstd * (centred + 6.0 * unit * (t.abs() + xhat * second))
    total_error, product_error = (n + 2.0) * unit * sums.t_mass, (n + 3.0) * unit * sums.tx_mass
    cube = rstd * rstd * rstd / n
    slope = ((sums.t * given.mean).abs() + sums.tx.abs()) * 8.0 * unit
    slope = cube * (mean * total_error + product_error + slope)
    value = cube * (sums.t * given.mean - sums.tx).abs()
    constant = mean * slope + rstd / n * total_error + 8.0 * unit * (value * mean + (sums.t * rstd / n).abs())
    raw = x.abs() * (slope + 5.0 * unit * value) + constant + 6.0 * unit * (rstd * t).abs()
    smallest = 8.0 * unit * torch.finfo(dtype).smallest_normal
    underflow = (smallest * (1.0 + rstd) ** 3 * (1.0 + size) + torch.finfo(dtype).smallest_normal) * (1.0 + outer)
    swollen = (sums.tx_mass + mean * sums.t_mass) * 4.0 * (1.0 + rstd) ** 3 * (1.0 + outer) * (1.0 + size)
    centred = bounded_while(swollen, dtype, outer * centred + underflow)
    return centred, bounded_while(swollen, dtype, centred.maximum(outer * raw + underflow))


def stored_sums_bound(
    t: Tensor, x: Tensor, given: Given, sums: GradientSums, num_terms: int, storage: torch.dtype | None
) -> Tensor | float:
    """Return what channel sums that are kept in 16 bits add to :func:`normalised_gradient_bounds`.

    Notes
    -----
    ``u_s a |w| (4 S_1 / n + 5 |xhat| S_2 / n + 2 |t - m_1| + 2 |t|)`` with the masses S_1 of t and S_2 of t xhat.
    """
    unit, smallest = storage_roundings(storage)
    if not unit:
        return 0.0
    outer = given.weight.abs() if isinstance(given.weight, Tensor) else abs(given.weight)
    xhat, n = ((x - given.mean) * given.rstd).abs(), num_terms
    mass = 6.0 * sums.t_mass / n + 6.0 * xhat * sums.txhat_mass / n + 4.0 * t.abs()
    size = 1.0 + given.rstd + x.abs() + given.mean.abs()
    bound = outer * given.rstd * STORED * unit * mass + 8.0 * smallest * (1.0 + outer) * size
    swollen = sums.t_mass + (sums.tx_mass + given.mean.abs() * sums.t_mass)
    return bounded_while(2.0 * swollen, storage or torch.float32, bound)


def gathered_gradient_bound(
    mass: Tensor, spread: Tensor, num_terms: int, dtype: torch.dtype, storage: torch.dtype | None
) -> Tensor:
    """Return the bound of ``sum dy xhat`` or ``sum dy`` over n elements.

    Parameters
    ----------
    mass
        Sum of the absolute terms.
    spread
        What the terms themselves may err, in all: ``4 u sum |dy| a (|x| + |mu|)`` for dgamma, zero for dbeta.
    storage
        16-bit format to which partial sums are rounded a few times, or None.

    Notes
    -----
    ``(n + 6) u (mass + spread) + spread``, any order (Jeannerod and Rump, 2013).
    """
    unit, tiny = UNIT_ROUNDOFF[dtype], torch.finfo(dtype).smallest_normal
    stored, smallest = storage_roundings(storage)
    bound = (num_terms + 6.0) * unit * (mass + spread) + spread + STORED * 4.0 * stored * mass
    largest = storage if storage is not None else dtype
    return bounded_while(4.0 * mass, largest, bound + num_terms * tiny + 4.0 * smallest)
