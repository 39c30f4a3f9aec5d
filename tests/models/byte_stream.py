"""Batches of bytes for the language models, from the source text of a module of the standard library."""

import argparse
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tests.models.recipe import Batch, generator

VOCABULARY = 256


@cache
def text() -> Tensor:
    """Return the bytes of one source file as int64, shape [n]."""
    return torch.tensor(list(Path(argparse.__file__).read_bytes()))


def byte_batch(seed: int, step: int, *, size: int, context: int) -> Batch:
    """Return inputs and next bytes, int64, each of shape [size, context]."""
    stream = text()
    starts = torch.randint(len(stream) - context - 1, (size,), generator=generator(seed, step))
    windows = stream[starts[:, None] + torch.arange(context + 1)]
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
