"""Every matrix product of ATen as one batched product ``rectify(alpha A @ B + beta C)``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from numguard.shadow.call import OpCall
from numguard.shadow.comparison import NotCovered


@dataclass(frozen=True, kw_only=True, slots=True)
class Gemm:
    """One batched product.

    Parameters
    ----------
    a, b
        ``[B, M, K]`` and ``[B, K, N]``, the caller's memory.
    added
        C as ``[B, M, N]``, or None where nothing is added (``beta = 0`` ignores what C holds).
    alpha, beta
        The scalars.
    num_sums
        Matrix products that are added up one after the other in the output dtype (more than one for ``addbmm``).
    rectified
        True where negative results become zero.
    """

    a: Tensor
    b: Tensor
    added: Tensor | None = None
    alpha: float = 1
    beta: float = 1
    num_sums: int = 1
    rectified: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(B, M, N)``."""
        return self.a.shape[0], self.a.shape[1], self.b.shape[2]

    @property
    def num_terms(self) -> int:
        """K."""
        return self.a.shape[2]


def _matrices(a: Tensor, b: Tensor, call: OpCall, **options: Any) -> Gemm:
    batched = a.dim() == 3
    return _with_added(a if batched else a.unsqueeze(0), b if batched else b.unsqueeze(0), call, **options)


def _with_added(a: Tensor, b: Tensor, call: OpCall, *, vector: bool = False, **options: Any) -> Gemm:
    beta = call.arguments.get("beta", 0)
    added = None
    if beta != 0:
        own: Tensor = call["self"]
        added = (own.unsqueeze(-1) if vector else own).expand(a.shape[0], a.shape[1], b.shape[2])
    return Gemm(a=a, b=b, added=added, alpha=call.arguments.get("alpha", 1), beta=beta, **options)


def _addbmm(call: OpCall) -> Gemm:
    first, second = call["batch1"], call["batch2"]
    a = first.transpose(0, 1).reshape(1, first.shape[1], first.shape[0] * first.shape[2])
    b = second.reshape(1, a.shape[2], second.shape[2])
    return _with_added(a, b, call, num_sums=max(1, first.shape[0]))


def _activation(call: OpCall) -> Gemm:
    if call["use_gelu"]:
        raise NotCovered("product with a GELU behind it")
    return _matrices(call["mat1"], call["mat2"], call, rectified=True)


def _dot(name: str) -> Callable[[OpCall], Gemm]:
    return lambda call: Gemm(a=call["self"].reshape(1, 1, -1), b=call[name].reshape(1, -1, 1))


_FORMS: Final[dict[str, Callable[[OpCall], Gemm]]] = {
    "mm": lambda call: _matrices(call["self"], call["mat2"], call),
    "bmm": lambda call: _matrices(call["self"], call["mat2"], call),
    "addmm": lambda call: _matrices(call["mat1"], call["mat2"], call),
    "baddbmm": lambda call: _matrices(call["batch1"], call["batch2"], call),
    "addbmm": _addbmm,
    "_addmm_activation": _activation,
    "mv": lambda call: _with_added(call["self"].unsqueeze(0), call["vec"].reshape(1, -1, 1), call),
    "addmv": lambda call: _with_added(call["mat"].unsqueeze(0), call["vec"].reshape(1, -1, 1), call, vector=True),
    "dot": _dot("tensor"),
    "vdot": _dot("other"),
}


def gemm_of(call: OpCall) -> Gemm:
    """Return the batched product that a call asks for.

    Raises
    ------
    NotCovered
        For complex, float8 and sparse tensors, and for fused activations other than ReLU.
    """
    form = _FORMS[call.op.removeprefix("aten::").partition(".")[0].rstrip("_")]
    for value in call.arguments.values():
        if isinstance(value, Tensor):
            if value.layout != torch.strided:
                raise NotCovered(f"{value.layout} tensors")
            if value.dtype.is_complex:
                raise NotCovered("complex numbers")
            if value.dtype.is_floating_point and value.element_size() == 1:
                raise NotCovered("8-bit floating point")
    return form(call)
