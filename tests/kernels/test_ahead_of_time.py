"""Kernels compiled for GPUs that are not there pass their gates, and the gates fail where a kernel regresses."""

import os
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("emulated kernels cannot be compiled", allow_module_level=True)

import triton
import triton.language as tl
from numguard_kernels.ahead_of_time import TARGETS, compile_for, violations
from numguard_kernels.ahead_of_time.compiling import compile_once
from numguard_kernels.norm_parameter_gradient_bodies import judge_parameter_gradients
from numguard_kernels.registry import specs
from numguard_kernels.spec import Compilation, KernelSpec, Limits
from numguard_kernels.statistics_bodies import combine_partials
from numguard_kernels.summation import finish_checked_sum
from numguard_kernels.two_float import add_pairs, take_in, two_product

H100 = TARGETS["sm_90"]
(SUMS,) = (entry for entry in specs()[0].compilations if entry.name == "sums fp32")
(COLUMNS,), (LONG_ROWS,) = (
    [entry for spec in specs() if spec.name == kernel for entry in spec.compilations if entry.name == name]
    for kernel, name in (("checked_norm_parameter_gradient", "layer bf16"), ("checked_norm", "layer bf16, 131072"))
)
EVERY = [pytest.param(spec, entry, id=f"{spec.name}: {entry.name}") for spec in specs() for entry in spec.compilations]
# On the other targets the first of every body: it shares all that a further type would compile anew.
FIRST = [
    pytest.param(spec, entry, name, id=f"{spec.name}: {entry.name}, {name}")
    for spec in specs()
    for entry in {entry.function: entry for entry in reversed(spec.compilations)}.values()
    for name in TARGETS
    if name != "sm_90"
]


@pytest.mark.parametrize(("spec", "compilation"), EVERY)
def test_the_gate_of_an_h100(spec: KernelSpec, compilation: Compilation) -> None:
    code = compile_once(spec.name, compilation.name, H100)
    assert "sm_90" in compilation.limits
    assert violations(compilation, code, H100) == []


@pytest.mark.parametrize(("spec", "compilation", "name"), FIRST)
def test_the_gates_of_the_others(spec: KernelSpec, compilation: Compilation, name: str) -> None:
    code = compile_once(spec.name, compilation.name, TARGETS[name])
    assert violations(compilation, code, TARGETS[name]) == []


@pytest.mark.parametrize("name", ["sums fp32", "sums bf16"])
def test_sums_take_at_most_five_instructions_an_element(name: str) -> None:
    assert compile_once("tensor_statistics", name, H100).instructions_per_element <= 5.0


