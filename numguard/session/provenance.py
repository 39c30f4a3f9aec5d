"""Provenance: what the optimizer wrote must still be there when it writes again.

After an optimizer's step the bits of some tensors are summed, in turn and within a part of the budget; before its next
step they are summed again. Running statistics are written by the forward: they are compared when it begins.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import process_time
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from numguard.interception.boundaries import copies_as_usual, unwrapped
from numguard.interception.memory_sums import CHUNK_BYTES, bit_sums, can_be_summed, single_bit
from numguard.session.changes import Change, report_changes

SHARE: Final = 0.1  # of the budget
MOST_STEPS: Final = 64  # until it is reckoned again what a turn costs and earns
SMALL_BYTES: Final = 1 << 14  # that could be summed in the time that a call takes beside
TURN_SECONDS: Final = 2e-4  # of a step in which a part is summed and compared, until it has been measured


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A part of a tensor's memory that is summed at once."""

    name: str
    what: str
    tensor: Tensor
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Pending:
    chunk: Chunk
    sums: NDArray[np.uint64]
    version: int
    pointer: int
    nbytes: int
    step: int


class Provenance:
    """Watches the tensors of one run's optimizers and the buffers of its model.

    Parameters
    ----------
    model, optimizers
        What is trained. Without an optimizer nothing is watched.
    budget
        Share of step time of the whole guard; None sums everything at every step.
    step, step_seconds
        Return the number of the present step, and the typical length of one.
    charge
        Takes the seconds that it has cost.
    enter, fault
        Take findings and faults.
    """

    def __init__(
        self,
        model: torch.nn.Module | None,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        budget: float | None,
        step: Callable[[], int],
        step_seconds: Callable[[], float],
        charge: Callable[[float], None],
        enter: Callable[..., None],
        fault: Callable[[str, BaseException], None],
    ) -> None:
        self._model, self._optimizers = model, [o for o in optimizers if hasattr(o, "register_step_pre_hook")]
        self._budget, self._step, self._step_seconds, self._charge = budget, step, step_seconds, charge
        self._enter, self._fault = enter, fault
        self._names = {id(p): name for name, p in model.named_parameters()} if model is not None else {}
        self._turns: dict[int, Iterator[Chunk]] = {}
        self._pending: dict[int, list[_Pending]] = {}
        self._written_by_model: set[int] = set()
        self._written_before: set[int] = set()
        self._early: list[_Pending] = []
        self._marked: tuple[torch.nn.Module, Any] | None = None
        self._credit = 0.0
        self._last_reckoned = 0
        self._turn_seconds = TURN_SECONDS
        self.is_on = False
        self.is_waiting = False  # whether anything is to be compared before an optimizer's step
        self.num_steps = 0  # of optimizers, counted by whoever calls after each
        self.next_turn = math.inf  # by that count
        self.summed_bytes = 0

    # -- start and stop ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Watch from now on; mark the model where its forward writes buffers."""
        self.is_on, self.next_turn = bool(self._optimizers), 0 if self._optimizers else math.inf
        if self._model is not None and self._optimizers:
            for module in self._model.modules():
                if isinstance(module, torch.nn.modules.batchnorm._NormBase):
                    self._written_by_model |= {id(buffer) for buffer in module.buffers(recurse=False)}
            if self._written_by_model:
                self._mark(unwrapped(self._model))

    def stop(self) -> None:
        """Watch no more."""
        self.is_on, self.is_waiting, self.next_turn = False, False, math.inf
        self._pending.clear()
        self._early = []
        if self._marked is not None and self._marked[0]._compiled_call_impl is self._marked[1]:
            self._marked[0]._compiled_call_impl = None
        self._marked = None

    def _mark(self, root: torch.nn.Module) -> None:
        if root._compiled_call_impl is not None or not copies_as_usual(root):
            return
        call: Callable[..., Any] = root._call_impl

        def looked_at(*args: Any, **kwargs: Any) -> Any:
            if self._early and not torch.compiler.is_compiling():
                self._look(self._early)
                self._early = []
            return call(*args, **kwargs)

        root._compiled_call_impl = looked_at
        self._marked = (root, looked_at)

    def owns(self, call: object) -> bool:
        """Return whether the model's ``_compiled_call_impl`` is the one set here."""
        return self._marked is not None and self._marked[1] is call

    def expect_write(self, params: Iterable[Tensor] | None = None) -> None:
        """Say nothing of writes to these tensors until their optimizer writes again; None means to any."""
        expected = None if params is None else {id(tensor) for tensor in params}
        for owner, pending in self._pending.items():
            self._pending[owner] = [p for p in pending if expected is not None and id(p.chunk.tensor) not in expected]
        self._early = [p for p in self._early if expected is not None and id(p.chunk.tensor) not in expected]

    # -- around an optimizer's step ----------------------------------------------------------------------------

    def before(self, optimizer: Any, *_: Any) -> None:
        """Compare what was summed after this optimizer's last step, which is about to write again."""
        if not self.is_waiting or torch.compiler.is_dynamo_compiling():
            return
        pending = self._pending.pop(id(optimizer), None)
        self.is_waiting = bool(self._pending)
        if pending:
            self._look(pending)

    def take_turn(self, optimizer: Any) -> None:
        """Sum what this optimizer has just written, the next part of it, if it is time for that."""
        if self.num_steps < self.next_turn or not hasattr(optimizer, "register_step_pre_hook"):
            return
        if not self._is_affordable():
            return
        self._early = []
        began = process_time()
        try:
            self._pending[id(optimizer)] = self._sum_part(optimizer)
            self.is_waiting = True
        except Exception as error:
            self._fault("provenance", error)
        self._spend(process_time() - began)

    def _is_affordable(self) -> bool:
        """Return whether the credit pays for a turn now; else reckon when to ask again."""
        if self._budget is None:
            return True
        earned = SHARE * self._budget * self._step_seconds() / len(self._optimizers)
        self._credit += earned * (self.num_steps - self._last_reckoned)
        self._last_reckoned = self.num_steps
        missing = (self._turn_seconds - self._credit) / earned if earned > 0.0 else 1.0
        self.next_turn = self.num_steps + max(1, min(MOST_STEPS, math.ceil(missing)))
        return self._credit >= self._turn_seconds

    def _spend(self, seconds: float) -> None:
        """Take what a turn has cost from the credit: it may be in debt for a while, over a run it is not."""
        self._charge(seconds)
        self._credit -= seconds

    def _sum_part(self, optimizer: Any) -> list[_Pending]:
        """Sum the next part of the state that is not too small to be worth a turn, or all of it without a budget."""
        taken: list[_Pending] = []
        seen: set[tuple[int, int]] = set()
        left = CHUNK_BYTES
        for chunk in self._next_chunks(optimizer, self._budget is None):
            size, tensor = chunk.last - chunk.first, chunk.tensor
            if (id(tensor), chunk.first) in seen:  # a state so small that the turn has come round
                break
            seen.add((id(tensor), chunk.first))
            sums = bit_sums(tensor, chunk.first, chunk.last)
            self.summed_bytes += size
            pending = _Pending(chunk, sums, tensor._version, tensor.data_ptr(), tensor.nbytes, self._step())
            (self._early if id(tensor) in self._written_by_model else taken).append(pending)
            left -= size + SMALL_BYTES
            if self._budget is not None and left <= 0:
                break
        return taken

    def _next_chunks(self, optimizer: Any, everything: bool) -> Iterator[Chunk]:
        if everything:
            yield from self._chunks(optimizer)
            return
        for fresh in (False, True):
            turn = self._turns.get(id(optimizer))
            if turn is None or fresh:
                turn = self._turns[id(optimizer)] = self._chunks(optimizer)
            for chunk in turn:
                if can_be_summed(chunk.tensor) and chunk.last <= chunk.tensor.nbytes:
                    yield chunk

    def _chunks(self, optimizer: Any) -> Iterator[Chunk]:
        for name, what, tensor in self._tensors(optimizer):
            if not can_be_summed(tensor):
                continue
            for first in range(0, tensor.nbytes, CHUNK_BYTES):
                last = min(first + CHUNK_BYTES, tensor.nbytes)
                yield Chunk(name=name, what=what, tensor=tensor, first=first, last=last)

    def _tensors(self, optimizer: Any) -> Iterator[tuple[str, str, Tensor]]:
        """Yield name, kind and tensor of what is watched, as they are asked for: a list would cost a millisecond."""
        for number, group in enumerate(optimizer.param_groups):
            for place, parameter in enumerate(group["params"]):
                name = self._names.get(id(parameter), f"group {number}, parameter {place}")
                yield name, "parameter", parameter
                for key, value in list(optimizer.state.get(parameter, {}).items()):
                    if isinstance(value, Tensor):
                        yield f"{key} of {name}", "moment", value
        if self._model is not None and optimizer is self._optimizers[0]:
            known = {id(p) for o in self._optimizers for group in o.param_groups for p in group["params"]}
            yield from [(n, "parameter", p) for n, p in self._model.named_parameters() if id(p) not in known]
            yield from [
                (name, "buffer", buffer)
                for name, buffer in self._model.named_buffers()
                if id(buffer) not in self._written_by_model or self._marked is not None
            ]

    # -- comparing ---------------------------------------------------------------------------------------------

    def _look(self, pending: list[_Pending]) -> None:
        began = process_time()
        try:
            changes = [change for one in pending if (change := _change(one)) is not None]
            if changes:
                self._tell(changes)
        except Exception as error:
            self._fault("provenance", error)
        seconds = process_time() - began
        self._spend(seconds)
        self._turn_seconds = 0.8 * self._turn_seconds + 0.4 * seconds  # summing before took as long

    def _tell(self, changes: list[Change]) -> None:
        # A buffer that its module writes changes at every forward, and by no flipped bit: from now on it is compared
        # when the forward begins.
        unknown = [c for c in changes if c.what == "buffer" and id(c.tensor) not in self._written_by_model]
        written = {id(c.tensor) for c in unknown if c.observed or c.bit is None}
        if written:
            self._written_by_model |= written
            if self._marked is None and self._model is not None:
                self._mark(unwrapped(self._model))
        changes = [change for change in changes if id(change.tensor) not in written]
        report_changes(changes, self._step(), self._enter, self._written_before)
        self._written_before |= {id(change.tensor) for change in changes if change.observed or change.bit is None}

    @property
    def share_per_step(self) -> float:
        """Share of all watched bytes that was summed per optimizer step so far."""
        tensors = (tensor for optimizer in self._optimizers for _, _, tensor in self._tensors(optimizer))
        num_bytes = sum(tensor.nbytes for tensor in tensors if can_be_summed(tensor))
        watched = self.num_steps * num_bytes / max(1, len(self._optimizers))
        return self.summed_bytes / watched if watched else 0.0


def _change(pending: _Pending) -> Change | None:
    chunk = pending.chunk
    tensor = chunk.tensor
    if tensor.nbytes != pending.nbytes or not can_be_summed(tensor):
        return None  # moved away, to another device or format: there is nothing left to compare
    sums = bit_sums(tensor, chunk.first, chunk.last)
    if np.array_equal(sums, pending.sums):
        return None
    return Change(
        name=chunk.name,
        what=chunk.what,
        tensor=tensor,
        first=chunk.first,
        observed=tensor._version != pending.version or tensor.data_ptr() != pending.pointer,
        bit=single_bit(pending.sums, sums),
        num_blocks=int(np.count_nonzero(sums != pending.sums)),
        step=pending.step,
    )
