"""How kernels read every floating-point dtype, the 8-bit ones on architectures without instructions for them too."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

# Constants of the decoding, as Triton wants them: known at compile time.
NATIVE = tl.constexpr(0)
E4M3FN = tl.constexpr(1)
E4M3FNUZ = tl.constexpr(2)
E5M2 = tl.constexpr(3)
E5M2FNUZ = tl.constexpr(4)
E8M0FNU = tl.constexpr(5)
BF16 = tl.constexpr(6)


@dataclass(frozen=True, kw_only=True, slots=True)
class ElementFormat:
    """One dtype as kernels see it.

    Parameters
    ----------
    dtype
        The torch dtype.
    code
        Which decoding :func:`widened` does: 0 for what the hardware widens by itself. bf16 is the upper half of fp32;
        it is widened by a shift, because Triton's emulation loses its subnormal numbers.
    pointer
        Triton's type of a pointer to the stored elements.
    lanes
        Elements in 16 bytes.
    smallest_normal
        ``2**emin``: smaller nonzero magnitudes are subnormal.
    """

    dtype: torch.dtype
    code: int
    pointer: str
    lanes: int
    smallest_normal: float

    @property
    def is_double(self) -> bool:
        """Whether the accumulators are float64."""
        return self.dtype is torch.float64

    @property
    def accumulator(self) -> torch.dtype:
        """Dtype in which kernels add."""
        return torch.float64 if self.is_double else torch.float32

    @property
    def accumulator_pointer(self) -> str:
        """Triton's type of a pointer to what kernels have added."""
        return "*fp64" if self.is_double else "*fp32"

    @property
    def name(self) -> str:
        """In compilations: ``"bf16"``, ``"fp8_e4m3fn"``."""
        return str(self.dtype).removeprefix("torch.").replace("bfloat", "bf").replace("float", "fp")

    @property
    def unit_roundoff(self) -> float:
        """Of the accumulators."""
        return 2.0**-53 if self.is_double else 2.0**-24

    def stored(self, x: Tensor) -> Tensor:
        """Return the tensor under the type by which a kernel loads it, without a copy."""
        if self.code == NATIVE.value:
            return x
        return x.view(torch.uint16 if self.code == BF16.value else torch.uint8)


def _format(dtype: torch.dtype, code: "tl.constexpr", pointer: str, lanes: int, emin: int) -> ElementFormat:
    return ElementFormat(dtype=dtype, code=code.value, pointer=pointer, lanes=lanes, smallest_normal=2.0**emin)


#: Every dtype that the kernels read.
ELEMENT_FORMATS: Final[Mapping[torch.dtype, ElementFormat]] = MappingProxyType(
    {
        entry.dtype: entry
        for entry in (
            _format(torch.float64, NATIVE, "*fp64", 2, -1022),
            _format(torch.float32, NATIVE, "*fp32", 4, -126),
            _format(torch.float16, NATIVE, "*fp16", 8, -14),
            _format(torch.bfloat16, BF16, "*u16", 8, -126),
            _format(torch.float8_e4m3fn, E4M3FN, "*u8", 16, -6),
            _format(torch.float8_e4m3fnuz, E4M3FNUZ, "*u8", 16, -7),
            _format(torch.float8_e5m2, E5M2, "*u8", 16, -14),
            _format(torch.float8_e5m2fnuz, E5M2FNUZ, "*u8", 16, -15),
            _format(torch.float8_e8m0fnu, E8M0FNU, "*u8", 16, -127),
        )
    }
)


def element_format(dtype: torch.dtype, kernel: str) -> ElementFormat:
    """Return how a kernel reads a dtype.

    Raises
    ------
    TypeError
        For integer, boolean, complex and packed dtypes.
    """
    try:
        return ELEMENT_FORMATS[dtype]
    except KeyError:
        names = ", ".join(str(known).removeprefix("torch.") for known in ELEMENT_FORMATS)
        advice = "; give torch.view_as_real of it" if dtype.is_complex else ""
        raise TypeError(f"{kernel} reads floating-point tensors ({names}), and this one is {dtype}{advice}") from None


@triton.jit
def widened(x, CODE: tl.constexpr, DOUBLE: tl.constexpr):
    """Return stored elements in the accumulating format, exactly."""
    if CODE == NATIVE:
        wide = x.to(tl.float64 if DOUBLE else tl.float32)
    elif CODE == BF16:
        wide = (x.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        wide = _decoded(x, CODE)
    return wide


@triton.jit
def bf16_bits(x):
    """Return fp32 rounded to bf16, to nearest and ties to even, as uint16 bits.

    In integers, because Triton's emulation truncates.
    """
    bits = x.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(x == x, rounded, 0x7FC0).to(tl.uint16)


@triton.jit
def _decoded(x, CODE: tl.constexpr):
    """An 8-bit float: its exponent and significand moved to where fp32 has them, then scaled by a power of two."""
    byte = x.to(tl.int32)
    sign = (byte & 0x80) << 24
    magnitude = byte & 0x7F
    if CODE == E8M0FNU:  # 2**(byte - 127), neither sign nor zero; the smallest is subnormal in fp32
        bits = tl.where(byte == 0, 0x00400000, tl.where(byte == 0xFF, 0x7FC00000, byte << 23))
        wide = bits.to(tl.float32, bitcast=True)
    elif CODE == E5M2:  # the upper byte of fp16
        wide = (byte << 8).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        WIDTH: tl.constexpr = 3 if (CODE == E4M3FN) | (CODE == E4M3FNUZ) else 2
        SCALE: tl.constexpr = 2.0**120 if CODE == E4M3FN else (2.0**119 if CODE == E4M3FNUZ else 2.0**111)
        scaled = (magnitude << (23 - WIDTH)).to(tl.float32, bitcast=True) * SCALE
        wide = (scaled.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)
        is_nan = (magnitude == 0x7F) if CODE == E4M3FN else (byte == 0x80)
        wide = tl.where(is_nan, float("nan"), wide)
    return wide
