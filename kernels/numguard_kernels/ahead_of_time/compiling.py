"""One compilation for one target, without a GPU or its driver."""

from functools import cache
from typing import Any

import triton
from triton.compiler import ASTSource

from numguard_kernels.ahead_of_time.machine_code import MachineCode, read_machine_code
from numguard_kernels.ahead_of_time.targets import Target
from numguard_kernels.spec import Compilation


def compile_for(compilation: Compilation, target: Target, *, enable_fp_fusion: bool = False) -> MachineCode:
    """Return what a compilation becomes on a target.

    Parameters
    ----------
    compilation
        Of a kernel's spec.
    target
        One of :data:`~numguard_kernels.ahead_of_time.targets.TARGETS`.
    enable_fp_fusion
        Whether products and sums may be contracted; launches never allow it.
    """
    num_warps = compilation.num_threads // target.warp_size
    compiled = triton.compile(
        source_of(compilation),
        target=target.triton_target(),
        options={"num_warps": num_warps, "enable_fp_fusion": enable_fp_fusion},
    )
    return read_machine_code(
        compiled,
        target,
        elements_per_thread=compilation.elements_per_turn / compilation.num_threads,
        num_loops=compilation.num_loops,
    )


def source_of(compilation: Compilation) -> ASTSource:
    """Return Triton's source: types, constants, and which arguments are multiples of 16."""
    names = [name for name in compilation.function.arg_names if name not in compilation.constexprs]
    missing = set(names) - compilation.signature.keys()
    if missing:
        raise ValueError(f"{compilation.name}: no type is given for {', '.join(sorted(missing))}")
    signature = {
        name: "constexpr" if name in compilation.constexprs else compilation.signature[name]
        for name in compilation.function.arg_names
    }
    divisible = [
        index
        for index, name in enumerate(compilation.function.arg_names)
        if signature[name].startswith("*") or name in compilation.divisible
    ]
    attributes: dict[Any, Any] = {(index,): [["tt.divisibility", 16]] for index in divisible}
    return ASTSource(
        fn=compilation.function, signature=signature, constexprs=dict(compilation.constexprs), attrs=attributes
    )


@cache
def compile_once(kernel: str, name: str, target: Target) -> MachineCode:
    """Return what a registered kernel's compilation becomes on a target; compiled once per process."""
    from numguard_kernels.registry import specs

    (found,) = (
        compilation
        for spec in specs()
        if spec.name == kernel
        for compilation in spec.compilations
        if compilation.name == name
    )
    return compile_for(found, target)
