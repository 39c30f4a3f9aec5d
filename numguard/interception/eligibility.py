"""Which tensors no check can read, with the reason that coverage gives."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from numguard.shadow.call import tensors_in

_FAKE: Final = "fake tensor: nothing is computed"
_FLOATS: Final = frozenset({torch.float32, torch.bfloat16, torch.float16, torch.float64})
#: Their numbers are only ever looked at after a conversion.
FLOAT8: Final = frozenset(
    {
        torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
    }
)  # fmt: skip
_USUAL: Final = frozenset({Tensor, torch.nn.Parameter})
_NUMBERS: Final = _FLOATS | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # of vmap, grad and the like: its values come later


def is_readable(tensor: Tensor) -> bool:
    """Return whether a tensor has floating-point elements that can be looked at here and now, and after the step."""
    return tensor.dtype in _FLOATS and is_there(tensor)


def is_there(tensor: Tensor) -> bool:
    """Return whether a tensor's memory can be looked at here and now, and after the step, whatever its dtype."""
    return (
        tensor.layout is torch.strided
        and not tensor.is_nested
        and not tensor.is_meta
        and not tensor.is_inference()
        and not isinstance(tensor, FakeTensor)
        and not _is_wrapped(tensor)
        and not tensor._is_zerotensor()
        and not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
    )


_TRACERS: Final = (
    torch._C._TorchDispatchModeKey.FAKE,
    torch._C._TorchDispatchModeKey.PROXY,
    torch._C._TorchDispatchModeKey.FUNCTIONAL,
)


def is_tracing() -> bool:
    """Return whether a program is being traced or run on fake tensors: then every operator only pretends."""
    asked = torch._C._get_dispatch_mode
    return asked(_TRACERS[0]) is not None or asked(_TRACERS[1]) is not None or asked(_TRACERS[2]) is not None


def is_transforming() -> bool:
    """Return whether a transform of ``torch.func`` runs: what a module returns has its values later."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def reason_to_skip(args: Iterable[Any], kwargs: Mapping[str, Any], *, reads_sparse: bool = False) -> str | None:
    """Return why a call with these arguments cannot be checked, or None where it can."""
    if is_tracing():
        return _FAKE
    for value in (*args, *kwargs.values()):
        for tensor in (value,) if value.__class__ is Tensor else tensors_in(value):
            reason = None if reads_sparse and tensor.layout is torch.sparse_coo else _reason(tensor)
            if reason is not None:
                return reason
    return None


def _reason(tensor: Tensor) -> str | None:
    if (  # the usual tensor, told by what costs least with cold caches
        tensor.__class__ in _USUAL
        and tensor.dtype in _NUMBERS
        and tensor.layout is torch.strided
        and not (tensor.is_nested or tensor.is_meta or tensor._is_zerotensor())
    ):
        return None
    if isinstance(tensor, FakeTensor):
        return _FAKE
    if tensor.is_nested:
        return "nested tensor"
    if tensor.layout is not torch.strided:
        return f"{str(tensor.layout)[6:]} tensor"
    if tensor.is_quantized:
        return "quantized tensor"
    if tensor.is_complex():
        return "complex tensor"
    if tensor.device.type == "meta":
        return "meta tensor: nothing is computed"
    if tensor._is_zerotensor():
        return "zero tensor of forward differentiation: it has no memory"
    return None
