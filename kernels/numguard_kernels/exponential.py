"""An exponential that shares no instruction with the hardware's, so that the two can be held against one another."""

from typing import Final

import triton
import triton.language as tl

from numguard_kernels.two_float import larger

#: Relative errors of :func:`shadow_exp`, in unit roundoffs of fp32: the precise one, and the one for 16-bit results.
PRECISE_EXP_ERROR_IN_ROUNDOFFS: Final = 3.0
COARSE_EXP_ERROR_IN_ROUNDOFFS: Final = 116.0
#: Error of the hardware's exponential in unit roundoffs: 2**-22 for ``ex2.approx``, and rounded up for others.
HARDWARE_EXP_IN_ROUNDOFFS: Final = 5.0
#: What lies below :data:`_SMALLEST` and what a result below the normal numbers of fp32 may have lost on its way.
EXP_UNDERFLOW: Final = 2.0**-124

_SMALLEST = tl.constexpr(-87.0)
_LOG2_E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)
_LN2_HIGH = tl.constexpr(0.693145751953125)  # 16 bits: its products with whole numbers below 256 are exact
_LN2_LOW = tl.constexpr(1.4286068202862268e-06)
_TO_WHOLE = tl.constexpr(12582912.0)  # 1.5 * 2**23: an addition of it rounds to a whole number


@triton.jit
def in_reach(d):
    """Return a distance from the maximum, none farther than 87 below it; NaN stays NaN."""
    return larger(d, _SMALLEST)


@triton.jit
def shadow_exp(d, PRECISE: tl.constexpr):
    """Return ``exp(d)`` of fp32 for ``-87 <= d <= 64``, and NaN for NaN and infinity.

    Notes
    -----
    ``d = k ln 2 + r`` with ``|r| <= 0.347`` (Cody, Waite, Software Manual for the Elementary Functions, 1980, chapter
    6), and the Taylor series of ``exp(r)``. To r**7 it leaves ``0.347**8 / 8!``, below a sixth of a unit roundoff of
    the result, and reduction and series round by less than two and a half more. To r**5, with ln 2 in one piece, it
    leaves ``0.347**6 / 6!`` and ``126 * 2**-29``: below 66 unit roundoffs of the result, and 44 more where a fused
    multiply-add is rounded twice, as in Triton's emulation.
    """
    shifted = tl.fma(d, _LOG2_E, _TO_WHOLE)
    whole = shifted - _TO_WHOLE
    if PRECISE:
        rest = tl.fma(whole, -_LN2_LOW, tl.fma(whole, -_LN2_HIGH, d))
        series = tl.fma(rest, 1.0 / 5040, 1.0 / 720)
        series = tl.fma(series, rest, 1.0 / 120)
        series = tl.fma(series, rest, 1.0 / 24)
    else:
        rest = tl.fma(whole, -_LN2, d)
        series = tl.fma(rest, 1.0 / 120, 1.0 / 24)
    series = tl.fma(series, rest, 1.0 / 6)
    series = tl.fma(series, rest, 0.5)
    series = tl.fma(series, rest, 1.0)
    series = tl.fma(series, rest, 1.0)
    # The whole number is in the lowest bits of `shifted`; above 2**-126 it is simply added to the exponent.
    scaled = series.to(tl.int32, bitcast=True) + (shifted.to(tl.int32, bitcast=True) << 23)
    return scaled.to(tl.float32, bitcast=True)
