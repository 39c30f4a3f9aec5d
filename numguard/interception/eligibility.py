"""Which tensors no check can read, with the reason that coverage gives."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from numguard.shadow.call import tensors_in


def reason_to_skip(args: Iterable[Any], kwargs: Mapping[str, Any]) -> str | None:
    """Return why a call with these arguments cannot be checked, or None where it can."""
    for value in (*args, *kwargs.values()):
        for tensor in tensors_in(value):
            reason = _reason(tensor)
            if reason is not None:
                return reason
    return None


def _reason(tensor: Tensor) -> str | None:
    if type(tensor) is FakeTensor:
        return "fake tensor: nothing is computed"
    if tensor.layout is not torch.strided:
        return f"{str(tensor.layout)[6:]} tensor"
    if tensor.is_nested:
        return "nested tensor"
    if tensor.is_quantized:
        return "quantized tensor"
    if tensor.is_complex():
        return "complex tensor"
    if tensor.device.type == "meta":
        return "meta tensor: nothing is computed"
    return None
