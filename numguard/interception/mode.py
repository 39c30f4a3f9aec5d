"""The dispatch mode of armed steps: it hands each call of a checked operator to an observer, and the rest through."""

from collections.abc import Callable, Mapping
from time import process_time
from typing import Any, Protocol

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

COLD = 2.0  # how much slower Python runs between the operators of a model than in a loop of its own, measured
_NONE = torch.Tensor.__torch_dispatch__  # of a class that leaves the operators on it to the dispatcher
_TOLD = (FakeTensor,)  # has no numbers, and coverage says so
Observe = Callable[[torch._ops.OpOverload, tuple[Any, ...], Mapping[str, Any]], Any]


class Tape(Protocol):
    """Records the operators of a region; neither method raises."""

    is_running: bool

    def before(self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note what an operator is about to read."""

    def after(self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """Note what it has returned."""


class ArmedMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator below autograd on this thread while it is entered.

    ``ignore_compile_internals`` keeps compiled code compiled: its graph stays, and its extern kernels are seen.

    Parameters
    ----------
    checked
        Overloads that go to ``observe``. Empty means that every operator goes there (``everything``).
    observe
        Runs the operator and returns its result; user exceptions pass through it unchanged.
    everything
        Hand every operator to ``observe``, as the search for the origin of a NaN needs.
    others
        Takes how often each operator was met that is not among ``checked``, as the one number of a list; None where
        nobody asks.

    Attributes
    ----------
    tape
        Hears of every operator while it runs; None while no region is recorded.
    """

    supports_higher_order_operators = False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Say that compiled code may stay compiled under this mode."""
        return True

    def __init__(
        self,
        checked: Mapping[torch._ops.OpOverload, Any],
        observe: Observe,
        *,
        everything: bool = False,
        others: dict[torch._ops.OpOverload, list[int]] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._others = others
        self._checked = checked
        self._observe = observe
        self.everything = everything
        self.active = True
        self.num_ops = 0
        self.num_observed = 0
        self.tape: Tape | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Observe a checked operator; run any other one."""
        if kwargs is None:
            kwargs = {}
        self.num_ops += 1
        tape = self.tape
        if tape is None or not self.active or not tape.is_running:
            return self._dispatch(func, types, args, kwargs)
        if types and _stands_for_other_tensors(types):
            return NotImplemented
        tape.before(func, args, kwargs)
        output = self._dispatch(func, types, args, kwargs)
        tape.after(func, args, kwargs, output)
        return output

    def _dispatch(self, func: Any, types: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if not self.active:
            return func(*args, **kwargs)
        if func not in self._checked:
            if self._others is not None:
                tally = self._others.get(func)
                if tally is None:
                    self._others[func] = [1]
                else:
                    tally[0] += 1
            if not self.everything:
                return func(*args, **kwargs)
        if types and _stands_for_other_tensors(types):
            # DTensor, masked tensors: let the subclass unwrap first, its local operators come back here.
            return NotImplemented
        self.num_observed += 1
        return self._observe(func, args, kwargs)


def _stands_for_other_tensors(types: Any) -> bool:
    return any(
        t is not torch.Tensor and t is not torch.nn.Parameter and t.__torch_dispatch__ is not _NONE and t not in _TOLD
        for t in types
    )


def is_innermost(mode: ArmedMode) -> bool:
    """Return whether ``mode`` is the one that would be left next on this thread."""
    return _get_current_dispatch_mode() is mode


def cost_of_passing(repetitions: int = 200) -> float:
    """Return the seconds that the mode adds to one operator that it only passes on, measured here and now."""
    x = torch.zeros(1)
    neg = torch.ops.aten.neg.default

    def elapsed() -> float:
        begin = process_time()
        for _ in range(repetitions):
            neg(x)
        return (process_time() - begin) / repetitions

    with torch.no_grad():
        elapsed()
        bare = min(elapsed() for _ in range(5))
        with ArmedMode({}, lambda func, args, kwargs: func(*args, **kwargs)):
            armed = min(elapsed() for _ in range(5))
    # Between the operators of a model the caches are the model's: twice what a tight loop shows.
    return COLD * max(armed - bare, 1e-6)
