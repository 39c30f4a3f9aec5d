"""Rounding bounds of layer normalisation and root-mean-square normalisation, forward and backward.

Notation: x one row of length n, mu its mean, V its variance, a = 1 / sqrt(V + eps), xhat = (x - mu) a, w and b weight
and bias. Every tensor is float64 with rows last; statistics keep that dimension with one element. Every result is a
bound on ``|computed - exact|`` before output rounding. u is the unit roundoff of ``accumulator``, the dtype in which
the operator computes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from numguard.numerics.error_bounds.exponential_bounds import bounded_while
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, smallest_rounding


class Statistics(NamedTuple):
    """Mean, variance and ``1 / sqrt(V + eps)`` of each row, and the mean of absolute values."""

    mean: Tensor
    variance: Tensor
    rstd: Tensor
    mean_magnitude: Tensor


class StatisticsBounds(NamedTuple):
    """Absolute bound of the mean, relative bound of rstd."""

    mean: Tensor
    rstd: Tensor


def any_order_height(num_terms: int) -> int:
    """Return 4 n: safe for Welford's update (four roundings a step), two passes and pairwise sums."""
    return 4 * num_terms


def chunked_height(num_terms: int) -> int:
    """Return the height of moments taken in chunks of 16 vectors and merged pairwise, as ATen's CPU kernel does.

    At most ``240 + 8 log2 n``: sixteen Welford steps, the merges of up to sixteen lanes, eight roundings a level.
    """
    return min(any_order_height(num_terms), 240 + 8 * num_terms.bit_length())


def statistics_bounds(row: Statistics, eps: float, num_terms: int, height: int, dtype: torch.dtype) -> StatisticsBounds:
    """Return the bounds of mean and rstd in ``dtype``.

    Notes
    -----
    ``|d mu| <= h u mean|x| + 4 u |mu|`` and a subnormal rounding for every step of a running mean. ``|dV| <= h u (2 V
    + 2 sqrt(V (V + mu^2))) + (h u)^2 (V + mu^2) + 4 u V + d mu^2`` (Chan, Golub and LeVeque, "Algorithms for
    computing the sample variance", 1983, for the condition number of the variance). With rho = dV / (V + eps),
    ``1 / sqrt(1 - rho) - 1`` bounds the relative error of rstd; from 3/4 on nothing is promised. Squares that overflow
    make the row indeterminate.
    """
    unit, tiny = UNIT_ROUNDOFF[dtype], torch.finfo(dtype).smallest_normal
    mean, variance = row.mean, row.variance
    second = variance + mean * mean
    grown = height * unit
    mean_bound = grown * row.mean_magnitude + 4.0 * unit * mean.abs() + (height + 1.0) * smallest_rounding(dtype)
    mean_bound = bounded_while(4.0 * num_terms * row.mean_magnitude, dtype, mean_bound)
    variance_bound = (
        2.0 * grown * (variance + (variance * second).sqrt())
        + grown**2 * second
        + 4.0 * unit * variance
        + mean_bound * mean_bound
        + 2.0 * tiny
    )
    share = variance_bound / (variance + eps)
    rstd_bound = torch.where(share < 0.75, (1.0 - share.clamp(max=0.75)).rsqrt() - 1.0, torch.inf) + 4.0 * unit
    return StatisticsBounds(mean_bound, bounded_while(4.0 * num_terms * second, dtype, rstd_bound))


def normalised_bound(
    x: Tensor,
    row: Statistics,
    errors: StatisticsBounds,
    weight: Tensor | float,
    bias: Tensor | float,
    dtype: torch.dtype,
) -> Tensor:
    """Return ``|w| a (d mu + 4 u (|x| + |mu|)) (1 + rho') + |w xhat| (rho' + 6 u) + 3 u (|w xhat| + |b|)``.

    Notes
    -----
    ATen forms ``x a + (-mu a)``: the terms |x| a and |mu| a round separately. rho' is the relative bound of rstd.
    """
    unit, tiny = UNIT_ROUNDOFF[dtype], torch.finfo(dtype).smallest_normal
    magnitude = weight.abs() if isinstance(weight, Tensor) else abs(weight)
    offset = bias.abs() if isinstance(bias, Tensor) else abs(bias)
    outer = row.rstd * (1.0 + errors.rstd)
    difference = outer * (errors.mean + 4.0 * unit * row.mean.abs()) + 4.0 * unit * outer * x.abs()
    scaled = (x - row.mean).abs() * (row.rstd * (errors.rstd + 9.0 * unit))
    return magnitude * (difference + scaled + tiny) + 3.0 * unit * offset


class BackwardSums(NamedTuple):
    """Row sums of the backward pass with t = dy w: of t, t x, t xhat, and of their absolute values."""

    t: Tensor
    tx: Tensor
    txhat: Tensor
    t_mass: Tensor
    tx_mass: Tensor
    txhat_mass: Tensor


