"""Whether the kernels can run on a device, and if not, why, in words for the user."""

import importlib.util
import os
from functools import cache
from typing import Final

import torch
from torch import Tensor

#: Oldest compute capability for which the kernels are compiled in the gates.
OLDEST_CAPABILITY: Final = (8, 0)


class KernelUnavailable(RuntimeError):  # noqa: N818 - a state of the machine, not a mistake in the call
    """A kernel cannot run on this tensor; the message says why and what to do."""


def is_interpreted() -> bool:
    """Return whether Triton kernels are emulated on the CPU, because ``TRITON_INTERPRET`` was set before its import."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def unavailable_because(device: torch.device) -> str | None:
    """Return why no kernel can run on a device, or None where they can.

    Neither imports Triton nor, for a CPU device, touches an accelerator.

    Parameters
    ----------
    device
        Where the tensors are.
    """
    if not _has_triton():
        return "Triton is not installed: pip install triton (Linux), or use the native or torch backend"
    if device.type == "cpu":
        if is_interpreted():
            return None
        return (
            "the kernels run on CUDA and ROCm devices and the tensor is on the cpu: move it, or set "
            "TRITON_INTERPRET=1 before Triton is imported for a slow emulation"
        )
    if device.type != "cuda":
        return f"the kernels run on CUDA and ROCm devices and the tensor is on {device}: use the torch backend"
    return _architecture_problem(
        torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    )


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@cache
def _architecture_problem(device: torch.device) -> str | None:
    if torch.version.hip:
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability >= OLDEST_CAPABILITY:
        return None
    return (
        f"the kernels need compute capability {OLDEST_CAPABILITY[0]}.{OLDEST_CAPABILITY[1]} (A100) or later and "
        f"{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}: use the torch backend"
    )


def require(kernel: str, *devices: torch.device) -> torch.device:
    """Return the one device of the tensors of a call.

    Raises
    ------
    KernelUnavailable
        Where kernels cannot run on it.
    ValueError
        Where the tensors are on different devices.
    """
    if len(set(devices)) != 1:
        names = ", ".join(sorted({str(device) for device in devices}))
        raise ValueError(f"{kernel} got tensors on {names}: move them to one device")
    reason = unavailable_because(devices[0])
    if reason is not None:
        raise KernelUnavailable(f"{kernel} cannot run: {reason}")
    return devices[0]


def require_alike(kernel: str, *tensors: Tensor | None) -> torch.device:
    """Return the one device of those tensors that were given.

    Raises
    ------
    TypeError
        Where they are not of one dtype.
    KernelUnavailable, ValueError
        As :func:`require`.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if len({tensor.dtype for tensor in given}) > 1:
        raise TypeError(f"{kernel} got {', '.join(str(tensor.dtype) for tensor in given)}: convert them to one dtype")
    return require(kernel, *(tensor.device for tensor in given))
