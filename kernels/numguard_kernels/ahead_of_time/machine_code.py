"""What the machine code of a kernel says: registers, spills, widths of loads, instructions of its main loop."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

from numguard_kernels.ahead_of_time.targets import Target

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_LINE = re.compile(r"/\*([0-9a-f]{4,6})\*/\s+([^;]+);")
_BRANCH = re.compile(r"\bBRA(?:\.\w+)*\s+(?:!?U?P\w+,\s*)*0x([0-9a-f]+)")
_LABEL = re.compile(r"^(\.?\w+):")
# Pairs of additions or multiplications in one instruction count twice.
_PACKED = r"(?:v_pk_|\b\w+2\b)"


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineCode:
    """Figures of one compiled kernel; the main loop is the one that loads most, the whole code where there is none.

    Of a kernel with several main loops it is all of them, and again the whole code where there are fewer.

    Parameters
    ----------
    registers
        Of a thread.
    spill_bytes
        Stack and local memory of a thread.
    load_bytes
        Widest load of the main loop.
    has_narrow_loads
        Whether the main loop also loads fewer bytes at once.
    instructions
        Of the main loop.
    elements_per_thread
        Elements that a thread handles in one turn of it.
    additions, fused
        Floating-point additions and fused multiply-adds of the main loop.
    """

    registers: int
    spill_bytes: int
    load_bytes: int
    has_narrow_loads: bool
    instructions: int
    elements_per_thread: float
    additions: int
    fused: int

    @property
    def instructions_per_element(self) -> float:
        """Instructions of a thread for each element."""
        return self.instructions / self.elements_per_thread

    @property
    def additions_per_element(self) -> float:
        """Floating-point additions for each element."""
        return self.additions / self.elements_per_thread

    @property
    def fused_per_element(self) -> float:
        """Fused multiply-adds for each element."""
        return self.fused / self.elements_per_thread


def read_machine_code(compiled: Any, target: Target, *, elements_per_thread: float, num_loops: int = 1) -> MachineCode:
    """Read the figures of what Triton compiled.

    Parameters
    ----------
    compiled
        Triton's compiled kernel.
    target
        What it was compiled for.
    elements_per_thread
        In one turn of the main loop.
    num_loops
        How many main loops there are.
    """
    read = _nvidia if target.backend == "cuda" else _amd
    return read(compiled, elements_per_thread, num_loops)


def _nvidia(compiled: Any, elements_per_thread: float, num_loops: int) -> MachineCode:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = _printed("cuobjdump", "-res-usage", str(cubin))
        listing = _printed("cuobjdump", "-sass", str(cubin))
    found = re.search(r"REG:(\d+) STACK:(\d+).*?LOCAL:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resource usage: {usage[:200]!r}")
    rows = [(int(address, 16), text.strip()) for address, text in _LINE.findall(listing)]
    loop = _nvidia_main_loops(rows, num_loops)
    widths = [_nvidia_width(text) for text in loop if re.search(r"\bLDG", text)]
    return MachineCode(
        registers=int(found[1]),
        spill_bytes=int(found[2]) + int(found[3]),
        load_bytes=max(widths, default=0),
        has_narrow_loads=len(set(widths)) > 1,
        instructions=len(loop),
        elements_per_thread=elements_per_thread,
        additions=_count(r"\b[FD]ADD(?:2)?\b", loop),
        fused=_count(r"\b[FD]FMA(?:2)?\b", loop),
    )


def _printed(tool: str, *arguments: str) -> str:
    program = _TOOLS / tool
    done = subprocess.run(
        [str(program) if program.exists() else tool, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": f"{_TOOLS}:/usr/bin:/bin"},
    )
    return done.stdout


def _nvidia_width(text: str) -> int:
    for bits in (256, 128, 64):
        if re.search(rf"LDG\S*\.{bits}\b", text):
            return bits // 8
    return 1 if ".U8" in text else 2 if ".U16" in text else 4


def _nvidia_main_loops(rows: list[tuple[int, str]], num_loops: int) -> list[str]:
    """The bodies that end in a branch back, of these the ones that load most."""
    places = {address: place for place, (address, _) in enumerate(rows)}
    code = [text for _, text in rows]
    loops = []
    for last, (address, text) in enumerate(rows):
        branch = _BRANCH.search(text)
        if branch is None or int(branch[1], 16) >= address:
            continue
        first = places[int(branch[1], 16)]
        body = code[first : last + 1]
        if not any(re.search(r"\bEXIT\b", inside) for inside in body):
            loaded = sum(_nvidia_width(inside) for inside in body if re.search(r"\bLDG", inside))
            loops.append((loaded, first, last + 1))
    return _heaviest(loops, code, num_loops) or [text for text in code if not text.startswith("NOP")]


def _heaviest(loops: list[tuple[int, int, int]], code: list[str], num_loops: int) -> list[str]:
    """The bodies of loops ``(bytes loaded, first, end)`` that load most and do not overlap; none where too few load."""
    chosen: list[tuple[int, int]] = []
    for loaded, first, end in sorted(loops, key=lambda loop: -loop[0]):
        if loaded and len(chosen) < num_loops and all(end <= start or first >= stop for start, stop in chosen):
            chosen.append((first, end))
    if len(chosen) < num_loops:
        return []
    return [text for first, end in sorted(chosen) for text in code[first:end]]


def _count(pattern: str, loop: list[str]) -> int:
    matches = [found[0] for text in loop if (found := re.search(pattern, text))]
    return sum(2 if re.search(_PACKED, match) else 1 for match in matches)


def _amd(compiled: Any, elements_per_thread: float, num_loops: int) -> MachineCode:
    listing = compiled.asm["amdgcn"]

    def figure(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", listing)
        if found is None:
            raise RuntimeError(f"the assembly states no {name}")
        return int(found[1])

    loop = _amd_main_loops(listing, num_loops)
    widths = [_amd_width(text) for text in loop if _is_amd_load(text)]
    return MachineCode(
        registers=figure("vgpr_count"),
        spill_bytes=4 * figure("vgpr_spill_count") + figure("private_segment_fixed_size"),
        load_bytes=max(widths, default=0),
        has_narrow_loads=len(set(widths)) > 1,
        instructions=len(loop),
        elements_per_thread=elements_per_thread,
        additions=_count(r"\bv_(?:pk_)?(?:add|sub|subrev)_f(?:32|64)", loop),
        fused=_count(r"\bv_(?:pk_)?(?:fma|fmac|mad|mac)_f(?:32|64)", loop),
    )


def _is_amd_load(text: str) -> bool:
    return re.match(r"(?:global|buffer|flat)_load_", text) is not None


def _amd_width(text: str) -> int:
    found = re.match(r"(?:global|buffer|flat)_load_(?:dwordx(\d)|dword\b|(\w+))", text)
    if found is None:
        return 0
    if found[1]:
        return 4 * int(found[1])
    return 4 if not found[2] else 2 if "short" in found[2] or "16" in found[2] else 1


def _amd_main_loops(listing: str, num_loops: int) -> list[str]:
    code: list[str] = []
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    for line in listing.splitlines():
        label = _LABEL.match(line)
        if label:
            labels[label[1]] = len(code)
            continue
        text = line.partition(";")[0].strip()
        if not text or text.startswith((".", "//")):
            continue
        code.append(text)
        branch = re.match(r"s_c?branch\w*\s+(\.?\w+)", text)
        if branch and branch[1] in labels:
            loops.append((labels[branch[1]], len(code)))
        if text.startswith("s_endpgm"):
            break
    weighed = [
        (sum(_amd_width(text) for text in code[first:end] if _is_amd_load(text)), first, end) for first, end in loops
    ]
    return _heaviest(weighed, code, num_loops) or code
