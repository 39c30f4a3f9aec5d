"""Marks at the boundaries of top-level blocks: a NaN is located to its block in the step in which it is born.

Nothing is computed while the loss is finite. A block's result is kept until the end of the step, and its gradient
until the end of the next, small ones as they are and large ones as one number; they are looked at when a loss is not
finite. A module hook would cost 25 microseconds a block, which a step of ten milliseconds cannot spare, so a block is
called through ``Module._compiled_call_impl``: the one attribute that ``Module.__call__`` looks up anyway, and that
copies and pickles leave out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from time import process_time
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor

from numguard.interception.eligibility import is_readable

MAX_BLOCKS: Final = 96
KEPT_ELEMENTS: Final = 1 << 18  # of a result that is kept rather than reduced to a number at once
MOST_KEPT_ELEMENTS: Final = 1 << 22  # of all results kept in a step
MAX_MARKS: Final = 1 << 13  # in a step: a loop that calls the model without end keeps its first ones
QUICK_ELEMENTS: Final = 1 << 15  # of a result that is kept without a question but this one
QUICK_MARKS: Final = 64  # after so many every question is asked
BLOCK_SECONDS: Final = 6e-6  # what a marked result costs with cold caches
GRADIENT_SECONDS: Final = 30e-6  # what a kept gradient costs by itself: autograd copies it
# By what it makes a step longer: the memory that it occupies is missing where backward would use it again. Measured
# with a four-block GPT, whose steps of 11 ms one of them made 0.7 % longer; by this it is decided how many are kept.
GRADIENT_DELAY: Final = 80e-6
OTHER_SECONDS: Final = 60e-6  # what the guard does in every step besides, losses and hashes among it
# A class that copies itself in its own way may copy the marked call too, and the copy would call the original.
_COPYING: Final = ("__getstate__", "__reduce__", "__reduce_ex__", "__deepcopy__", "__copy__", "__setattr__")
_WRAPPERS: Final = ("module", "_orig_mod", "_fsdp_wrapped_module")


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockOrigin:
    """The block in which a non-finite value was born.

    Parameters
    ----------
    block
        Qualified name.
    phase
        ``"forward"`` or ``"backward"``.
    since
        Last block before it whose result was seen to be finite, where blocks between the two are not watched;
        else empty.
    exact
        False where a block has changed its input in place, so that the neighbour before it may be meant.
    """

    block: str
    phase: Literal["forward", "backward"]
    since: str = ""
    exact: bool = True


class _Mark(NamedTuple):
    place: int
    output: Tensor
    version: int
    is_number: bool


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model inside the wrappers of parallel training and of the compiler."""
    root = model
    for _ in range(4):
        wrapped = [getattr(root, name, None) for name in _WRAPPERS]
        inner = next((module for module in wrapped if isinstance(module, torch.nn.Module)), None)
        if inner is None:
            break
        root = inner
    return root


