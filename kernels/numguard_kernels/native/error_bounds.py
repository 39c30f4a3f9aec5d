"""What the sums of the twin may be wrong by, for every route. u32 = 2**-24, u = 2**-53, A the sum of magnitudes.

========== =========================================================================================================
route      bound on ``|result - exact|``, for n terms and no overflow of float64
========== =========================================================================================================
blocked    ``(5 u32 (1 + 10 u32) + (n + 8) u) A``: four chains of four float32 numbers, three additions each, and two
           that join them (a term passes through five additions at most), then float64. float64 input has no
           narrower block: it is added as by ``double``.
double     ``(n + 8) u A``: a term passes through fewer than n additions of float64, whatever the lanes
two-float  ``u |s| + 2 (n + 64)**2 u**2 A``: Sum2 in lanes (Ogita, Rump and Oishi, SIAM J. Sci. Comput. 26(6), 2005,
           proposition 4.5), whose pairs are added by TwoSum; without the first term for the unevaluated pair
dot        ``u |v| + 2 (n + 64)**2 u**2 sum|x y| + n 2**-1073``: Dot2 in lanes (the same paper, proposition 5.5) and
           products that underflow
plain      ``h u32 A`` with ``h = 180 + log2(n / 2048) + threads``: the float32 result of ``checked_sum``. A sum of
           two (1), 128 of which are added in a lane (127), two lanes (1), the pairwise tree, what is left at the end
           (1 and at most 31), at most sixteen lanes (15), threads
shadow     ``(24 u32 (1 + 48 u32) + (n + 8) u) A``: the float64 sum beside it, as by ``blocked`` with four chains of
           sixteen (15 and 2), and eight such blocks added up (7)
========== =========================================================================================================

Sums with any tree of height h err by at most ``h u A / (1 - h u)`` (Higham, ASNA 2nd ed., section 4.2); the sum of
magnitudes is itself a sum, so its own relative error multiplies A: the bounds here are for the computed A.
"""

from typing import Final

from numguard_kernels.native.reductions import Mode

UNIT_ROUNDOFF: Final = 2.0**-53
SINGLE_ROUNDOFF: Final = 2.0**-24
_BLOCK_HEIGHT: Final = 5.0
_SHADOW_HEIGHT: Final = 24.0
_PLAIN_HEIGHT: Final = 180.0
_PIECE: Final = 2048  # elements of the smallest leaf of the pairwise tree
_LANES: Final = 64.0
_SPARE: Final = 8.0


def sum_error_bound(mode: Mode, num_terms: int, mass: float, total: float, *, is_double: bool) -> float:
    """Return the bound on the error of a sum that is rounded to one float64.

    Parameters
    ----------
    mode
        Route.
    num_terms
        n.
    mass, total
        A and s as the library returned them.
    is_double
        Whether the elements are float64.
    """
    if num_terms == 0:
        return 0.0
    if mode == Mode.TWO_FLOAT:
        second = ((num_terms + _LANES) * UNIT_ROUNDOFF) ** 2
        return UNIT_ROUNDOFF * abs(total) + 2.0 * second * mass
    relative = (num_terms + _SPARE) * UNIT_ROUNDOFF
    if mode == Mode.BLOCKED and not is_double:
        blocks = _BLOCK_HEIGHT * SINGLE_ROUNDOFF
        relative += blocks * (1.0 + 2.0 * blocks)
    return relative * (1.0 + relative) * mass


def dot_error_bound(num_terms: int, mass: float, total: float) -> float:
    """Return the bound on the error of :func:`~numguard_kernels.native.products.inner_product`, in one float64."""
    second = ((num_terms + _LANES) * UNIT_ROUNDOFF) ** 2
    return UNIT_ROUNDOFF * abs(total) + 2.0 * second * mass + num_terms * 2.0**-1073


def checked_sum_relative_error(num_terms: int, num_threads: int) -> float:
    """Return the f of ``|result - shadow| <= f A`` and of ``|result - exact| <= f A``, for the two of a checked sum.

    Parameters
    ----------
    num_terms
        n.
    num_threads
        Threads that may have shared the work.
    """
    height = _PLAIN_HEIGHT + (num_terms // _PIECE).bit_length() + num_threads
    blocks = _SHADOW_HEIGHT * SINGLE_ROUNDOFF
    shadow = (num_terms + _SPARE) * UNIT_ROUNDOFF + blocks * (1.0 + 2.0 * blocks)
    relative = min(height, float(num_terms)) * SINGLE_ROUNDOFF + shadow
    return relative * (1.0 + 2.0 * relative)
