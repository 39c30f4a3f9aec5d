"""The list of kernels. A new kernel is one new file with a ``SPEC`` in it, and one line here."""

import importlib
from functools import cache
from typing import Final

from numguard_kernels.spec import KernelSpec

#: Modules of this package that hold a ``SPEC``, in the order in which tables show them.
MODULES: Final = (
    "statistics_spec",
    "summation",
    "checksum",
    "updates",
    "verdicts",
    "softmax",
    "logsumexp",
    "cross_entropy",
    "norms",
    "norm_gradients",
    "norm_parameter_gradients",
    "dots",
    "weighted_sums",
)


@cache
def specs() -> tuple[KernelSpec, ...]:
    """Return the spec of every kernel.

    Raises
    ------
    ImportError
        Where Triton is not installed.
    """
    return tuple(importlib.import_module(f"numguard_kernels.{module}").SPEC for module in MODULES)
