"""The precisions in which the models are trained."""

from contextlib import AbstractContextManager, nullcontext
from typing import Final, Literal

import torch
from torch import nn

from tests.models.recipe import Batch

Precision = Literal["fp32", "bf16_autocast", "fp16_autocast", "bf16"]
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "bf16_autocast", "fp16_autocast", "bf16")
_AUTOCAST: Final = {"bf16_autocast": torch.bfloat16, "fp16_autocast": torch.float16}


def in_precision(precision: Precision) -> AbstractContextManager[object]:
    """Return the context in which the forward of a model is to run."""
    dtype = _AUTOCAST.get(precision)
    return nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)


def cast_model(model: nn.Module, precision: Precision) -> nn.Module:
    """Convert the parameters where the precision asks for it: only pure ``"bf16"`` does."""
    return model.to(torch.bfloat16) if precision == "bf16" else model


def cast_batch(batch: Batch, precision: Precision) -> Batch:
    """Convert the floating-point tensors of a batch as :func:`cast_model` converts the parameters."""
    if precision != "bf16":
        return batch
    return tuple(tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor for tensor in batch)
