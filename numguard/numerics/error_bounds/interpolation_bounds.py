"""Rounding bounds of separable weighted sums whose weights are computed as well: interpolation and its gradient."""

from typing import NamedTuple

import torch
from torch import Tensor

from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF


class MapMasses(NamedTuple):
    """What results are made of, float64; all of one shape or ready to broadcast.

    Attributes
    ----------
    mass
        Sums of ``|weight x|``.
    slack
        Sums of ``|x|`` times what the weight may err by, in roundoffs.
    num_terms
        Elements that a result is made of.
    """

    mass: Tensor
    slack: Tensor
    num_terms: Tensor


def mapped_bound(masses: MapMasses, num_axes: int, dtype: torch.dtype, *, wide: torch.dtype | None = None) -> Tensor:
    """Return a bound on the error of weighted sums before output rounding.

    Parameters
    ----------
    masses
        Of the results.
    num_axes
        Dimensions d along which weights are multiplied.
    dtype
        Accumulator: every product and every partial sum is rounded to it.
    wide
        Format in which the weights are formed, where that is not the accumulator.

    Notes
    -----
    Each term is a product of d weights and an element, rounded d times, and passes through at most n additions:
    ``(n + 2 d) u mass`` (Jeannerod and Rump, SIAM J. Matrix Anal. Appl. 34, 2013), in whatever order and however the
    sums are nested. Weights kept in ``dtype`` round once more each. What the weights err by themselves is
    ``u slack``. Products below the range lose at most the smallest normal number each. Infinite where a partial sum
    may overflow.
    """
    unit, limits = UNIT_ROUNDOFF[dtype], torch.finfo(dtype)
    formed = unit if wide is None else UNIT_ROUNDOFF[wide]
    kept = 0.0 if wide is None else float(num_axes)
    rounded = (masses.num_terms + 2.0 * num_axes + kept) * (unit * masses.mass + float(limits.smallest_normal))
    return torch.where(masses.mass < 0.5 * limits.max, rounded + formed * masses.slack, torch.inf)
