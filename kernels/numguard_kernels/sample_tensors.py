"""Inputs that kernels and their references are compared on: every dtype, awkward sizes and strides, special values."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

#: dtypes that every kernel of a tensor must read.
FLOATING_DTYPES: Final = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
)
#: What values may be like.
CONTENTS: Final = ("ordinary", "cancelling", "subnormal", "zeros", "infinite", "nan", "both_infinities", "largest")


def sample(shape: tuple[int, ...], dtype: torch.dtype, content: str = "ordinary", *, seed: int = 0) -> Tensor:
    """Return a contiguous CPU tensor of a kind; equal arguments give equal bits.

    Parameters
    ----------
    shape, dtype
        Of the result.
    content
        One of :data:`CONTENTS`.
    seed
        Selects the data.
    """
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    flat = values.view(-1)
    info = torch.finfo(dtype)
    if content == "cancelling":
        flat[1::2] = -flat[: flat.numel() - flat.numel() % 2 : 2]
        flat[:1] += 1.0
    elif content == "subnormal":
        values.mul_(info.smallest_normal)
    elif content == "zeros":
        values.copy_(torch.where(values > 0, 0.0, -0.0))
    elif content == "largest":
        flat[:3] = torch.tensor([info.max, -info.max, info.max], dtype=torch.float64)[: flat.numel()]
    rounded = values.to(torch.float32).to(dtype) if dtype != torch.float64 else values
    for special in {"infinite": ["inf"], "nan": ["nan"], "both_infinities": ["inf", "-inf", "nan"]}.get(content, ()):
        index = int(torch.randint(flat.numel(), (), generator=generator))
        rounded.view(-1)[index : index + 1] = torch.tensor([float(special)]).to(dtype)
    return rounded


def _unaligned(x: Tensor) -> Tensor:
    """The same values, one element behind an aligned address."""
    storage = torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)
    return storage[1:].view(x.shape).copy_(x)


def _every_second(x: Tensor) -> Tensor:
    storage = torch.empty(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype, device=x.device)
    return storage[..., ::2].copy_(x)


def _gapped_rows(x: Tensor) -> Tensor:
    storage = torch.empty(*x.shape[:-1], x.shape[-1] + 3, dtype=x.dtype, device=x.device)
    return storage[..., : x.shape[-1]].copy_(x)


def _permuted(x: Tensor) -> Tensor:
    order = list(reversed(range(x.ndim)))
    return x.permute(order).contiguous().permute(order)


#: By name, how the values of a contiguous tensor are laid out anew.
LAYOUTS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "contiguous": lambda x: x,
    "unaligned": _unaligned,
    "every second": _every_second,
    "gapped rows": _gapped_rows,
    "permuted": _permuted,
    "expanded": lambda x: x[..., :1].expand(x.shape),
}


def random_vector(num_elements: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return normally distributed numbers for a timing."""
    return torch.randn(num_elements, device=device).to(dtype)


def random_rows(num_elements: int, longest: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return normally distributed rows for a timing, of ``longest`` columns where there are as many elements."""
    columns = min(longest, num_elements)
    return torch.randn(num_elements // columns, columns, device=device).to(dtype)