def blocks_of(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Return the top-level blocks of a model: its children, with lists of layers opened, wrappers looked through."""
    root = unwrapped(model)
    names = {id(module): name for name, module in root.named_modules()}
    blocks: list[tuple[str, torch.nn.Module]] = []

    def open_up(module: torch.nn.Module, depth: int) -> None:
        for child in module.children():
            if isinstance(child, torch.nn.ModuleList | torch.nn.ModuleDict | torch.nn.Sequential):
                open_up(child, depth)
            elif depth < 2 and any(isinstance(part, torch.nn.ModuleList) for part in child.children()):
                open_up(child, depth + 1)  # the usual "model.model.layers"
            else:
                blocks.append((names.get(id(child), ""), child))

    open_up(root, 0)
    return blocks


def copies_as_usual(module: torch.nn.Module) -> bool:
    """Return whether a copy or pickle of a module leaves out what was set on it under ``_compiled_call_impl``."""
    kind = type(module)
    return all(getattr(kind, name, None) is getattr(torch.nn.Module, name, None) for name in _COPYING)


def _leading(output: Any) -> Any:
    """Return the first part of a block's result."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        return next(iter(output.values()), None)
    if isinstance(output, tuple | list):
        return output[0] if output else None
    if is_dataclass(output) and fields(output):
        return getattr(output, fields(output)[0].name, None)
    return None


def _number(tensor: Tensor) -> Tensor:
    """Return a number that is finite if and only if every element is, save for sums beyond the format."""
    return tensor.sum(dtype=torch.float32) if tensor.dtype is torch.float16 else tensor.sum()


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


class Boundaries:
    """Marks on the blocks of one model.

    Parameters
    ----------
    model
        The guarded model.
    charge
        Takes the seconds that the marks have cost.
    quiet
        Called with True before something is computed that the mode must not see, and with False after it.
    fault
        Takes ``(stage, error)`` when a mark fails: training goes on.
    keeps
        Whether small results in host memory are kept as they are; else every result becomes a number at once.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        charge: Callable[[float], None],
        quiet: Callable[[bool], None],
        fault: Callable[[str, BaseException], None],
        *,
        keeps: bool = True,
    ) -> None:
        self._charge, self._quiet, self._fault, self._keeps = charge, quiet, fault, keeps
        self._enabled = True
        # A replica of DataParallel is a copy of the attributes, with the marked call among them.
        self.blocks = [] if isinstance(model, torch.nn.DataParallel) else blocks_of(model)
        self.watched: list[int] = []
        self.retained: frozenset[int] = frozenset()
        self._calls: dict[int, Callable[..., Any]] = {}
        self._marks: list[tuple[int, Tensor, int, bool]] = []  # as _Mark, which would cost more to make
        self._gradients: list[tuple[int, Tensor]] = []
        self._earlier: list[tuple[int, Tensor]] = []
        self._retaining: list[tuple[int, Tensor]] = []
        self._num_kept = self._num_old = 0  # elements of this step; marks of the step before
        self._ended = False
        self.thin_out(MAX_BLOCKS)

    @property
    def names(self) -> list[str]:
        """Names of the blocks, in the order of the model."""
        return [name for name, _ in self.blocks]

    @property
    def first(self) -> str:
        """Name of the first block that is watched; empty where none is."""
        return self.names[self.watched[0]] if self.watched else ""

    @property
    def enabled(self) -> bool:
        """Whether anything is marked: while the guard looks away the blocks are called as if it were not there."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._enabled = value
        if value:
            self._watch()
        else:
            self._unwatch()

    def owns(self, call: object) -> bool:
        """Return whether a module's ``_compiled_call_impl`` is a mark's."""
        return any(call is own for own in self._calls.values())

    def thin_out(self, number: int, num_gradients: int = MAX_BLOCKS) -> None:
        """Watch at most ``number`` blocks, evenly spaced, the last one among them, and the gradients of some of these.

        The gradient of the first is watched before any other: what is born in backward reaches it.
        """
        count = len(self.blocks)
        step = max(1, -(-count // max(1, number)))
        wanted = list(range(count - 1, -1, -step))[::-1] if number > 0 else []
        every = max(1, -(-len(wanted) // max(1, num_gradients)))
        retained = frozenset(wanted[::every] if num_gradients > 0 else ())
        if wanted == self.watched and retained == self.retained:
            return
        self._unwatch()
        if wanted != self.watched:
            self.forget()
        self.watched, self.retained = wanted, retained
        if self._enabled:
            self._watch()

    def remove(self) -> None:
        """Leave the model as it was."""
        self._unwatch()
        self.watched = []
        self.forget()

    def forget(self) -> None:
        """Let go of everything that is kept."""
        self._turn_over()
        self._earlier = []

    def _unwatch(self) -> None:
        for place, call in self._calls.items():
            module = self.blocks[place][1]
            if module._compiled_call_impl is call:
                module._compiled_call_impl = None
        self._calls.clear()

    def _watch(self) -> None:
        for place in self.watched:
            module = self.blocks[place][1]
            if module._compiled_call_impl is None and copies_as_usual(module):  # else compiled by itself, say
                is_quick = self._keeps and bool(self._calls) and place not in self.retained
                self._calls[place] = module._compiled_call_impl = self._marked(place, module, is_quick)

    def _marked(self, place: int, module: torch.nn.Module, is_quick: bool) -> Callable[..., Any]:
        """Return the call of a block that puts its result aside.

        With cold caches every question costs a microsecond, so a small result is kept with as few as can be. The first
        block asks them all, and notices that a step has begun.
        """
        call: Callable[..., Any] = module._call_impl
        marks, see, fault = self._marks, self._see, self._fault
        is_compiling, is_training = torch.compiler.is_dynamo_compiling, torch.is_grad_enabled

        def watched(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            if is_compiling():
                return output
            try:
                if (
                    is_quick
                    and output.__class__ is Tensor
                    and is_training()
                    and output.numel() <= QUICK_ELEMENTS
                    and len(marks) < QUICK_MARKS
                ):
                    marks.append((place, output, output._version, False))
                elif is_training() or module.training:  # not an evaluation
                    see(place, output)
            except Exception as error:
                fault("block boundaries", error)
            return output

        return watched

    def _see(self, place: int, output: Any) -> None:
        """Put a result aside. Whether it can be read is asked when it is: every question costs with cold caches."""
        tensor = output if output.__class__ is Tensor else _leading(output)
        if tensor.__class__ is not Tensor or len(self._marks) >= MAX_MARKS:
            return
        if self._ended:
            self._turn_over()
        count = tensor.numel()
        if (
            self._keeps
            and count <= KEPT_ELEMENTS
            and self._num_kept + count <= MOST_KEPT_ELEMENTS
            and tensor.is_cpu
            and not tensor.is_inference()
        ):
            self._num_kept += count
            self._marks.append((place, tensor, tensor._version, False))
            if place in self.retained and tensor.requires_grad and is_readable(tensor) and tensor.grad_fn is not None:
                tensor.retain_grad()
                self._retaining.append((place, tensor))
            return
        if not is_readable(tensor):
            return
        began = process_time()
        self._marks.append((place, self._quietly(tensor.detach()), 0, True))
        node = tensor.grad_fn
        if node is not None and place in self.retained:
            node.register_prehook(lambda gradients: self._large_gradient(place, gradients))
        self._charge(process_time() - began)

    def _large_gradient(self, place: int, gradients: tuple[Any, ...]) -> None:
        if not self.enabled or not gradients or gradients[0].__class__ is not Tensor:
            return
        try:
            began = process_time()
            if is_readable(gradients[0]):
                self._gradients.append((place, self._quietly(gradients[0].detach())))
            self._charge(process_time() - began)
        except Exception as error:
            self._fault("block boundaries", error)

    def _quietly(self, tensor: Tensor) -> Tensor:
        self._quiet(True)
        try:
            with torch.no_grad():
                return _number(tensor)
        finally:
            self._quiet(False)

    # -- asking ------------------------------------------------------------------------------------------------

    def forward_origin(self) -> BlockOrigin | None:
        """Return the block whose result was the first that is not finite in this step. Reads from the device."""
        exact, before = True, -1
        for mark in self._readable():
            exact = exact and (mark.is_number or mark.output._version == mark.version)
            if not _is_finite(mark.output.detach()):
                since = self.names[before] if 0 <= before < mark.place - 1 else ""
                return BlockOrigin(block=self.names[mark.place], phase="forward", since=since, exact=exact)
            before = mark.place
        return None

    def gradient_origin(self, *, earlier: bool) -> BlockOrigin | None:
        """Return the block in whose backward the first non-finite gradient was born, in this step or the one before.

        The gradient at a block's result comes from the block after it, so that is the one that is named.
        """
        gradients = self._earlier if earlier else self._step_gradients()
        for place, gradient in sorted(gradients, key=lambda pair: -pair[0]):
            if not _is_finite(gradient):
                last = len(self.names) - 1
                until = min((other for other in self.retained if other > place), default=last)
                block = min(place + 1, last)
                return BlockOrigin(
                    block=self.names[block], phase="backward", since=self.names[until] if until > block else ""
                )
        return None

    def _step_gradients(self) -> list[tuple[int, Tensor]]:
        kept = [(place, output.grad) for place, output in self._retaining]
        return [(place, grad) for place, grad in kept if grad is not None] + self._gradients

    def _readable(self) -> list[_Mark]:
        marks = map(_Mark._make, self._marks[self._num_old :])
        return [mark for mark in marks if mark.is_number or is_readable(mark.output)]

    def numbers(self) -> tuple[tuple[str, ...], list[Tensor]]:
        """Return the watched blocks in forward order, and one number each that is finite if its result is."""
        marks = self._readable()
        names = tuple(self.names[mark.place] for mark in marks)
        return names, [mark.output if mark.is_number else self._quietly(mark.output.detach()) for mark in marks]

    def end_step(self) -> None:
        """Note that the step has ended. What is kept of it is let go when the next one reaches its first block:
        the results hold the step's graph, which the caller's own variables hold as long.
        """
        self._ended, self._num_old = True, len(self._marks)

    def _turn_over(self) -> None:
        """Forget the results of the step that has ended, and the gradients of the one before it."""
        self._charge(BLOCK_SECONDS * len(self._marks) + GRADIENT_SECONDS * len(self._retaining))
        self._earlier = self._step_gradients()
        self._marks.clear()
        self._gradients, self._retaining = [], []
        self._num_kept, self._num_old, self._ended = 0, 0, False


def affordable_marks(share: float, step_seconds: float, num_blocks: int) -> tuple[int, int]:
    """Return how many blocks, and how many gradients of blocks, can be watched for a part of a budget.

    Parameters
    ----------
    share
        Budget; a good two fifths of it may go into marks, as far as the rest pays for what every step costs anyway.
    step_seconds
        Length of a step.
    num_blocks
        Of the model: with few of them what is left buys gradients.
    """
    budget = share * step_seconds
    seconds = max(0.0, min(0.45 * budget, budget - OTHER_SECONDS))
    num_gradients = 1 if seconds >= GRADIENT_DELAY + BLOCK_SECONDS else 0
    number = min(num_blocks, int((seconds - GRADIENT_DELAY * num_gradients) / BLOCK_SECONDS))
    left = seconds - BLOCK_SECONDS * number - GRADIENT_DELAY * num_gradients
    return number, num_gradients + int(left / GRADIENT_DELAY)
