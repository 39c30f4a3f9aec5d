"""The plain record of one operator call, with its arguments bound to the names of the schema."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class OpCall:
    """One call of one operator overload.

    Parameters
    ----------
    overload
        The overload that was called, for example ``torch.ops.aten.sum.dim_IntList``.
    arguments
        Every argument under its schema name, defaults filled in. Tensors are the caller's own, so an
        in-place operator has overwritten some of them by the time a check judges the call.
    output
        What the operator returned. None before it ran.
    """

    overload: torch._ops.OpOverload
    arguments: Mapping[str, Any]
    output: Any = None

    @property
    def op(self) -> str:
        """Name with overload, for example ``aten::sum.dim_IntList``."""
        return overload_name(self.overload)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]


@cache
def overload_name(overload: torch._ops.OpOverload) -> str:
    """Return ``aten::sum.dim_IntList`` for an overload; ``.default`` is left out as in PyTorch's own lists."""
    name = overload._schema.name
    return f"{name}.{overload._schema.overload_name}" if overload._schema.overload_name else name


@cache
def _signature(overload: torch._ops.OpOverload) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (argument.name, argument.default_value if argument.has_default_value() else None)
        for argument in overload._schema.arguments
    )


def bind(overload: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by schema name, defaults included."""
    signature = _signature(overload)
    bound = dict(signature)
    for (name, _), value in zip(signature, args, strict=False):
        bound[name] = value
    bound.update(kwargs)
    return bound


@cache
def mutated_arguments(overload: torch._ops.OpOverload) -> tuple[str, ...]:
    """Return the names of the arguments that the operator writes to, as its schema says."""
    return tuple(
        argument.name
        for argument in overload._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    )


@cache
def is_repeatable(overload: torch._ops.OpOverload) -> bool:
    """Return whether a second execution of the operator finds the arguments of the first, and leaves them."""
    return not mutated_arguments(overload) and overload._schema.name not in _WRITES_UNSAID


#: Operators that move the running statistics in training, though their schemas do not say so.
_WRITES_UNSAID = frozenset({"aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::miopen_batch_norm"})


def first_tensor(values: Iterable[Any]) -> Tensor | None:
    """Return the first tensor among arguments, looking into lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, list | tuple):
            for item in value:
                if isinstance(item, Tensor):
                    return item
    return None


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in an argument or a result, looking into lists and tuples."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [item for item in value if isinstance(item, Tensor)]
    return []
