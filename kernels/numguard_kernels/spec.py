"""What every kernel says about itself, so that tests, gates and benchmarks need only walk a list."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import torch

#: Arguments of a launcher: positional ones and keywords.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one compilation may cost on one target: what was reached when it was written, plus 5 %.

    Parameters
    ----------
    instructions_per_element
        Instructions of the main loop for each element, per thread.
    registers
        Registers of a thread (vector registers on AMD).
    """

    instructions_per_element: float
    registers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Compilation:
    """One set of types and constants for which a kernel body is compiled ahead of time, and what must come out.

    Parameters
    ----------
    name
        ``"core fp32"``; unique within the kernel.
    function
        The ``triton.jit`` body.
    signature
        Triton type of every run-time argument: ``"*fp32"``, ``"i64"``. Pointers are taken to be 16-byte aligned.
    constexprs
        Values of the compile-time arguments.
    num_threads
        Threads of one program: four warps of 32 or two wavefronts of 64 are both 128.
    elements_per_turn
        Elements that one program handles in one turn of its main loop; in all, where it has no loop.
    num_loops
        Main loops that run one after another over the same elements, each taking ``elements_per_turn`` in one turn:
        their instructions are added up.
    bytes_per_element
        Bytes read and written in global memory for each element.
    additions_per_element
        Floating-point additions of the main loop for each element, exactly: fewer mean that a TwoSum was simplified
        away. None where the body adds nothing.
    fused_per_element
        Fused multiply-adds of the main loop for each element, exactly: more mean that a product and a sum were
        contracted. None for a body whose error analysis allows contraction.
    vector_loads
        Whether the main loop must read 16 bytes at a time.
    divisible
        Names of integer arguments that are multiples of 16, as a launcher finds out by itself.
    limits
        By target: ``"sm_90"`` is required, further ones are optional.
    issue_bound_because
        Why issuing the instructions takes longer than moving the bytes on an H100, where it does.
    """

    name: str
    function: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    num_threads: int
    elements_per_turn: int
    bytes_per_element: float
    num_loops: int = 1
    additions_per_element: float | None = None
    fused_per_element: float | None = 0.0
    vector_loads: bool = True
    divisible: tuple[str, ...] = ()
    limits: Mapping[str, Limits] = field(default_factory=dict)
    issue_bound_because: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One input on which a kernel must agree with its reference.

    Parameters
    ----------
    name
        Unique within the kernel.
    make
        Builds the arguments on a device; equal arguments every time.
    """

    name: str
    make: Callable[[torch.device], Arguments]


def case_name(*parts: object, **options: object) -> str:
    """Return the name of a case: what it is made of, dtypes without their module, and options with their names."""
    words = [*map(str, parts), *(f"{name}={value}" for name, value in options.items())]
    return " ".join(words).replace("torch.", "").strip()


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelSpec:
    """One kernel: how it is called, what it must agree with, and what it costs.

    Parameters
    ----------
    name
        Name of the launcher.
    launcher
        Runs the kernel; returns a NamedTuple of tensors (or None for what was not asked for).
    reference
        The same in plain torch: same arguments, same fields.
    tolerance
        ``tolerance(expected, *args, **options)`` returns by field the largest ``|launcher - reference|`` that rounding
        explains, derived and not fitted. A field that is not named must be equal, NaN to NaN.
    cases
        Inputs over dtypes, odd sizes, strides, NaN, infinities, subnormal numbers and signed zeros.
    compilations
        What is compiled ahead of time.
    benchmark
        ``benchmark(num_elements, dtype, device)`` returns arguments for a timing.
    bytes_moved, flops
        Of a call with these arguments.
    dtypes
        What a benchmark is run over.
    rivals
        By name, what a user would call instead, with the same arguments.
    """

    name: str
    launcher: Callable[..., Any]
    reference: Callable[..., Any]
    tolerance: Callable[..., Mapping[str, Any]]
    cases: tuple[Case, ...]
    compilations: tuple[Compilation, ...]
    benchmark: Callable[[int, torch.dtype, torch.device], Arguments]
    bytes_moved: Callable[..., int]
    flops: Callable[..., int]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)
    rivals: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


def disagreements(result: Any, expected: Any, tolerance: Mapping[str, Any] = NOTHING) -> list[str]:
    """Return how a launcher's result differs from its reference's beyond what rounding explains, one line per field.

    Parameters
    ----------
    result, expected
        NamedTuples of the same type, with tensors, numbers or None.
    tolerance
        By field, a bound on the absolute difference, of a shape that broadcasts. Without one the field must be equal;
        NaN equals NaN, and the sign of a zero is not compared.
    """
    found = []
    for name in expected._fields:
        actual, wanted = getattr(result, name), getattr(expected, name)
        if actual is None or wanted is None:
            if actual is not wanted:
                found.append(f"{name}: {actual} instead of {wanted}")
            continue
        actual, wanted = torch.as_tensor(actual).cpu(), torch.as_tensor(wanted).cpu()
        if actual.shape != wanted.shape or actual.dtype != wanted.dtype:
            found.append(f"{name}: {actual.dtype} {tuple(actual.shape)}, not {wanted.dtype} {tuple(wanted.shape)}")
            continue
        equal = actual == wanted
        if wanted.dtype.is_floating_point:
            bound = torch.as_tensor(tolerance.get(name, 0.0), dtype=torch.float64).cpu()
            within = (actual.double() - wanted.double()).abs() <= bound
            equal = equal | (actual.isnan() & wanted.isnan()) | within | bound.isinf()
        if not bool(equal.all()):
            where = int((~equal).reshape(-1).nonzero()[0])
            found.append(
                f"{name}: {int((~equal).sum())} of {equal.numel()} differ, first at {where}: "
                f"{actual.reshape(-1)[where].item()!r} instead of {wanted.reshape(-1)[where].item()!r}"
            )
    return found
