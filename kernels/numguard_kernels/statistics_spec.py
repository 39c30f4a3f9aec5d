"""What the tensor statistics are tested on, compiled for and timed with."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from numguard_kernels.element_formats import ELEMENT_FORMATS
from numguard_kernels.sample_tensors import CONTENTS, FLOATING_DTYPES, LAYOUTS, random_vector, sample
from numguard_kernels.spec import Arguments, Case, Compilation, KernelSpec, Limits, case_name
from numguard_kernels.statistics import (
    CORE,
    NEEDS,
    NUM_THREADS,
    Statistics,
    bits_of,
    reference_statistics,
    run_constants,
    tensor_statistics,
)
from numguard_kernels.statistics_bodies import observe_runs, observe_strided
from numguard_kernels.two_float import BLOCK_TERMS, blocked_sum_error


def _tolerance(expected: Statistics, x: Tensor, **options: Any) -> dict[str, Any]:
    """The stated bound with the most turns a test can need, and the reference's own error in float64."""
    if expected.absolute_sum is None:
        return {"relative_error": math.inf, "sum": math.inf, "sum_low": math.inf}
    form = ELEMENT_FORMATS[x.dtype]
    in_range = expected.absolute_sum < torch.finfo(form.accumulator).max / 2
    absolute = torch.where(in_range | expected.absolute_sum.isnan(), expected.absolute_sum, math.inf)
    factor = blocked_sum_error(x.numel(), x.numel(), terms=2 * BLOCK_TERMS, unit_roundoff=form.unit_roundoff)
    reference = x.numel() * 2.0**-53
    return {
        "sum": absolute * (factor + reference),
        "absolute_sum": absolute * (2 * BLOCK_TERMS + x.numel()) * form.unit_roundoff,
        "sum_low": math.inf,  # compared with exact sums elsewhere: this reference has none
        "relative_error": math.inf,
    }


