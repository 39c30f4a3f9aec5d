"""Which implementation does a piece of work: Triton on an accelerator, the native twin or torch on the CPU.

``NUMGUARD_BACKEND`` forces it, for all work (``native``) or by capability (``statistics=torch,dot=native``).

The twin is compiled once per machine, in a thread, when a guard starts; until it is ready, and for good where there is
no compiler, NumPy and torch do the work. That it has become ready is taken note of where :func:`engage` is called, at
the beginning of armed steps, so that one step is checked along one route from end to end.
"""

import ctypes
import logging
import os
from collections.abc import Mapping
from functools import cache, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, cast, get_args

import torch
from torch import Tensor

from numguard.errors import UsageError

if TYPE_CHECKING:
    from numguard_kernels.native import Readiness

log = logging.getLogger("numguard")

Backend = Literal["triton", "native", "torch"]
Capability = Literal["statistics", "dot", "checksum", "update_health", "verdict"]
BACKENDS: Final = get_args(Backend)
CAPABILITIES: Final = get_args(Capability)
VARIABLE: Final = "NUMGUARD_BACKEND"


@lru_cache(maxsize=8)
def parsed(text: str) -> Mapping[Capability, Backend]:
    """Return what a value of the variable forces, by capability.

    Raises
    ------
    UsageError
        For a backend or capability that does not exist.
    """
    forced: dict[Capability, Backend] = {}
    text = text.strip()
    if text in ("", "auto"):
        return MappingProxyType(forced)
    for part in text.split(","):
        name, equals, backend = (piece.strip() for piece in part.partition("="))
        if not equals:
            name, backend = "", name
        if backend not in BACKENDS or (equals and name not in CAPABILITIES):
            raise UsageError(
                f"{VARIABLE}={text!r}: {part.strip()!r} names no backend; write one of {', '.join(BACKENDS)}, "
                f"alone or after one of {', '.join(CAPABILITIES)} and '=', several with commas, or auto"
            )
        for capability in (name,) if equals else CAPABILITIES:
            forced[cast(Capability, capability)] = cast(Backend, backend)
    return MappingProxyType(forced)


def forced(capability: Capability) -> Backend | None:
    """Return what the environment asks for, or None where the choice is free."""
    wanted = _Engaged.wanted
    return (parsed(os.environ.get(VARIABLE, "")) if wanted is None else wanted).get(capability)


def _twin() -> "Readiness":
    from numguard_kernels.native import TWIN  # loaded at first use

    return TWIN


class _Engaged:
    """What the process has taken note of."""

    library: ctypes.CDLL | None = None
    said: bool = False
    wanted: Mapping[Capability, Backend] | None = None  # while a step is armed, what the variable said at its beginning


def prepare() -> None:
    """Load the twin or start compiling it in the background: called when a guard starts.

    Raises
    ------
    UsageError
        If the variable is wrong, or demands the twin where there is none; only then is the compiler waited for.
    """
    asked = set(parsed(os.environ.get(VARIABLE, "")).values())
    if "native" in asked:
        if _twin().wait() == "missing":
            raise UsageError(f"{VARIABLE} asks for the native backend, which is missing: {_twin().reason}")
    elif asked != {"torch"} or len(parsed(os.environ.get(VARIABLE, ""))) < len(CAPABILITIES):
        _twin().begin()
    _look_at_twin()


def engage() -> None:
    """Take note of the variable, and of a twin that has become ready, for as long as a step is armed."""
    _look_at_twin()
    _Engaged.wanted = parsed(os.environ.get(VARIABLE, ""))


def disengage() -> None:
    """Forget what was noted of the variable: the armed step has ended."""
    _Engaged.wanted = None


def _look_at_twin() -> None:
    """Take note of a twin that has become ready, or say once that there is none."""
    twin = _twin()
    _Engaged.library = twin.library()
    if twin.state == "missing" and not _Engaged.said:
        _Engaged.said = True
        log.warning(
            "numguard's native kernels are missing, checks run on NumPy and torch and fewer fit into the budget: %s",
            twin.reason,
        )


def native_library(capability: Capability) -> ctypes.CDLL | None:
    """Return the twin where it does this work, or None.

    Outside a guard a twin that was compiled before is loaded at first use; nothing is compiled.

    Raises
    ------
    UsageError
        As :func:`prepare`.
    """
    wanted = forced(capability)
    if wanted is not None and wanted != "native":
        return None
    if _Engaged.library is None:
        if wanted == "native":
            prepare()
        elif _twin().state == "untried":
            _Engaged.library = _twin().load_kept()
    return _Engaged.library


@cache
def _readable() -> Mapping[torch.dtype, int]:
    from numguard_kernels.native import DTYPES

    return DTYPES


def is_plain(tensor: Tensor) -> bool:
    """Return whether the twin can read a tensor where it lies: strided, on the CPU, of a known dtype, not lazy."""
    return (  # of these dtypes none is complex, so none is conjugated
        tensor.is_cpu and tensor.dtype in _readable() and tensor.layout is torch.strided and not tensor.is_neg()
    )


def native_library_for(capability: Capability, *operands: Tensor | None) -> ctypes.CDLL | None:
    """Return the twin where it does this work and can read every operand that was given, or None.

    Raises
    ------
    UsageError
        As :func:`prepare`.
    """
    library = native_library(capability)
    if library is None:
        return None
    return library if all(operand is None or is_plain(operand) for operand in operands) else None


def backend_for(capability: Capability, device: torch.device) -> Backend:
    """Return what does a piece of work on tensors of a device.

    Raises
    ------
    UsageError
        If the variable forces what cannot be on this device.
    """
    wanted = forced(capability)
    if wanted == "native" and device.type != "cpu":
        raise UsageError(f"{VARIABLE} asks for the native {capability}, which reads host memory, on {device}")
    if wanted == "native":
        native_library(capability)
    if wanted is not None:
        return wanted
    if device.type == "cpu":
        return "torch" if native_library(capability) is None else "native"
    from numguard_kernels import unavailable_because  # loads no Triton

    return "torch" if unavailable_because(device) else "triton"
