"""Rounding bounds of softmax, log-softmax, log-sum-exp, their backward and the negative log likelihood.

Notation: x one row, m its maximum, d = m - x, Z the sum of exp(-d), p = exp(-d) / Z. Every tensor is float64, every
result is a bound on ``|computed - exact|`` before output rounding. ``accumulator`` is the dtype in which the operator
adds, ``storage`` a 16-bit dtype to which it rounds intermediate values, or None where it does not.
"""

from typing import Final

import torch
from torch import Tensor

from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, smallest_rounding

EXP_ERROR: Final = 4.0  # relative error of exp in unit roundoffs; vectorised libraries promise 2, measured 1.1
LOG_ERROR: Final = 4.0  # the same for log; measured 1.6

_NARROW: Final = (torch.float16, torch.bfloat16)


def accumulator_of(*dtypes: torch.dtype) -> torch.dtype:
    """Return the dtype in which operators on these dtypes add: float64 for float64, float32 for all others."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def storage_of(dtype: torch.dtype) -> torch.dtype | None:
    """Return ``dtype`` where intermediate values may be rounded to it (the 16-bit formats), else None."""
    return dtype if dtype in _NARROW else None


def storage_roundings(storage: torch.dtype | None) -> tuple[float, float]:
    """Return unit roundoff and smallest rounding of a 16-bit intermediate; zeros where there is none."""
    return (UNIT_ROUNDOFF[storage], smallest_rounding(storage)) if storage is not None else (0.0, 0.0)


def bounded_while(intermediate: Tensor, dtype: torch.dtype, error_bound: Tensor) -> Tensor:
    """Return ``error_bound``, infinite where an intermediate value may leave the range of ``dtype``.

    An infinite bound makes a result indeterminate: the operator may overflow where the result does not.
    """
    return torch.where(intermediate < 0.999 * torch.finfo(dtype).max, error_bound, torch.inf)


def normaliser_error(weighted_distance: Tensor, num_terms: int, accumulator: torch.dtype) -> Tensor:
    """Return a bound on the relative error of Z.

    Parameters
    ----------
    weighted_distance
        Sum of p d over each row.
    num_terms
        Length n of a row; any order of additions.

    Notes
    -----
    Each argument d carries a relative error u, which exp turns into the relative error u d; exp itself adds its own;
    n - 1 additions of positive terms add (n - 1) u. Structure of Blanchard, Higham and Higham, "Accurately computing
    the log-sum-exp and softmax functions", IMA J. Numer. Anal. 41 (2021), section 3.
    """
    return UNIT_ROUNDOFF[accumulator] * (weighted_distance + (num_terms + 5.0 + EXP_ERROR))


def softmax_bound(
    probabilities: Tensor,
    distance: Tensor,
    normaliser: Tensor,
    accumulator: torch.dtype,
    storage: torch.dtype | None = None,
) -> Tensor:
    """Return ``p (2 u d + R_Z + e_exp + 2 u_s)`` and the underflow of exp.

    Parameters
    ----------
    probabilities, distance
        p and d.
    normaliser
        R_Z of :func:`normaliser_error`.

    Notes
    -----
    The numerator's relative error is u d + e_exp, the denominator's R_Z, and the quotient rounds; 1 % covers the
    second order. A 16-bit storage rounds exp and its scaled value once each.
    """
    unit, (narrow, smallest) = UNIT_ROUNDOFF[accumulator], storage_roundings(storage)
    relative = (normaliser + (EXP_ERROR * unit + 2.0 * narrow)).add(distance, alpha=2.0 * unit)
    return 1.01 * probabilities * relative + (4.0 * torch.finfo(accumulator).smallest_normal + 2.0 * smallest)


def log_softmax_bound(
    distance: Tensor,
    log_normaliser: Tensor,
    normaliser: Tensor,
    accumulator: torch.dtype,
    storage: torch.dtype | None = None,
) -> Tensor:
    """Return ``R_Z + e_log |ln Z| + 3 u (d + |ln Z|)``, and ``u_s (|ln Z| + 1 + d)`` for a 16-bit storage.

    Notes
    -----
    A relative error R of Z is an absolute error of about R of ln Z; log adds its own; two subtractions follow, the
    first of which a 16-bit storage rounds before ln Z is subtracted. The result may cancel, hence the bound is
    absolute. Z is stored as well, so float16 promises nothing from 65,504 equal logits on.
    """
    unit, (narrow, smallest) = UNIT_ROUNDOFF[accumulator], storage_roundings(storage)
    logarithm = log_normaliser.abs()
    per_row = normaliser + ((LOG_ERROR + 3.0) * unit + 1.02 * narrow) * logarithm + (1.02 * narrow + smallest)
    if storage is not None:
        per_row = bounded_while(log_normaliser.exp(), storage, per_row)
    return per_row + (3.0 * unit + 1.02 * narrow) * distance


def logsumexp_bound(
    result: Tensor,
    log_normaliser: Tensor,
    weighted_distance: Tensor,
    num_terms: int,
    accumulator: torch.dtype,
    storage: torch.dtype | None = None,
    num_stores: int = 1,
) -> Tensor:
    """Return ``R_Z + e_log |ln Z|``, and ``1.05 u_s (sum p d + 3 + |ln Z| + |r|)`` for a 16-bit storage.

    Parameters
    ----------
    result, log_normaliser, weighted_distance
        r = m + ln Z, ln Z and the sum of p d, one per row.
    num_stores
        How often a 16-bit storage rounds the running sum: more than once where several reduced dimensions do not
        merge into one.

    Notes
    -----
    In 16 bits the operator is composed of subtraction, exp, sum, log and addition, each rounded to the dtype; exp may
    underflow there, which costs the sum at most the smallest rounding per term.
    """
    unit, (narrow, smallest) = UNIT_ROUNDOFF[accumulator], storage_roundings(storage)
    logarithm = log_normaliser.abs()
    strict = normaliser_error(weighted_distance, num_terms, accumulator) + LOG_ERROR * unit * logarithm
    if storage is None:
        return strict
    stored = 1.05 * narrow * (weighted_distance + (2.0 + num_stores) + logarithm + result.abs())
    return bounded_while(log_normaliser.exp(), storage, strict + stored + num_terms * smallest)


def softmax_backward_bound(
    grad: Tensor,
    probabilities: Tensor,
    total: Tensor,
    mass: Tensor,
    accumulator: torch.dtype,
    storage: torch.dtype | None = None,
) -> Tensor:
    """Return ``|y| ((n + 1) u sum |g y| + (3 u + 2 u_s) (|g| + |S|))`` and underflow, for ``y (g - S)``.

    Parameters
    ----------
    grad, probabilities
        g and the saved output y, rows last.
    total, mass
        S = sum g y and the sum of |g y|, one per row.

    Notes
    -----
    One inner product in any order (Higham, ASNA 2nd ed., section 3.1), one subtraction, one product.
    """
    unit, (narrow, smallest) = UNIT_ROUNDOFF[accumulator], storage_roundings(storage)
    num_terms, tiny = grad.shape[-1], torch.finfo(accumulator).smallest_normal
    per_row = (num_terms + 1.0) * unit * mass + (3.0 * unit + 2.0 * narrow) * total.abs()
    per_row = per_row + (num_terms * tiny + 2.0 * smallest)
    bound = probabilities.abs() * (per_row + (3.0 * unit + 2.0 * narrow) * grad.abs()) + 4.0 * tiny
    return bounded_while(mass, storage or accumulator, bound)


def log_softmax_backward_bound(
    grad: Tensor,
    probabilities: Tensor,
    total: Tensor,
    mass: Tensor,
    accumulator: torch.dtype,
    storage: torch.dtype | None = None,
) -> Tensor:
    """Return ``e^y n u sum |g| + |e^y S| (e_exp + 3 u + 2 u_s) + 2 u |g|``, for ``g - e^y S``.

    Parameters
    ----------
    grad, probabilities
        g and e^y of the saved output y, rows last.
    total, mass
        S = sum g and the sum of |g|, one per row.
    """
    unit, (narrow, smallest) = UNIT_ROUNDOFF[accumulator], storage_roundings(storage)
    tiny = torch.finfo(accumulator).smallest_normal
    per_row = grad.shape[-1] * unit * mass + ((EXP_ERROR + 3.0) * unit + 2.0 * narrow) * total.abs() + smallest
    bound = probabilities * per_row + 2.0 * unit * grad.abs() + tiny * (1.0 + total.abs())
    return bounded_while(mass.maximum(probabilities * total.abs()), storage or accumulator, bound)


def nll_mean_bound(
    loss: Tensor,
    loss_mass: Tensor,
    weight: Tensor,
    weight_mass: Tensor,
    height: int,
    accumulator: torch.dtype,
) -> Tensor:
    """Return a bound for the weighted mean of the losses, ``L / W``.

    Parameters
    ----------
    loss, loss_mass
        L and the sum of absolute losses.
    weight, weight_mass
        W and the sum of absolute weights; a mass of zero where W is a count, which is rounded once.
    height
        Additions that a term passes through.
    accumulator
        Dtype in which both sums are kept.

    Notes
    -----
    Product, sum, W's own rounding and the quotient: (h + 3) u of the mass of L. W: relative error
    (h + 2) u (sum |w|) / |W|, which the quotient passes on; infinite from one half, where W may vanish.
    """
    unit, smallest = UNIT_ROUNDOFF[accumulator], smallest_rounding(accumulator)
    relative = (height + 2.0) * unit * weight_mass / weight.abs()
    numerator = (height + 3.0) * unit * loss_mass + height * smallest + loss.abs() * relative
    bound = torch.where(relative < 0.5, numerator / weight.abs() / (1.0 - relative.clamp(max=0.5)), torch.inf)
    return bounded_while(loss_mass.maximum(weight_mass).maximum(weight.abs()), accumulator, bound)


def nll_backward_bound(result: Tensor, accumulator: torch.dtype, storage: torch.dtype | None = None) -> Tensor:
    """Return ``(4 u + 2 u_s) |r|`` for ``-w g / W``: one quotient and one product, with room for one more each."""
    unit, (narrow, _) = UNIT_ROUNDOFF[accumulator], storage_roundings(storage)
    return (4.0 * unit + 2.0 * narrow) * result.abs()


def weighted_sum_bound(mass: Tensor, height: int, accumulator: torch.dtype) -> Tensor:
    """Return ``(h + 1) u`` of the mass: one product a term, then ``h`` additions (Higham, ASNA 2nd ed., sec. 4.2)."""
    error_bound = (height + 1.0) * UNIT_ROUNDOFF[accumulator] * mass + height * smallest_rounding(accumulator)
    return bounded_while(mass, accumulator, error_bound)