@triton.jit
def dot_body(x_ptr, y_ptr, out_ptr, n, THREADS: tl.constexpr, LANES: tl.constexpr):
    inside = tl.arange(0, THREADS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    high = tl.zeros((THREADS, LANES), tl.float32)
    low = tl.zeros((THREADS, LANES), tl.float32)
    for turn in range(tl.program_id(0).to(tl.int64), n // (THREADS * LANES), tl.num_programs(0)):
        x = tl.load(x_ptr + turn * THREADS * LANES + inside)
        y = tl.load(y_ptr + turn * THREADS * LANES + inside)
        product, error = two_product(x, y)
        high, low = take_in(high, low, product)
        low += error
    high, low = tl.reduce(tl.reduce((high, low), 1, add_pairs), 0, add_pairs)
    tl.store(out_ptr + tl.program_id(0), high + low)


@triton.jit
def unblocked_body(x_ptr, out_ptr, n, THREADS: tl.constexpr, LANES: tl.constexpr):
    inside = tl.arange(0, THREADS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    high = tl.zeros((THREADS, LANES), tl.float32)
    low = tl.zeros((THREADS, LANES), tl.float32)
    for turn in range(tl.program_id(0).to(tl.int64), n // (THREADS * LANES), tl.num_programs(0)):
        high, low = take_in(high, low, tl.load(x_ptr + turn * THREADS * LANES + inside))
    high, low = tl.reduce(tl.reduce((high, low), 1, add_pairs), 0, add_pairs)
    tl.store(out_ptr + tl.program_id(0), high + low)


def _compilation(function: Any, threads: int = 256, lanes: int = 4, **figures: Any) -> Compilation:
    pointers = [name for name in function.arg_names if name.endswith("_ptr")]
    return Compilation(
        name=function.__name__,
        function=function,
        signature={**dict.fromkeys(pointers, "*fp32"), "n": "i64"},
        constexprs={"THREADS": threads, "LANES": lanes},
        num_threads=256,
        elements_per_turn=threads * lanes,
        bytes_per_element=4.0 * (len(pointers) - 1),
        **figures,
    )


# What follows a main loop in a launch of its own: types, and constants.
FINISHING: list[tuple[Any, dict[str, str], dict[str, Any]]] = [
    (
        combine_partials,
        {"floats_ptr": "*fp32", "counts_ptr": "*i32", "values_ptr": "*fp64", "tallies_ptr": "*i64"},
        {"NEEDS": 255, "ROWS": 16, "PARTS": 8},
    ),
    (
        finish_checked_sum,
        {"partials_ptr": "*fp32", "value_ptr": "*u16", "figures_ptr": "*fp64", "is_wrong_ptr": "*i1"},
        {"UNIT": 2.0**-9, "SMALLEST": 0.0, "LARGEST": 3e38, "TO_BF16": True, "PARTS": 64},
    ),
    (
        judge_parameter_gradients,
        {"floats_ptr": "*fp32", "value_ptr": "*u16", "figures_ptr": "*fp64", "is_wrong_ptr": "*i1"},
        {"CODE": 6, "GIVEN": False, "UNIT": 2.0**-9, "SMALLEST": 0.0, "LARGEST": 3e38, "THREADS": 128},
    ),
]


def _finishing(function: Any, types: dict[str, str], constants: dict[str, Any]) -> Compilation:
    numbers = [name for name in function.arg_names if name not in types and name not in constants]
    signature = {name: "i32" if name.startswith("num_") else "fp32" for name in numbers}
    return Compilation(
        name=function.__name__,
        function=function,
        signature={**types, **signature},
        constexprs=constants,
        num_threads=128,
        elements_per_turn=128,
        bytes_per_element=4.0,
    )


LAUNCHED = [_finishing(*entry) for entry in FINISHING]
LAUNCHED += {entry.function.__name__: entry for spec in specs() for entry in reversed(spec.compilations)}.values()
SIZES = [
    pytest.param(entry, name, id=f"{entry.function.__name__}: {name}")
    for entry in LAUNCHED
    for name, kind in entry.signature.items()
    if kind in ("i32", "i64")
]


@pytest.mark.parametrize(("compilation", "name"), SIZES)
def test_sizes_of_one_compile(compilation: Compilation, name: str) -> None:
    """A launch turns an integer argument that is 1 into a constant, which emulation does not: it has no methods."""
    types = {argument: kind for argument, kind in compilation.signature.items() if argument != name}
    others = tuple(argument for argument in compilation.divisible if argument != name)
    one = replace(
        compilation, signature=types, constexprs={**compilation.constexprs, name: 1}, divisible=others, num_loops=1
    )
    assert compile_for(one, H100).spill_bytes == 0


def test_contraction_is_off_in_the_machine_code_and_the_gate_sees_it_on() -> None:
    # TwoSum 6, and two for the low parts.
    dot = _compilation(dot_body, additions_per_element=8.0, fused_per_element=1.0)
    assert violations(dot, compile_for(dot, H100), H100) == []
    contracted = compile_for(dot, H100, enable_fp_fusion=True)
    assert contracted.fused_per_element > 1.0
    assert any("contracted" in line for line in violations(dot, contracted, H100))


def test_the_gate_sees_a_sum_that_is_not_blocked() -> None:
    unblocked = _compilation(unblocked_body, limits=SUMS.limits, additions_per_element=2.75)
    found = violations(unblocked, compile_for(unblocked, H100), H100)
    assert any("instructions per element" in line for line in found)
    assert any("additions per element" in line for line in found)


def test_the_gate_sees_a_simplified_two_sum() -> None:
    code = compile_once("tensor_statistics", SUMS.name, H100)
    fewer = replace(code, additions=code.additions - 1)
    for name in TARGETS:
        found = violations(SUMS, fewer, TARGETS[name])
        assert any("TwoSum" in line for line in found) == (TARGETS[name].backend == "cuda")


def test_the_gate_sees_spilled_registers() -> None:
    crowded = _compilation(
        unblocked_body, threads=2048, lanes=32, limits={"sm_90": Limits(instructions_per_element=99.0, registers=255)}
    )
    found = violations(crowded, compile_for(crowded, H100), H100)
    assert any("spilled" in line for line in found)


def test_the_gate_sees_narrow_loads() -> None:
    narrow = _compilation(unblocked_body, lanes=1)
    assert any("widest load" in line for line in violations(narrow, compile_for(narrow, H100), H100))


def test_the_gate_asks_for_a_reason_where_issuing_is_slower_than_memory() -> None:
    code = compile_once("tensor_statistics", SUMS.name, H100)
    slow = replace(SUMS, bytes_per_element=0.01, limits={})
    assert any("no reason is stated" in line for line in violations(slow, code, H100))
    assert violations(replace(slow, issue_bound_because="it is tiny"), code, H100) == []


def test_the_gate_sees_column_sums_that_are_not_blocked_or_contracted() -> None:
    unblocked = replace(
        COLUMNS,
        constexprs={**COLUMNS.constexprs, "ROWS": 1},
        elements_per_turn=COLUMNS.elements_per_turn // COLUMNS.constexprs["ROWS"],
    )
    found = violations(unblocked, compile_for(unblocked, H100), H100)
    assert any("instructions per element" in line for line in found)
    assert any("additions per element" in line for line in found)
    contracted = compile_for(COLUMNS, H100, enable_fp_fusion=True)
    assert any("contracted" in line for line in violations(COLUMNS, contracted, H100))
    unaligned = replace(COLUMNS, divisible=())
    assert any("widest load" in line for line in violations(unaligned, compile_for(unaligned, H100), H100))


def test_both_passes_over_long_rows_count() -> None:
    code = compile_once("checked_norm", LONG_ROWS.name, H100)
    first = compile_for(replace(LONG_ROWS, num_loops=1), H100)
    assert 0 < first.instructions < 0.8 * code.instructions
    assert first.additions < code.additions
    # Three loops are not there: the whole code counts instead of some of it.
    whole = compile_for(replace(LONG_ROWS, num_loops=3), H100)
    assert whole.instructions > 1.3 * code.instructions
    assert any("instructions per element" in line for line in violations(LONG_ROWS, whole, H100))


def test_the_gate_sees_long_rows_that_crowd_registers_or_are_read_narrowly() -> None:
    wide = replace(LONG_ROWS, constexprs={**LONG_ROWS.constexprs, "THREADS": 1024})
    assert any("registers" in line for line in violations(wide, compile_for(wide, H100), H100))
    narrow = replace(LONG_ROWS, constexprs={**LONG_ROWS.constexprs, "LANES": 1})
    found = violations(narrow, compile_for(narrow, H100), H100)
    assert any("widest load" in line for line in found)