def _case(
    dtype: torch.dtype,
    content: str,
    shape: tuple[int, ...],
    layout: str = "contiguous",
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Case:
    def make(device: torch.device) -> Arguments:
        return (LAYOUTS[layout](sample(shape, dtype, content).to(device)),), dict(options)

    named = {name: value for name, value in options.items() if name != "needs"}
    return Case(name=case_name(dtype, content, shape, layout, **named), make=make)


def _cases() -> tuple[Case, ...]:
    every = {"needs": tuple(NEEDS)}
    along = {"needs": tuple(NEEDS)[:-1]}
    found = [_case(dtype, content, (7, 23), options=every) for dtype in FLOATING_DTYPES for content in CONTENTS]
    found += [_case(dtype, "ordinary", (1001,)) for dtype in FLOATING_DTYPES]
    for layout in LAYOUTS:
        found.append(_case(torch.bfloat16, "ordinary", (3, 4, 11), layout, every))
        for dim in (0, -1, (0, 2)):
            dtype = torch.float32 if dim == 0 else torch.float8_e4m3fn if dim == -1 else torch.bfloat16
            found.append(_case(dtype, "both_infinities", (3, 4, 11), layout, {**along, "dim": dim}))
    found += [_case(torch.float32, "cancelling", (size,), "unaligned") for size in (0, 1, 2, 3, 63, 64, 65)]
    found += [
        _case(torch.float32, "ordinary", shape, options={"dim": -1}) for shape in ((0, 5), (5, 0), (1, 1), (5, 600))
    ]
    found += [_case(torch.float32, "subnormal", (5, 40), options={"precise": True, "dim": dim}) for dim in (None, 0, 1)]
    found.append(_case(torch.float32, "ordinary", (2, 2, 2, 2, 2, 2, 3), "every second", {"dim": (0, 2, 4, 6)}))
    found.append(_case(torch.float32, "ordinary", (3, 300), "gapped rows", every))
    found += [_case(torch.float32, "nan", (9, 5), options={"needs": (name,)}) for name in NEEDS if name != "exponents"]
    return tuple(found)


def _run(
    what: str,
    dtype: torch.dtype,
    needs: Sequence[str],
    limits: Limits,
    *,
    additions: float | None = None,
    precise: bool = False,
    reason: str = "",
) -> Compilation:
    """Over a whole contiguous tensor."""
    form = ELEMENT_FORMATS[dtype]
    constants = run_constants(form, precise=precise)
    return Compilation(
        name=f"{what} {form.name}",
        function=observe_runs,
        signature={
            "x_ptr": form.pointer,
            "head_ptr": form.pointer,
            "floats_ptr": form.accumulator_pointer,
            "counts_ptr": "*i32",
            "histogram_ptr": "*i64",
            "n": "i64",
            "num_head": "i32",
            "run_stride": "i64",
        },
        constexprs={
            "CODE": form.code,
            "DOUBLE": form.is_double,
            "NEEDS": bits_of(needs, None),
            "SMALLEST_NORMAL": form.smallest_normal,
            **constants,
        },
        num_threads=NUM_THREADS,
        elements_per_turn=constants["THREADS"] * constants["LANES"] * constants["TILES"],
        bytes_per_element=dtype.itemsize,
        additions_per_element=additions,
        divisible=("run_stride",),
        limits={"sm_90": limits},
        issue_bound_because=reason,
    )


def _rows(dtype: torch.dtype, limits: Limits) -> Compilation:
    """Along the last dimension of a contiguous tensor."""
    form = ELEMENT_FORMATS[dtype]
    strides: tuple[str, ...] = ("kept_size_0", "kept_size_1", "kept_stride_0", "kept_stride_1", "kept_stride_2")
    strides += ("reduced_size_0", "reduced_size_1", "reduced_stride_1", "reduced_stride_2")
    return Compilation(
        name=f"rows {form.name}",
        function=observe_strided,
        signature={
            "x_ptr": form.pointer,
            "floats_ptr": "*fp32",
            "counts_ptr": "*i32",
            "histogram_ptr": "*i64",
            "num_kept": "i32",
            "num_reduced": "i32",
            **dict.fromkeys(strides, "i64"),
        },
        constexprs={
            "reduced_stride_0": 1,
            "CODE": form.code,
            "DOUBLE": False,
            "NEEDS": bits_of(CORE, None),
            "SMALLEST_NORMAL": form.smallest_normal,
            "KEPT_LEVELS": 1,
            "REDUCED_LEVELS": 1,
            "ROWS": 2,
            "COLUMNS": 1024,
            "TILES": BLOCK_TERMS,
        },
        num_threads=NUM_THREADS,
        elements_per_turn=2 * 1024 * BLOCK_TERMS,
        bytes_per_element=dtype.itemsize,
        divisible=("kept_stride_0", "num_reduced"),
        limits={"sm_90": limits},
    )


_SUMS: Final = ("sum", "absolute_sum")
_COUNTING: Final = "each of the four counts is a comparison and an addition for every element; a check asks for none"
_DECODING: Final = "8-bit floats are decoded by integer instructions, which every architecture has, at one byte each"

SPEC: Final = KernelSpec(
    name="tensor_statistics",
    launcher=tensor_statistics,
    reference=reference_statistics,
    tolerance=_tolerance,
    cases=_cases(),
    compilations=(
        _run("sums", torch.float32, _SUMS, Limits(instructions_per_element=3.48, registers=36), additions=2.75),
        _run("sums", torch.bfloat16, _SUMS, Limits(instructions_per_element=5.0, registers=42), additions=2.75),
        _run("core", torch.float32, CORE, Limits(instructions_per_element=4.53, registers=35), additions=2.75),
        _run("core", torch.bfloat16, CORE, Limits(instructions_per_element=6.09, registers=69), additions=2.75),
        _run("core", torch.float16, CORE, Limits(instructions_per_element=5.29, registers=69)),
        # The magnitude of a float64 is an addition, now and then: not counted.
        _run("core", torch.float64, CORE, Limits(instructions_per_element=27.37, registers=68)),
        _run(
            "core",
            torch.float8_e4m3fn,
            CORE,
            Limits(instructions_per_element=12.1, registers=100),
            additions=2.375,
            reason=_DECODING,
        ),
        _run("core", torch.float8_e5m2, CORE, Limits(instructions_per_element=6.56, registers=120), reason=_DECODING),
        _run(
            "all counts",
            torch.bfloat16,
            tuple(NEEDS)[:-1],
            Limits(instructions_per_element=22.76, registers=108),
            reason=_COUNTING,
        ),
        _run(
            "precise",
            torch.float32,
            CORE,
            Limits(instructions_per_element=10.11, registers=68),
            additions=8.0,
            precise=True,
        ),
        _rows(torch.bfloat16, Limits(instructions_per_element=8.16, registers=81)),
    ),
    benchmark=lambda num_elements, dtype, device: ((random_vector(num_elements, dtype, device),), {}),
    bytes_moved=lambda x, **_options: x.numel() * x.element_size(),
    flops=lambda x, **_options: x.numel() * 3,
    rivals={
        "torch.sum": lambda x, **_options: x.sum(),
        "torch, three passes": lambda x, **_options: (x.sum(dtype=torch.float64), x.abs().sum(), x.abs().amax()),
    },
)
