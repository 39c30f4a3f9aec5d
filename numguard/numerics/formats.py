"""Every floating-point format that torch stores or computes in, as exact numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Final

import torch

from numguard.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatFormat:
    """One binary floating-point format: values ``± m * 2**(e - p + 1)`` with an integer ``m < 2**p``.

    Parameters
    ----------
    name
        ``"fp32"``, ``"bf16"``, ``"fp8_e4m3fn"``.
    dtype
        The torch dtype that stores it; None for a format that exists only inside a computation.
    precision
        p, the digits of the significand with the leading one.
    min_exponent, max_exponent
        emin and emax: exponents of the smallest normal and of the largest finite number, for significands in [1, 2).
    num_bits
        Bits in memory.
    has_infinity, has_nan, has_negative_zero, has_subnormals
        What the format can represent beside normal numbers and (where signed) zero.
    is_signed
        False only for the scale format ``fp8_e8m0fnu``, which has neither sign nor zero.
    num_reserved
        Codes at the top of the last binade that are not numbers (the NaN of ``fp8_e4m3fn``).
    """

    name: str
    dtype: torch.dtype | None
    precision: int
    min_exponent: int
    max_exponent: int
    num_bits: int
    has_infinity: bool = True
    has_nan: bool = True
    has_negative_zero: bool = True
    has_subnormals: bool = True
    is_signed: bool = True
    num_reserved: int = 0

    @property
    def unit_roundoff(self) -> float:
        """``u = 2**-p``: half the gap at one, the largest relative error of rounding to nearest."""
        return 2.0**-self.precision

    @property
    def machine_epsilon(self) -> float:
        """``2 * u``: the gap at one, ``torch.finfo(dtype).eps``."""
        return 2.0 ** (1 - self.precision)

    @property
    def max_finite(self) -> float:
        """Largest finite number."""
        return (2.0 - self.machine_epsilon * (1 + self.num_reserved)) * 2.0**self.max_exponent

    @property
    def smallest_normal(self) -> float:
        """``2**emin``."""
        return 2.0**self.min_exponent

    @property
    def smallest_subnormal(self) -> float:
        """Smallest positive number: ``2**(emin - p + 1)``, or ``2**emin`` where there are no subnormals."""
        return 2.0 ** (self.min_exponent - (self.precision - 1 if self.has_subnormals else 0))

    @property
    def overflow_threshold(self) -> float:
        """Smallest magnitude that rounding to nearest takes beyond the largest finite number.

        For float64 this is itself not a float64 number, and the result is infinite.
        """
        half_gap = 2.0 ** (self.max_exponent - self.precision)
        return self.max_finite + half_gap


FP64: Final = FloatFormat(
    name="fp64", dtype=torch.float64, precision=53, min_exponent=-1022, max_exponent=1023, num_bits=64
)
FP32: Final = FloatFormat(
    name="fp32", dtype=torch.float32, precision=24, min_exponent=-126, max_exponent=127, num_bits=32
)
#: Format of the factors in NVIDIA's TensorFloat-32 products; stored as fp32.
TF32: Final = FloatFormat(name="tf32", dtype=None, precision=11, min_exponent=-126, max_exponent=127, num_bits=32)
FP16: Final = FloatFormat(
    name="fp16", dtype=torch.float16, precision=11, min_exponent=-14, max_exponent=15, num_bits=16
)
BF16: Final = FloatFormat(
    name="bf16", dtype=torch.bfloat16, precision=8, min_exponent=-126, max_exponent=127, num_bits=16
)
FP8_E4M3FN: Final = FloatFormat(
    name="fp8_e4m3fn",
    dtype=torch.float8_e4m3fn,
    precision=4,
    min_exponent=-6,
    max_exponent=8,
    num_bits=8,
    has_infinity=False,
    num_reserved=1,
)
FP8_E4M3FNUZ: Final = FloatFormat(
    name="fp8_e4m3fnuz",
    dtype=torch.float8_e4m3fnuz,
    precision=4,
    min_exponent=-7,
    max_exponent=7,
    num_bits=8,
    has_infinity=False,
    has_negative_zero=False,
)
FP8_E5M2: Final = FloatFormat(
    name="fp8_e5m2", dtype=torch.float8_e5m2, precision=3, min_exponent=-14, max_exponent=15, num_bits=8
)
FP8_E5M2FNUZ: Final = FloatFormat(
    name="fp8_e5m2fnuz",
    dtype=torch.float8_e5m2fnuz,
    precision=3,
    min_exponent=-15,
    max_exponent=15,
    num_bits=8,
    has_infinity=False,
    has_negative_zero=False,
)
FP8_E8M0FNU: Final = FloatFormat(
    name="fp8_e8m0fnu",
    dtype=torch.float8_e8m0fnu,
    precision=1,
    min_exponent=-127,
    max_exponent=127,
    num_bits=8,
    has_infinity=False,
    has_negative_zero=False,
    has_subnormals=False,
    is_signed=False,
)

#: Every format, by name.
FORMATS: Final[Mapping[str, FloatFormat]] = MappingProxyType(
    {
        entry.name: entry
        for entry in (FP64, FP32, TF32, FP16, BF16, FP8_E4M3FN, FP8_E4M3FNUZ, FP8_E5M2, FP8_E5M2FNUZ, FP8_E8M0FNU)
    }
)
_BY_DTYPE: Final = {entry.dtype: entry for entry in FORMATS.values() if entry.dtype is not None}


def format_of(dtype: torch.dtype) -> FloatFormat:
    """Return the format that a dtype stores.

    Raises
    ------
    UsageError
        For integer, boolean, complex, quantized and packed dtypes.
    """
    try:
        return _BY_DTYPE[dtype]
    except KeyError:
        names = ", ".join(str(known).removeprefix("torch.") for known in _BY_DTYPE)
        raise UsageError(f"{dtype} is not a floating-point dtype with known rounding; use one of {names}") from None


def unit_roundoff(dtype: torch.dtype) -> float:
    """Return ``u = 2**-p`` of a dtype, half the gap at one.

    Raises
    ------
    UsageError
        Where ``dtype`` is not a floating-point dtype with known rounding.
    """
    return format_of(dtype).unit_roundoff


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which torch's documented reductions and products of ``dtype`` accumulate.

    float64 accumulates in float64, everything shorter in float32 (``at::acc_type`` of ATen's device kernels, which
    the CPU kernel of ``sum`` uses too).

    Raises
    ------
    UsageError
        Where ``dtype`` is not a floating-point dtype with known rounding.
    """
    return torch.float64 if format_of(dtype) is FP64 else torch.float32


def round_to_format(value: Fraction | float, target: FloatFormat) -> float:
    """Return the number of a format that is nearest to an exact value, ties to even.

    Every number of every format is a float64, so the result is exact. Beyond the overflow threshold the result is
    an infinity, whether or not the format has one. Zero gives positive zero.

    Parameters
    ----------
    value
        A finite number; a float is taken at its exact value.
    target
        Signed format to round to.
    """
    exact = Fraction(value)
    if exact == 0:
        return 0.0
    magnitude = abs(exact)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    quantum = Fraction(2) ** (max(exponent, target.min_exponent) - target.precision + 1)
    rounded = round(magnitude / quantum) * quantum
    result = float("inf") if rounded > Fraction(target.max_finite) else float(rounded)
    return result if exact > 0 else -result
