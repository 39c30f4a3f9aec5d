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
from numguard_kernels.registry import specs
from numguard_kernels.spec import Compilation, KernelSpec, Limits
from numguard_kernels.two_float import add_pairs, take_in, two_product

H100 = TARGETS["sm_90"]
(SUMS,) = (entry for entry in specs()[0].compilations if entry.name == "sums fp32")
EVERY = [pytest.param(spec, entry, id=f"{spec.name}: {entry.name}") for spec in specs() for entry in spec.compilations]
# On the other targets the first of every kernel: they share all that a further type would compile anew.
FIRST = [
    pytest.param(spec, spec.compilations[0], name, id=f"{spec.name}: {name}")
    for spec in specs()
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
