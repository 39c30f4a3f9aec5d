"""A double of an accelerator: what is sent becomes readable some steps later, and nothing may be waited for."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from numguard.errors import NumguardError

_read = Tensor.tolist


class WaitingError(NumguardError):
    """Something asked the device for a value."""


class Courier:
    """Sends copies that arrive ``delay`` ticks of the clock later."""

    def __init__(self, delay: int) -> None:
        self.delay, self.now, self.num_waits, self.num_sent = delay, 0, 0, 0

    def __call__(self, batch: Tensor) -> "Parcel":
        self.num_sent += 1
        return Parcel(self, batch)


class Parcel:
    """The numbers as they were when the copy was started; asked for early, it counts as waited for."""

    def __init__(self, courier: Courier, batch: Tensor) -> None:
        self._courier, self._numbers = courier, _read(batch.detach().clone())
        self._due = courier.now + courier.delay

    def ready(self) -> bool:
        return self._courier.now >= self._due

    def numbers(self) -> list[float]:
        self._courier.num_waits += not self.ready()
        return self._numbers


SYNCHRONISING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "item", "unique", "_unique2")


class NoWaiting(TorchDispatchMode):
    """Raises where an operator would make a host wait for its device, save where ``allowed(operator)`` is true.

    Entered before the guard's own mode, it sees what the guard computes as well as what the program does.
    """

    def __init__(self, allowed: Callable[[Any], bool]) -> None:
        super().__init__()
        self._allowed = allowed
        self.violations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        kwargs = kwargs or {}
        moves = name in ("_to_copy", "copy_") and any(
            isinstance(value, torch.device) and value.type != "cpu" for value in kwargs.values()
        )
        by_mask = name in ("index", "index_put_", "index.Tensor") and any(
            isinstance(index, Tensor) and index.dtype is torch.bool
            for part in args[1:2]
            for index in (part if isinstance(part, list | tuple) else [part])
        )
        if (name in SYNCHRONISING or moves or by_mask) and not self._allowed(func):
            self.violations.append(name)
            raise WaitingError(f"{func} waits for the device")
        return func(*args, **kwargs)


class NoNumpy:
    """Forbids the ways to host memory that no dispatch mode sees."""

    def __init__(self, patch: Any, allowed: Callable[[], bool]) -> None:
        self.violations: list[str] = []
        for name in ("numpy", "tolist", "__array__"):
            original = getattr(Tensor, name)

            def refused(tensor: Tensor, *args: Any, _name: str = name, _original: Any = original) -> Any:
                if not allowed():
                    frame = sys._getframe(1)
                    self.violations.append(f"{_name} at {frame.f_code.co_filename}:{frame.f_lineno}")
                    raise WaitingError(f"Tensor.{_name} waits for the device")
                return _original(tensor, *args)

            patch.setattr(Tensor, name, refused)
