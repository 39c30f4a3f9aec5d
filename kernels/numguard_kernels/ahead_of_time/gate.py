"""Whether a kernel's machine code still is what it was when its limits were written."""

from numguard_kernels.ahead_of_time.machine_code import MachineCode
from numguard_kernels.ahead_of_time.prediction import predicted
from numguard_kernels.ahead_of_time.targets import Target
from numguard_kernels.spec import Compilation


def violations(compilation: Compilation, code: MachineCode, target: Target) -> list[str]:
    """Return what is wrong with the machine code of a compilation, one line each; nothing where it passes.

    Parameters
    ----------
    compilation
        With its limits.
    code
        What it became.
    target
        On which architecture. Registers and instructions are limited where the compilation gives limits for it;
        spills, load widths and, on NVIDIA, additions and fused multiply-adds everywhere.
    """
    found = []
    if code.spill_bytes:
        found.append(f"{code.spill_bytes} bytes of registers are spilled to memory")
    if compilation.vector_loads and code.load_bytes < 16:
        found.append(f"the widest load of the main loop is {code.load_bytes} bytes, not 16")
    if target.backend == "cuda":
        found += _arithmetic(compilation, code, has_packed=target.architecture == 100)
    limits = compilation.limits.get(target.name)
    if limits is not None:
        if code.instructions_per_element > limits.instructions_per_element:
            found.append(
                f"{code.instructions_per_element:.2f} instructions per element, limit {limits.instructions_per_element}"
            )
        if code.registers > limits.registers:
            found.append(f"{code.registers} registers, limit {limits.registers}")
    if target.name == "sm_90":
        found += _roofline(compilation, code, target)
    return found


def _arithmetic(compilation: Compilation, code: MachineCode, *, has_packed: bool) -> list[str]:
    found = []
    wanted = compilation.additions_per_element
    # Packed additions work on pairs of which one half may be idle: there, only fewer are a sign.
    lost = wanted is not None and code.additions_per_element < wanted
    if lost or (wanted is not None and not has_packed and code.additions_per_element != wanted):
        found.append(f"{code.additions_per_element} additions per element, not {wanted}: is a TwoSum still whole?")
    wanted = compilation.fused_per_element
    if wanted is not None and code.fused_per_element != wanted:
        found.append(f"{code.fused_per_element} fused multiply-adds per element, not {wanted}: contracted?")
    return found


def _roofline(compilation: Compilation, code: MachineCode, target: Target) -> list[str]:
    share = predicted(compilation, code, target).issue_share
    if share <= 1.0 or compilation.issue_bound_because:
        return []
    return [f"issuing takes {share:.2f} times as long as moving the bytes on {target.gpu}, and no reason is stated"]
