"""The data that a trial is run on, and the layouts it lies in: plain functions, so that a reproducer can print them.

Every function here stands alone: its source text is copied word for word into the scripts that reproduce findings.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

Shape = tuple[int, ...]


def normal(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return independent normal numbers."""
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def ones(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return ones: exact in every format, and what a counter adds."""
    return torch.ones(shape, dtype=dtype)


def near_one(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return values between 0.99 and 1.01: products drift, sums of one sign stagnate."""
    return (0.99 + 0.02 * torch.rand(shape, dtype=torch.float64)).to(dtype)


def positive(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return values between 1 and 2, all of one sign."""
    return (1.0 + torch.rand(shape, dtype=torch.float64)).to(dtype)


def shifted(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return normal numbers far from zero, a thousand standard deviations in the wider formats."""
    distance = 1000.0 if torch.finfo(dtype).eps < 1e-3 else 30.0
    return (distance + torch.randn(shape, dtype=torch.float64)).to(dtype)


def far(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return normal numbers a million standard deviations from zero, as far as the format reaches."""
    distance = 1e6 if torch.finfo(dtype).max > 1e6 else 1e4
    return (distance + torch.randn(shape, dtype=torch.float64)).to(dtype)


def wide(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return lognormal magnitudes over many binades, with both signs."""
    x = torch.randn(shape, dtype=torch.float64)
    return (x.sign() * (2.0 * torch.randn(shape, dtype=torch.float64)).exp()).to(dtype)


def outlier(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return normal numbers, one in a thousand of which is a thousand times larger."""
    x = torch.randn(shape, dtype=torch.float64)
    return torch.where(torch.rand(shape, dtype=torch.float64) < 1e-3, 1000.0 * x, x).to(dtype)


def cancelling(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return pairs of x and -x in random order with a small remainder: condition numbers near 1e6."""
    num = torch.Size(shape).numel()
    half = torch.randn(num // 2, dtype=torch.float64)
    x = torch.cat([half, -half, torch.full((num % 2,), 1e-3, dtype=torch.float64)])[torch.randperm(num)]
    return (x.reshape(shape) + 1e-6).to(dtype)


def huge(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return numbers whose squares leave the range of the format; they themselves, and their sum, do not."""
    scale: float = 4.0 * float(torch.finfo(dtype).max) ** 0.5
    return (scale * (1.0 + torch.rand(shape, dtype=torch.float64))).to(dtype)


def huge_signed(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return numbers of both signs whose squares leave the range of the format."""
    scale: float = 4.0 * float(torch.finfo(dtype).max) ** 0.5
    return (scale * torch.randn(shape, dtype=torch.float64)).to(dtype)


def tiny(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return normal numbers of the format whose squares underflow."""
    scale: float = 0.01 * float(torch.finfo(dtype).tiny) ** 0.5
    return (scale * (1.0 + torch.rand(shape, dtype=torch.float64))).to(dtype)


def subnormal(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return subnormal numbers of both signs."""
    step = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    limit = int(1 / torch.finfo(dtype).eps)
    return (step * torch.randint(1 - limit, limit, shape).to(torch.float64)).to(dtype)


def zeros(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return zeros of both signs."""
    return torch.where(torch.rand(shape) < 0.5, -0.0, 0.0).to(dtype)


def with_infinity(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return normal numbers, the middle one of which is infinite."""
    x = torch.randn(shape, dtype=torch.float64)
    x.view(-1)[x.numel() // 2 : x.numel() // 2 + 1] = torch.inf
    return x.to(dtype)


def with_nan(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Return normal numbers, the middle one of which is NaN."""
    x = torch.randn(shape, dtype=torch.float64)
    x.view(-1)[x.numel() // 2 : x.numel() // 2 + 1] = torch.nan
    return x.to(dtype)


def contiguous(x: Tensor) -> Tensor:
    """Return the row-major layout."""
    return x.contiguous()


def transposed(x: Tensor) -> Tensor:
    """Return the column-major layout."""
    order = [*range(x.dim())][::-1]
    return x.permute(order).contiguous().permute(order)


def gapped(x: Tensor) -> Tensor:
    """Return every second element of a wider tensor; what lies between is marked."""
    between = torch.full((*x.shape[:-1], 2 * x.shape[-1]), 77.0 if x.is_floating_point() else 0, dtype=x.dtype)
    between[..., ::2] = x
    return between[..., ::2]


def offset(x: Tensor) -> Tensor:
    """Return a tensor that begins one element into its storage and ends one before the end; both are marked."""
    store = torch.full((x.numel() + 2,), 77.0 if x.is_floating_point() else 0, dtype=x.dtype)
    store[1:-1] = x.reshape(-1)
    return store[1:-1].view(x.shape)


def channels_last(x: Tensor) -> Tensor:
    """Return images with the channels innermost."""
    return x.contiguous(memory_format=torch.channels_last)


def repeated(x: Tensor) -> Tensor:
    """Return the first row over and over, with stride 0."""
    return x[:1].contiguous().expand(x.shape)


Kind = Callable[[Shape, torch.dtype], Tensor]

#: Kinds of data by name.
DATA: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        kind.__name__: kind
        for kind in (
            normal,
            ones,
            near_one,
            positive,
            shifted,
            far,
            wide,
            outlier,
            cancelling,
            huge,
            huge_signed,
            tiny,
            subnormal,
            zeros,
            with_infinity,
            with_nan,
        )
    }
)

#: Data at the ends of a format's range, where a right result needs care with intermediate ones.
EXTREME: Final = frozenset({"huge", "huge_signed", "tiny", "subnormal"})

#: Data of one sign, whose sums grow until additions are lost: sums into slots then go to one slot.
GROWING: Final = frozenset({"ones", "near_one", "positive", "huge"})

NONFINITE: Final = frozenset({"with_infinity", "with_nan"})

#: Layouts by name: the same values, shape and dtype at other strides and offsets; ``repeated`` keeps only a row.
LAYOUTS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = MappingProxyType(
    {layout.__name__: layout for layout in (contiguous, transposed, gapped, offset, channels_last, repeated)}
)


def fits(layout: str, num_dims: int) -> bool:
    """Return whether tensors of so many dimensions can have a layout of their own by that name."""
    least = {"contiguous": 0, "transposed": 2, "gapped": 1, "offset": 1, "channels_last": 4, "repeated": 1}[layout]
    return num_dims == 4 if layout == "channels_last" else num_dims >= least
