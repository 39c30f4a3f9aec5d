"""Images whose numbers make moments, windows and sums hard, in several layouts."""

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
KINDS = ("normal", "shifted", "far", "constant", "outlier", "subnormal", "large", "nan")
LAYOUTS = ("contiguous", "channels_last", "strided", "expanded")


def image(kind: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int, layout: str = "contiguous") -> Tensor:
    """Return ``[N, C, *spatial]``: of one kind of numbers, laid out in one way."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    made = {
        "normal": x,
        "shifted": x + 30.0,
        "far": 0.1 * x + 300.0,
        "constant": torch.full_like(x, 0.1),
        "outlier": x + 1e4 * (torch.rand(shape, generator=generator) < 0.01),
        "subnormal": x * torch.finfo(dtype).smallest_normal * 0.1,
        "large": x * 100.0,
        "nan": x.masked_fill(torch.rand(shape, generator=generator) < 0.02, torch.nan),
    }[kind].to(dtype)
    return laid_out(made, layout)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Return the same numbers in another layout; the first sample everywhere for ``expanded``."""
    if layout == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.stack((x, x), dim=-1)[..., 0]
    return x[:1].expand(x.shape) if layout == "expanded" else x
