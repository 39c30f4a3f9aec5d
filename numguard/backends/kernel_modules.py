"""The kernels' modules, loaded when they are first asked for: ``import numguard`` loads none, and never Triton."""

from importlib import import_module
from typing import Any


def kernel_module(name: str) -> Any:
    """Return ``numguard_kernels.<name>``, a module that loads something optional: Triton, or a library that draws.

    Raises
    ------
    ImportError
        Where that is not installed.
    """
    return import_module(f"numguard_kernels.{name}")
