"""The state of detectors as plain JSON values and back."""

from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from numguard.errors import UsageError


def plain(value: Any) -> Any:
    """Return dataclasses as mappings and queues as lists, all the way down."""
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, deque | list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return value


def restore(target: Any, state: Mapping[str, Any]) -> None:
    """Put plain values back into a dataclass that was made for the same settings.

    Raises
    ------
    UsageError
        Where the state has other fields than the target.
    """
    names = {part.name for part in fields(target)}
    if not isinstance(state, Mapping) or set(state) != names:
        raise UsageError(
            f"this state is not one of {type(target).__name__}; hand in what state_dict() of the same version returned"
        )
    for name, value in state.items():
        present = getattr(target, name)
        if is_dataclass(present):
            restore(present, value)
        elif isinstance(present, deque):
            setattr(target, name, deque(value, present.maxlen))
        else:
            setattr(target, name, value)
