"""From a call to a capsule and back: its arguments as plain values, and its tensors with their layouts."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from numguard.errors import InputError
from numguard.records.capsule import Capsule, StoredTensor
from numguard.shadow.call import OpCall

_NAMES: Final[Mapping[torch.dtype, str]] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES: Final = {name: dtype for dtype, name in _NAMES.items()}
_MOST_BYTES: Final = 1 << 30  # of the inputs of one call
_MOST_ELEMENTS: Final = 1 << 33
_SPARSEST: Final = 64  # elements of a storage for each element of the tensor in it


class NotKept(Exception):  # noqa: N818  (a reason, not an error)
    """The inputs of a call cannot be put into a capsule; the message says why."""


def capsule_of(call: OpCall, about: Mapping[str, Any]) -> Capsule:
    """Return the capsule of a call whose inputs are still what they were.

    Parameters
    ----------
    about
        Plain JSON values that are kept beside the call.

    Raises
    ------
    NotKept
        For inputs that are too large, or of a kind that cannot be stored.
    """
    tensors: dict[str, StoredTensor] = {}
    layouts: dict[str, Any] = {}

    def plain(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            if value.dtype not in _NAMES or value.layout is not torch.strided:
                raise NotKept(f"{name} is a {str(value.layout)[6:]} tensor in {str(value.dtype)[6:]}")
            host = value.detach().cpu().contiguous()
            if sum(len(entry.data) for entry in tensors.values()) + host.nbytes > _MOST_BYTES:
                raise NotKept(f"its inputs are larger than {_MOST_BYTES >> 20} MiB")
            data = host.reshape(-1).view(torch.uint8).numpy().tobytes() if host.numel() else b""
            tensors[name] = StoredTensor(dtype=_NAMES[value.dtype], shape=tuple(value.shape), data=data)
            layouts[name] = {"stride": list(value.stride()), "offset": value.storage_offset()}
            return {"tensor": name}
        if isinstance(value, list | tuple):
            return {"list": [plain(item, f"{name}.{place}") for place, item in enumerate(value)]}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value)[6:]}
        if value is None or isinstance(value, bool | int | str):
            return {"value": value}
        if isinstance(value, float):
            return {"float": value.hex()}
        if isinstance(value, torch.device | torch.layout | torch.memory_format | torch.Generator):
            return {"value": None}
        raise NotKept(f"{name} is a {type(value).__name__}")

    arguments = {name: plain(value, name) for name, value in call.arguments.items()}
    content = {**about, "op": call.op, "arguments": arguments, "layouts": layouts, "torch": torch.__version__}
    return Capsule(content=content, tensors=tensors)


def arguments_of(capsule: Capsule, path: object) -> dict[str, Any]:
    """Return the arguments of a capsule's call by schema name, its tensors in the layouts they had.

    Raises
    ------
    InputError
        Where the capsule does not describe a call; ``path`` is named.
    """
    content = capsule.content
    arguments, layouts = content.get("arguments"), content.get("layouts")
    if not isinstance(arguments, dict) or not isinstance(layouts, dict):
        raise InputError(path, "header", "a capsule has arguments and layouts, each a table")

    def value_of(plain: Any, name: str) -> Any:
        if not isinstance(plain, dict) or len(plain) != 1:
            raise InputError(path, f"arguments.{name[:60]}", "is not one of tensor, list, dtype, float, value")
        ((kind, inner),) = plain.items()
        if kind == "tensor" and isinstance(inner, str) and inner in capsule.tensors:
            return _laid_out(capsule.tensors[inner], layouts.get(inner), path, inner)
        if kind == "list" and isinstance(inner, list) and len(inner) <= 100_000:
            return [value_of(item, f"{name}.{place}") for place, item in enumerate(inner)]
        if kind == "dtype" and isinstance(getattr(torch, str(inner), None), torch.dtype):
            return getattr(torch, inner)
        if kind == "value" and (inner is None or isinstance(inner, bool | int | str)):
            return inner
        if kind == "float":
            try:
                return float.fromhex(inner)
            except (TypeError, ValueError, OverflowError):
                pass
        raise InputError(path, f"arguments.{name[:60]}", f"is not a usable {str(kind)[:20]}")

    return {str(name): value_of(plain, str(name)) for name, plain in arguments.items()}


def _laid_out(stored: StoredTensor, layout: Any, path: object, name: str) -> Tensor:
    place = f"layouts.{name[:60]}"
    if stored.dtype not in _DTYPES:
        raise InputError(path, place, f"has the unknown dtype {stored.dtype[:20]}")
    dtype, shape = _DTYPES[stored.dtype], stored.shape
    flat = torch.frombuffer(bytearray(stored.data), dtype=dtype) if stored.data else torch.empty(0, dtype=dtype)
    dense = flat.reshape(shape)
    if not isinstance(layout, dict):
        raise InputError(path, place, "is missing")
    stride, offset = layout.get("stride"), layout.get("offset")
    steps: list[Any] = stride if isinstance(stride, list) else [None]
    whole = all(type(step) is int and 0 <= step < _MOST_ELEMENTS for step in steps)
    if not whole or len(steps) != len(shape) or type(offset) is not int or not 0 <= offset < _MOST_ELEMENTS:
        raise InputError(path, place, "is not a stride for each dimension and an offset")
    if not dense.numel():
        return dense
    last = offset + sum((size - 1) * step for size, step in zip(shape, steps, strict=True))
    offset %= _SPARSEST  # where it began in a large buffer does not matter, only how it is aligned
    last = last - layout["offset"] + offset
    if last + 1 > _SPARSEST * dense.numel() + _SPARSEST:
        raise InputError(path, place, f"asks for a storage of {last + 1} elements for {dense.numel()}")
    tensor = torch.zeros(last + 1, dtype=dtype).as_strided(shape, steps, offset)
    distinct = [(size, step) for size, step in zip(shape, steps, strict=True) if size > 1]
    if any(step == 0 for _, step in distinct):
        cut = tuple(slice(1) if step == 0 else slice(None) for step in steps)
        tensor[cut].copy_(dense[cut])
    else:
        tensor.copy_(dense)
    return tensor
