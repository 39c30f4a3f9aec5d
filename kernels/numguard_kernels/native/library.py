"""The compiled library as Python calls it: signatures, dtype numbers, and a test of what was loaded."""

import ctypes
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

VERSION: Final = 5
_BYTES: Final = 4  # number of the first 8-bit format
_TABLES: Final = (
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    *((torch.float8_e8m0fnu,) if hasattr(torch, "float8_e8m0fnu") else ()),
)
#: Numbers of the dtypes that the library reads; 8-bit formats go through tables of their 256 values.
DTYPES: Final[Mapping[torch.dtype, int]] = MappingProxyType(
    {torch.float64: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
    | {dtype: _BYTES + number for number, dtype in enumerate(_TABLES)}
)
VARIANTS: Final = ("generic", "avx2", "avx512")  # by the number that ng_select takes

_pointer, _int, _long, _double = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double


class Operand(ctypes.Structure):
    """A batch of matrices in the caller's memory; strides in elements."""

    _fields_ = (
        ("data", _pointer),
        ("dtype", _long),
        ("batch", _long),
        ("row", _long),
        ("column", _long),
    )


class Bound(ctypes.Structure):
    """A bound on an error as a function of the sum of magnitudes; infinite from ``limit`` on."""

    _fields_ = tuple((name, _double) for name in ("relative", "floor", "factor", "limit"))


class Judging(ctypes.Structure):
    """Everything by which the results of a matrix product are judged that does not depend on the numbers in it."""

    _fields_ = (
        *(
            (name, _double)
            for name in (
                "alpha",
                "beta",
                "error_relative",
                "error_floor",
                "unit_roundoff",
                "smallest_rounding",
                "largest",
                "result_largest",
                "output_relative",
                "output_floor",
            )
        ),
        ("strict", Bound),
        ("permissive", Bound),
        *((name, _long) for name in ("has_permissive", "rectified", "propagates_nonfinite")),
    )


class Format(ctypes.Structure):
    """The format of a result: unit roundoff, smallest rounding, largest number."""

    _fields_ = tuple((name, _double) for name in ("unit_roundoff", "smallest_rounding", "largest"))


class Normalising(ctypes.Structure):
    """Everything by which a layer norm is judged that does not depend on the numbers in it.

    Unit roundoff, smallest normal number, smallest rounding and limit are the accumulator's; ``shadow`` is the error of
    the shadow as a multiple of the strict bound.
    """

    _fields_ = (
        *((name, _double) for name in ("eps", "height", "unit_roundoff", "smallest_normal", "smallest_rounding")),
        *((name, _double) for name in ("limit", "shadow")),
        ("result", Format),
        ("statistics", Format),
    )


class Summing(ctypes.Structure):
    """Everything by which sums or means are judged that does not depend on the numbers in them.

    ``growth`` and ``permissive_growth`` are errors relative to the sum of magnitudes, ``error`` is the shadow's;
    ``divisor`` is one, or the number of terms of a mean, and ``division`` the relative error of that division.
    """

    _fields_ = (
        *((name, _double) for name in ("growth", "permissive_growth", "limit", "lost", "error", "divisor", "division")),
        ("result", Format),
        ("has_permissive", _long),
    )


class Storing(ctypes.Structure):
    """The format of a buffer to which rows are added: unit roundoff, smallest rounding, and where sums leave it."""

    _fields_ = tuple((name, _double) for name in ("unit_roundoff", "smallest_rounding", "limit"))


class Weighing(ctypes.Structure):
    """Everything by which the gradients of weight and bias of a norm are judged that does not depend on numbers."""

    _fields_ = (
        *((name, _double) for name in ("smallest_normal", "shadow")),
        ("strict", Storing),
        ("permissive", Storing),
        ("result", Format),
        ("has_permissive", _long),
    )


class Slotting(ctypes.Structure):
    """Everything by which sums by slot are judged that does not depend on the numbers in them.

    ``shadow`` is the unit roundoff of the shadow, ``result`` the format of results and accumulator.
    """

    _fields_ = (("shadow", _double), ("result", Format))


class AttentionModel(ctypes.Structure):
    """How attention is computed; fields as in numguard's model of the same name."""

    _fields_ = tuple(
        (name, _double)
        for name in (
            *("unit_roundoff", "smallest_normal", "exponential"),
            *("weight_roundoff", "weight_smallest", "weight_largest"),
            *("factor_roundoff", "store_roundoff", "store_smallest"),
        )
    )


class Attending(ctypes.Structure):
    """Everything by which attention is judged that does not depend on the numbers in it.

    ``mass_limit`` is where a score may overflow, ``key_height`` the height of a sum over the keys; ``query_stores`` and
    ``key_stores`` say how often gradients are stored while they grow.
    """

    _fields_ = (
        *((name, _double) for name in ("scale", "shadow", "mass_limit", "key_height", "query_stores", "key_stores")),
        ("result", Format),
        ("logsumexp", Format),
        ("strict", AttentionModel),
        ("permissive", AttentionModel),
        *((name, _long) for name in ("has_permissive", "causal")),
    )


class Roundings(ctypes.Structure):
    """What an elementwise kernel rounds to; fields as in numguard's record of the same kind."""

    _fields_ = tuple(
        (name, _double) for name in ("unit", "constant", "constant_floor", "store", "smallest_normal", "largest")
    )


class Pointwise(ctypes.Structure):
    """Everything by which an elementwise operator is judged that does not depend on the numbers in it.

    ``constant`` stands for the second term where ``has_constant``; ``rule`` is the operator's place in :data:`RULES`.
    """

    _fields_ = (
        *((name, _double) for name in ("constant", "factor")),
        ("strict", Roundings),
        ("permissive", Roundings),
        ("result", Format),
        *((name, _long) for name in ("rule", "has_constant", "has_permissive", "propagates_nonfinite")),
    )


#: Elementwise operators by the number that the library gives them.
RULES: Final = ("add", "sub", "mul", "div", "lerp", "addcmul", "addcdiv", "sqrt")
#: Terms of each, one that a constant stands for included; the factor of some is none.
NUM_TERMS: Final = (2, 2, 2, 2, 2, 3, 3, 1)

_SIGNATURES: Final[Mapping[str, tuple[Any, tuple[Any, ...]]]] = MappingProxyType(
    {
        "ng_version": (_int, ()),
        "ng_variant": (ctypes.c_char_p, ()),
        "ng_select": (_int, (_int,)),
        "ng_set_byte_table": (None, (_int, _pointer)),
        "ng_statistics": (None, (_pointer, _pointer)),
        "ng_reduce": (
            None,
            (_pointer, _int, _int, _pointer, _pointer, _int, _pointer, _pointer, _int, _int, *(_pointer,) * 4),
        ),
        "ng_counts": (None, (_pointer, _int, _long, _double, _pointer, _pointer, _pointer)),
        "ng_checked_sum": (None, (_pointer, _pointer, _pointer)),
        "ng_dot": (None, (_pointer, _int, _pointer, _int, _long, _pointer)),
        "ng_product": (None, (_pointer, _pointer, _long, _long, _long, _long, _long, _long, _pointer, _pointer)),
        "ng_judged_product": (None, (_pointer, *(_long,) * 4, *(_pointer,) * 3)),
        "ng_judged_checksum": (None, (_pointer, *(_long,) * 5, *(_pointer,) * 3)),
        "ng_judged_product_and_checksum": (None, (*(_pointer,) * 4, _long, *(_pointer,) * 4)),
        "ng_judged_layer_norm": (None, (_pointer, _long, *(_pointer,) * 3)),
        "ng_judged_layer_norm_gradient": (None, (_pointer, _long, *(_pointer,) * 3)),
        "ng_judged_sums": (
            None,
            (_pointer, _int, _int, _pointer, _pointer, _int, _pointer, _pointer, _pointer, _int, *(_pointer,) * 3),
        ),
        "ng_judged_parameter_gradients": (None, (_pointer,) * 4),
        "ng_judged_slots": (None, (_pointer,) * 4),
        "ng_judged_pointwise": (None, (_long, _int, *(_pointer,) * 7)),
        "ng_judged_attention": (None, (_pointer,) * 4),
        "ng_judged_attention_gradients": (None, (_pointer,) * 5),
        "ng_judge": (
            None,
            (_long, _pointer, _int, *(_pointer, _long) * 4, _double, _double, _double, _int, _int, _pointer),
        ),
        "ng_update_health": (None, (_pointer, _int, _pointer, _int, _long, _pointer)),
        "ng_list_health": (None, (_pointer, _int, _long, _double, _pointer)),
        "ng_replica_checksum": (ctypes.c_int64, (_pointer, _long)),
    }
)


class LibraryError(Exception):
    """The library cannot be loaded, or does not do what it should."""


def load(path: Path) -> ctypes.CDLL:
    """Load a library, declare its functions and try it.

    Raises
    ------
    LibraryError
        If it cannot be loaded, is of another version, or gives a wrong sum.
    """
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise LibraryError(f"{path.name} cannot be loaded: {error}") from error
    if library.ng_version() != VERSION:
        raise LibraryError(f"{path.name} has version {library.ng_version()}, not {VERSION}")
    numbers = (ctypes.c_float * 300)(*(float(number % 7) - 3.5 for number in range(300)))
    out = (ctypes.c_double * 4)()
    library.ng_statistics((ctypes.c_int64 * 5)(ctypes.addressof(numbers), 1, 300, 0, 1), ctypes.addressof(out))
    if list(out) != [sum(numbers), 0.0, sum(map(abs, numbers)), 3.5]:
        raise LibraryError(f"{path.name} gives {list(out)} for a sum of 300 numbers: the compiler has broken it")
    for number, dtype in enumerate(_TABLES):
        values = torch.arange(256, dtype=torch.uint8).view(dtype).to(torch.float32)
        library.ng_set_byte_table(number, values.data_ptr())
    return library
