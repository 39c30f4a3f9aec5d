"""Triton kernels that watch numbers while they are read once. Importing this package loads neither Triton nor CUDA.

One file per kernel: the jit bodies, a launcher, a reference in plain torch, and a
:class:`~numguard_kernels.spec.KernelSpec`; :mod:`numguard_kernels.registry` lists them.
"""

from .availability import KernelUnavailable as KernelUnavailable
from .availability import unavailable_because as unavailable_because
