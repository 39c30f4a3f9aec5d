"""How this build multiplies matrices now: the backend flags, read at check time, as an accumulation model."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from numguard.numerics.error_bounds.contraction_bounds import Accumulation, ieee_accumulation
from numguard.numerics.error_bounds.judgement import UNIT_ROUNDOFF, smallest_rounding
from numguard.numerics.formats import accumulator_dtype

#: Unit roundoff of the formats to which float32 factors may be rounded on request.
REDUCED_FACTORS: Final = {"tf32": 2.0**-11, "bf16": 2.0**-8}
SPLIT_PARTIALS: Final = 16  # upper limit of the splits of K that a 16-bit reduction stores
_SUBNORMAL: Final = np.float32(1e-40)
_FACTOR: Final = np.float32(1e20)
STORED_PARTIALS: Final = 2  # the product and the sum, where an implementation stores both in the output dtype


#: Unit roundoff to which factors are rounded first (0 for none); whether splits are stored; whether sums are float16.
Flags = tuple[float, bool, bool]


class Precision(NamedTuple):
    """The documented accumulation and the one that the flags and the build allow."""

    strict: Accumulation
    permissive: Accumulation


def _flag(name: str, *arguments: str) -> Any:
    """Read a flag without the deprecation warnings and the legacy conflicts of the public setters."""
    reader: Callable[..., Any] | None = getattr(torch._C, name, None)
    value = reader(*arguments) if reader is not None else None
    return value[0] if isinstance(value, tuple) else value


def _factor_roundoff(device_type: str) -> float:
    backend = "mkldnn" if device_type == "cpu" else "cuda"
    return REDUCED_FACTORS.get(str(_flag("_get_fp32_precision_getter", backend, "matmul")), 0.0)


def _sums_in_half(dtype: torch.dtype, device_type: str) -> bool:
    name = "_get_cpu_allow_fp16_reduced_precision_reduction"
    if device_type != "cpu":
        name = "_get_cublas_allow_fp16_accumulation"
    return dtype == torch.float16 and bool(_flag(name))


def _splits_in_sixteen_bits(dtype: torch.dtype) -> bool:
    kind = "fp16" if dtype == torch.float16 else "bf16"
    return bool(_flag(f"_get_cublas_allow_{kind}_reduced_precision_reduction"))


def reads_subnormals_as_zero(dtype: torch.dtype) -> bool:
    """Tell whether a product of this dtype takes a subnormal factor for zero on this thread.

    The bfloat16 dot product of AVX-512 always may; float32 does after ``torch.set_flush_denormal(True)``, which only
    a product can show. Subnormal float16 numbers are normal in the accumulator.
    """
    return dtype == torch.bfloat16 or (dtype == torch.float32 and not _SUBNORMAL * _FACTOR > 0.0)


def precision_now(dtype: torch.dtype, output: torch.dtype, device_type: str) -> Precision:
    """Return the accumulation models for factors of ``dtype`` and results of ``output`` on a device.

    Notes
    -----
    CPU: IEEE accumulation in float32 (float64 for float64), calibrated on this build for 16-bit dtypes, where two
    partial results may be stored in the output dtype. A request for TF32 or bfloat16 factors, or for float16 sums,
    widens the bound and makes it an assumption. Accelerators: always an assumption; matrix units truncate, so their
    unit roundoff counts twice (Fasi, Higham, Mikaitis and Pranesh, PeerJ CS 7:e330, 2021).
    """
    return precision_of(dtype, output, device_type, flags_now(dtype, device_type))


def flags_now(dtype: torch.dtype, device_type: str) -> Flags:
    """Return what the backend flags say of factors of ``dtype`` on a device."""
    return (
        _factor_roundoff(device_type) if dtype == torch.float32 else 0.0,
        device_type != "cpu" and _splits_in_sixteen_bits(dtype),
        _sums_in_half(dtype, device_type),
    )


@cache
def precision_of(dtype: torch.dtype, output: torch.dtype, device_type: str, flags: Flags) -> Precision:
    """Return what :func:`precision_now` does for given flags."""
    factors, splits, sums_in_half = flags
    strict = replace(ieee_accumulation(dtype), input_roundoff=factors)
    if device_type != "cpu":
        strict = replace(strict, model="assumed")
        if dtype != torch.float64:
            strict = replace(strict, unit_roundoff=2.0 * strict.unit_roundoff)
    elif strict.input_roundoff:
        strict = replace(strict, model="assumed")
    if accumulator_dtype(dtype) == output:
        return Precision(strict, strict)
    permissive = replace(
        strict,
        partial_roundoff=UNIT_ROUNDOFF[output],
        num_partials=SPLIT_PARTIALS if splits else STORED_PARTIALS,
        partial_smallest=smallest_rounding(output),
        model=strict.model if strict.model == "assumed" else "calibrated",
    )
    if sums_in_half:
        permissive = replace(permissive, unit_roundoff=UNIT_ROUNDOFF[dtype], model="assumed")
    return Precision(strict, permissive)


def with_stored_sums(precision: Precision, output: torch.dtype, *, adds: bool, num_sums: int) -> Precision:
    """Return the models, allowing for products that are stored in 16 bits before the next, or C, is added."""
    stored = precision.permissive
    if not stored.num_partials or not (adds or num_sums > 1):
        return precision
    num_partials = stored.num_partials * (num_sums if num_sums == 1 else num_sums + 1)
    stored = replace(stored, num_partials=num_partials, partial_largest=torch.finfo(output).max)
    return precision._replace(permissive=stored)
