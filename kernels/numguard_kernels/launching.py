"""The one place from which kernels are launched, so that none is ever launched with contraction switched on."""

from contextlib import nullcontext
from functools import cache
from typing import Any, Final

import torch

#: Programs for each multiprocessor: enough loads in flight to saturate memory, few enough partial results.
PROGRAMS_PER_MULTIPROCESSOR: Final = 8
_EMULATED_LANES: Final = 2
_EMULATED_MULTIPROCESSORS: Final = 0.375  # three programs: every loop over programs turns more than once


def launch(
    function: Any, grid: tuple[int, ...], *arguments: Any, num_threads: int, device: torch.device, **constants: Any
) -> None:
    """Launch a kernel on the current stream of a device.

    Parameters
    ----------
    function
        A ``triton.jit`` body.
    grid
        Programs along up to three axes.
    arguments
        Run-time arguments, in order.
    num_threads
        Threads of one program.
    device
        Where the tensors are.
    constants
        Compile-time arguments.
    """
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        num_warps = num_threads // _warp_size(device)
        function[grid](*arguments, **constants, num_warps=num_warps, enable_fp_fusion=False)


def num_lanes(num_threads: int, device: torch.device) -> int:
    """Return the lanes of a loop that has one for every thread; few in the emulation, which takes them one by one."""
    return num_threads if device.type == "cuda" else min(num_threads, _EMULATED_LANES)


def num_programs(num_turns: int, device: torch.device) -> int:
    """Return how many programs share a loop: at least one, and no more than the device keeps busy."""
    return max(1, min(num_turns, int(PROGRAMS_PER_MULTIPROCESSOR * _num_multiprocessors(device))))


@cache
def _warp_size(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).warp_size) if device.type == "cuda" else 32


@cache
def _num_multiprocessors(device: torch.device) -> float:
    if device.type != "cuda":
        return _EMULATED_MULTIPROCESSORS
    return float(torch.cuda.get_device_properties(device).multi_processor_count)
