"""Tensors of random dtypes, layouts and kinds of numbers."""

import math
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from numguard.checks import REGISTRY
from numguard.checks.check import Probe
from numguard.shadow.routes import NUMPY
from tests.checks.watched_calls import Watch

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool)


def watching(*names: str, probe: Probe | None = None) -> Watch:
    """Return a watch over the checks of these names."""
    return Watch(tuple(REGISTRY[name] for name in names), Probe(arithmetic=NUMPY) if probe is None else probe)


class Draws:
    """Random tensors of many sizes, layouts and kinds of numbers, from one seed."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def tensor(self, dtype: torch.dtype, most: int = 5000) -> Tensor:
        sizes, room = [], self.choose.choice([20, 300, most])
        for _ in range(self.choose.randrange(5)):
            sizes.append(self.choose.choice([1, 2, self.choose.randrange(1, max(2, int(room**0.7)) + 1)]))
            room = max(1, room // sizes[-1])
        self.choose.shuffle(sizes)
        return self._laid_out(self._numbers(sizes, dtype))

    def dims(self, x: Tensor) -> list[int] | None:
        return self.choose.sample(range(x.dim()), self.choose.randrange(x.dim() + 1)) or None

    def _numbers(self, shape: list[int], dtype: torch.dtype) -> Tensor:
        limits = torch.finfo(dtype)
        x = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        kinds: list[Any] = [
            lambda: x,
            lambda: x.abs(),
            lambda: x + 30.0,
            lambda: (3.0 * x).exp(),
            lambda: torch.full_like(x, self.choose.choice([1.0, 0.1, 3e-5])),
            lambda: x * limits.tiny * self.choose.choice([1e-3, 1.0, 1e3]),
            lambda: x * math.sqrt(limits.max) * self.choose.choice([0.01, 1.0, 100.0]),
            lambda: self._with(torch.full_like(x, limits.eps / 4.0), 1.0),
            lambda: self._with(x, self.choose.choice([math.nan, math.inf, -math.inf])),
        ]
        numbers: Tensor = self.choose.choice(kinds)().to(dtype)
        return numbers

    def _with(self, x: Tensor, value: float) -> Tensor:
        x.view(-1)[self.choose.randrange(x.numel())] = value
        return x

    def _laid_out(self, x: Tensor) -> Tensor:
        kind, steps = self.choose.randrange(6), [self.choose.choice([1, 2, 3]) for _ in x.shape]
        if kind == 1:
            return x.permute(self.choose.sample(range(x.dim()), x.dim()))
        if kind == 2:
            return x[tuple(slice(None, None, step) for step in steps)]
        if kind == 3 and x.dim():
            return x.narrow(0, 0, 1).expand(x.shape)
        if kind == 4 and x.dim() == 4:
            return x.contiguous(memory_format=torch.channels_last)
        return x


def random_calls(seed: int, count: int) -> Iterator[tuple[Draws, Tensor, torch.dtype | None]]:
    """Yield sources of random numbers, a tensor to reduce, and a ``dtype=`` to do it in."""
    draws = Draws(seed)
    for _ in range(count):
        dtype = draws.choose.choice(FLOATS)
        yield draws, draws.tensor(dtype), draws.choose.choice([None, None, *FLOATS])