def input_gradient_bounds(
    t: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, sums: BackwardSums, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the bounds of ``a (t - mean(t) - xhat mean(t xhat))`` in the centred and in ATen's raw form.

    Parameters
    ----------
    t, x
        dy w and x, rows last.
    mean, rstd
        The saved statistics, which the operator was given.
    sums
        Row sums.

    Returns
    -------
    centred, raw
        The second is at least the first: ATen evaluates ``a t + b x + c`` with ``b = (sum t mu - sum t x) a^3 / n``,
        which cancels where |mu| a is large, and whose a^3 may underflow or overflow.

    Notes
    -----
    Inner products of n terms: (n + 2) u of their mass (Higham, ASNA 2nd ed., section 3.1).
    """
    unit, count = UNIT_ROUNDOFF[dtype], x.shape[-1]
    centred_x, scale = x - mean, rstd / count
    xhat = (centred_x * rstd).abs()
    size = x.abs() + mean.abs()
    slack = 4.0 * unit * rstd * size  # of xhat
    first, second = sums.t / count, sums.txhat / count
    # sum |t| |d xhat| is exactly 4 u a (sum |t x| + |mu| sum |t|)
    spread = 4.0 * unit * rstd * (sums.tx_mass + mean.abs() * sums.t_mass) / count
    centred = rstd * (
        ((count + 2.0) * unit / count * sums.t_mass + 6.0 * unit * first.abs())
        + slack * second.abs()
        + xhat * ((count + 3.0) * unit / count * sums.txhat_mass + spread + 6.0 * unit * second.abs())
        + 6.0 * unit * t.abs()
    )
    sum_bound, product_bound = (count + 2.0) * unit * sums.t_mass, (count + 3.0) * unit * sums.tx_mass
    cube = rstd * rstd * scale
    slope = (sums.t * mean - sums.tx) * cube
    slope_bound = cube * (mean.abs() * sum_bound + product_bound + 8.0 * unit * ((sums.t * mean).abs() + sums.tx.abs()))
    constant = -slope * mean - sums.t * scale
    constant_bound = (
        mean.abs() * slope_bound
        + scale * sum_bound
        + 5.0 * unit * ((slope * mean).abs() + (sums.t * scale).abs() + constant.abs())
    )
    raw = x.abs() * (slope_bound + 5.0 * unit * slope.abs()) + constant_bound + 5.0 * unit * (rstd * t).abs()
    smallest = 4.0 * float(torch.finfo(dtype).smallest_normal) * 2.0 * unit
    underflow = smallest * (1.0 + rstd) ** 3 * (1.0 + size)
    swollen = (sums.tx_mass + mean.abs() * sums.t_mass) * 4.0 * (1.0 + rstd) ** 3
    centred = bounded_while(4.0 * (sums.t_mass + sums.txhat_mass), dtype, centred + underflow)
    return centred, bounded_while(swollen, dtype, centred.maximum(raw + underflow))


def parameter_gradient_bound(
    mass: Tensor, grad_mass: Tensor, slack: Tensor | float, num_rows: int, dtype: torch.dtype
) -> Tensor:
    """Return ``(M + 6) u (sum |dy xhat| + slack) + slack`` for the sums over M rows that are dgamma and dbeta.

    Parameters
    ----------
    mass
        Sums of the absolute terms, one per column.
    grad_mass
        Sums of |dy|, for products that underflow.
    slack
        Error of the terms themselves: sum |dy| |d xhat|, zero for dbeta.
    dtype
        Dtype of the buffer to which the rows are added: that of dy, even where gamma is wider.
    """
    unit, smallest = UNIT_ROUNDOFF[dtype], smallest_rounding(dtype)
    tiny = torch.finfo(torch.float64 if dtype is torch.float64 else torch.float32).smallest_normal
    grown = (num_rows + 6.0) * unit * (mass + slack) + slack + num_rows * smallest + tiny * grad_mass
    return bounded_while(mass, dtype, grown)


def root_mean_square_bound(mean_square: Tensor, eps: float, num_terms: int, dtype: torch.dtype) -> Tensor:
    """Return the relative bound of ``1 / sqrt(mean(x^2) + eps)``: ``(n + 2) u / 2 + 4 u`` and underflow of squares.

    Notes
    -----
    The sum of squares has relative error (n + 1) u in any order, the division and eps one each; the root halves it.
    """
    unit, tiny = UNIT_ROUNDOFF[dtype], torch.finfo(dtype).smallest_normal
    lost = tiny / (mean_square + eps)
    relative = 0.505 * ((num_terms + 2.0) * unit + 2.0 * lost) + 4.0 * unit
    relative = torch.where(lost < 0.25, relative, torch.inf)
    return bounded_while(4.0 * num_terms * mean_square, dtype, relative)


def rms_input_gradient_bound(
    t: Tensor, xhat: Tensor, rstd: Tensor, second: Tensor, second_mass: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return ``a (|xhat| ((n + 5) u mean|t xhat| + 6 u |m2|) + 6 u |t|)`` for ``a (t - xhat m2)``, m2 = mean(t xhat).

    Parameters
    ----------
    second, second_mass
        m2 and the mean of |t xhat|.
    """
    unit, tiny, count = UNIT_ROUNDOFF[dtype], torch.finfo(dtype).smallest_normal, t.shape[-1]
    inner = (count + 5.0) * unit * second_mass + 8.0 * unit * second.abs()
    bound = rstd * (xhat.abs() * inner + 6.0 * unit * t.abs()) + tiny * (1.0 + rstd) * (1.0 + xhat.abs())
    return bounded_while(4.0 * count * second_mass * (1.0 + rstd), dtype, bound)
