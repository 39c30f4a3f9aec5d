"""A compiled reduction writes a full vector behind its last row and corrupts the heap.

Symptom
    A compiled block of GELU, permute, pad and matmul aborts with "free(): invalid pointer" somewhere later, or returns
    other numbers than the eager one. Only for some sizes: 66 = 4 * 16 + 2 does it, 64 does not.
Cause
    Inductor tiles two loops of the reduction for vectors of 16. Which of its kernels' stores close the reduction is
    decided by whether the loop after the outer tiled one is a reduction; where the second tiled loop is a later one,
    the store that is masked for the tail is left out, and the full-width store runs on the tail as well.
Fix
    Look at the second tiled loop itself: tiling_indices[1] instead of tiling_indices[0] + 1.
Affected
    torch 2.13 on the CPU, Inductor with AVX-512 (or NEON); issue 196681 is open. Live: nothing here is emulated; the
    fixed twin compiles with the one decision put right. The block runs in a child process. The audit's compiled trials
    name it; they take minutes, so that test is marked slow.
"""

import math
import signal
import subprocess
import sys

import pytest
import torch

from reproductions.audits import audited
from reproductions.stage import Stage, perform

pytestmark = pytest.mark.reproduction(
    project="PyTorch",
    issue="196681",
    url="https://github.com/pytorch/pytorch/issues/196681",
    family="illegal-memory",
    kind="live",
    catalogue="L23-inductor-2d-tile-heap-overflow",
    found_by="audit",
)
BLOCK = """
import sys
import warnings

warnings.simplefilter("ignore")
import torch
import torch._inductor.config
import torch.nn.functional as F
from torch._inductor.codegen import cpp

torch._inductor.config.fx_graph_cache = False  # it would not see that the code generator has changed
torch.set_num_threads(1)
fixed, dtype = sys.argv[1] == "fixed", getattr(torch, sys.argv[2])
SIDE, CHANNELS = 18, 8
decide = cpp.CppKernelProxy.aggregate_reduction_buffers


def decide_by_the_second_tiled_loop(self, inner_loop_reduction_outer_not, outer_loop):
    main = self.kernels[0]
    if isinstance(main, cpp.CppTile2DKernel):
        outer_loop, inner_loop = (self.loop_nest.loops[level] for level in main.tiling_indices)
        inner_loop_reduction_outer_not = inner_loop.is_reduction and not outer_loop.is_reduction
    decide(self, inner_loop_reduction_outer_not, outer_loop)


if fixed:
    cpp.CppKernelProxy.aggregate_reduction_buffers = decide_by_the_second_tiled_loop


def block(x):
    v = F.gelu(x)
    rows = F.pad(v, (0, 0, 0, 0, 0, SIDE - CHANNELS), value=0.5)
    columns = F.pad(v.permute(3, 2, 1, 0), (0, 0, 0, SIDE - CHANNELS), value=0.5)
    return rows @ columns


torch.manual_seed(0)
x = torch.randn(1, CHANNELS, SIDE, SIDE, dtype=dtype).to(memory_format=torch.channels_last)
compiled = torch.compile(block)(x)
print(float((compiled - block(x)).abs().max()), flush=True)
"""
needs_avx512 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="the tile is 16 wide with AVX-512 only"
)


def play(stage: Stage) -> None:
    how, dtype = "fixed" if stage.fixed else "broken", "float64" if stage.exact else "float32"
    child = subprocess.run([sys.executable, "-c", BLOCK, how, dtype], capture_output=True, text=True, check=False)
    with stage.watched():
        stage.step()
    stage.keep("exit status", float(child.returncode))
    stage.keep("difference from eager", float(child.stdout.split()[0]) if child.stdout.strip() else math.nan)


@needs_avx512
def test_the_bug_shows(tell):
    broken = perform(play)
    tell("exit status", broken.number("exit status"), "difference from eager", broken.number("difference from eager"))
    aborted = broken.number("exit status") in (-signal.SIGABRT, -signal.SIGSEGV)
    assert aborted or broken.number("difference from eager") > 1e-3


@needs_avx512
@pytest.mark.slow
def test_numguard_finds_it(tell, note):
    report = audited("pipelines", only=r"F\.pad\(v, .*@ F\.pad.*erf", level="full", parts=("compiled",), seconds=300.0)
    crashes = [finding for finding in report.findings if finding.kind in ("crash", "corruption")]
    for finding in crashes:
        tell(finding)
    assert crashes
    assert all("F.pad" in finding.module and finding.evidence["trial"]["compiled"] for finding in crashes)
    note(crashes[0], 1)


def test_the_fix_is_silent(silent):
    # The guard of this process has nothing to look at: the block runs in the child.
    fixed = silent(play, allowed=("degraded",))
    assert fixed.number("exit status") == 0.0
    assert fixed.number("difference from eager") < 1e-5
