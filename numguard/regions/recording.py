"""What ran inside a region: its operators, what they read from outside, and what they left behind.

Nothing is computed while a region is recorded. Its tensors are held until it is judged, right after it has returned.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from numguard.shadow.call import bind, mutated_arguments
from numguard.shadow.comparison import NotCovered

MOST_OPS: Final = 400
# Their results jump where their inputs cross a line: the replay takes the side that the program took.
_JUMPS: Final = frozenset(
    {"round", "floor", "ceil", "trunc", "frac", "sign", "sgn", "heaviside", "fmod", "remainder", "nextafter", "frexp"}
)
# They ask a tensor for its shape alone.
_FACTORIES: Final = frozenset(
    {
        "empty_like", "zeros_like", "ones_like", "full_like", "new_empty", "new_empty_strided", "new_zeros",
        "new_ones", "new_full",
    }
)  # fmt: skip
# Their further results are kept for backward: no program reads them.
_KEEPING: Final = ("native_", "_scaled_dot_product", "_fused", "nll_loss")
# They move or write numbers and compute none: what they make of constants is exact.
_MOVES: Final = frozenset(
    {
        "_to_copy", "clone", "copy", "copy_", "fill", "fill_", "zero_", "cat", "stack", "where", "gather", "index",
        "index_select", "index_put", "index_put_", "scatter", "scatter_", "masked_fill", "masked_fill_", "tril",
        "triu", "repeat", "roll", "flip", "constant_pad_nd", "lift_fresh", "_unsafe_view",
    }
)  # fmt: skip

# PyTorch's own kernels take the logarithm of a sum that is rounded beside one. Their checks judge them by that measure,
# and what comes after them is judged from what they returned.
_ABSOLUTE: Final = frozenset({"_log_softmax", "logsumexp"})


class Slot(NamedTuple):
    """Stands for a tensor among the arguments of a recorded operator."""

    number: int


class Origin(Enum):
    """Where the value of a slot comes from."""

    INPUT = "outside the region, or rounded by it on purpose: may be off by one ulp"
    CONSTANT = "exact: written by the program, a choice, a random number"
    ABSOLUTE = "an operator whose own check allows it an ulp of one: a logarithm of what is almost one"
    COMPUTED = "an operator that is replayed"


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedOp:
    """One operator: its arguments with slots for tensors, and the slots of its results; None where not replayed."""

    func: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[int | None, ...]


def map_tensors(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return an argument with ``change`` applied to its leaves, looking into lists and tuples."""
    if isinstance(value, Slot):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(item, change) for item in value)
    return change(value)


def leaves(value: Any) -> Iterable[Tensor]:
    """Yield the tensors in an argument or a result, looking into lists and tuples all the way down."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)


def _name(func: torch._ops.OpOverload) -> str:
    return str(func._schema.name).partition("::")[2]


class Recording:
    """The operators of one call of a region, in their order.

    Parameters
    ----------
    is_readable
        Tells whether the elements of a tensor can be looked at.
    limit
        Elements of all results together, beyond which it gives up.
    """

    def __init__(self, is_readable: Callable[[Tensor], bool], limit: float = math.inf) -> None:
        self._is_readable, self._limit = is_readable, limit
        self._numbers: dict[int, int] = {}
        self.tensors: list[Tensor] = []
        self.origins: list[Origin] = []
        self.kept: dict[int, Tensor] = {}
        self.ops: list[RecordedOp] = []
        self.reason: str | None = None
        self.num_elements = 0
        self._aliases: list[Tensor] = []
        self._written: dict[int, int] = {}
        self._read: dict[int, int] = {}
        self._rests_on_input: set[int] = set()
        self._depth: dict[int, int] = {}

    # -- recording ---------------------------------------------------------------------------------------------

    def before(self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note what an operator is about to read, and keep what it is about to overwrite."""
        if self.reason is not None:
            return
        reason = self._reason(func)
        if reason is not None:
            self.give_up(reason)
            return
        try:
            self._note_inputs(func, args, kwargs)
        except NotCovered as unreadable:
            self.give_up(str(unreadable))

    def _reason(self, func: torch._ops.OpOverload) -> str | None:
        if len(self.ops) >= MOST_OPS:
            return f"more than {MOST_OPS} operators"
        if self.num_elements > self._limit:
            return "its replay costs more than a check may"
        if func.namespace not in ("aten", "prims"):
            return f"an operator outside aten: {func.namespace}"
        return "it addresses memory by strides of its own" if _name(func) == "as_strided" else None

    def _note_inputs(self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        for tensor in (*leaves(args), *leaves(tuple(kwargs.values()))):
            if id(tensor) not in self._numbers:
                self._enter(tensor, Origin.INPUT if tensor.is_floating_point() else Origin.CONSTANT)
        mutated = mutated_arguments(func)
        if mutated:
            arguments = bind(func, args, kwargs)
            for tensor in leaves([arguments[name] for name in mutated]):
                self._keep(tensor)

    def give_up(self, reason: str) -> None:
        """Let go of everything: the region cannot be judged."""
        self.reason = self.reason or reason
        self.tensors, self.kept, self.ops, self._numbers, self._aliases = [], {}, [], {}, []

    def _enter(self, tensor: Tensor, origin: Origin) -> int:
        if tensor.is_complex() or (tensor.is_floating_point() and not self._is_readable(tensor)):
            raise NotCovered(f"it holds a {str(tensor.dtype)[6:]} tensor that cannot be read")
        number = len(self.tensors)
        self._numbers[id(tensor)] = number
        self.tensors.append(tensor)
        self.origins.append(origin)
        if origin in (Origin.INPUT, Origin.ABSOLUTE):
            self._rests_on_input.add(number)
        return number

    def _keep(self, written: Tensor) -> None:
        """Copy the inputs and constants that lie in the memory that is about to be written."""
        place = written.untyped_storage().data_ptr()
        for number, tensor in enumerate(self.tensors):
            fixed = self.origins[number] is not Origin.COMPUTED and number not in self.kept
            if fixed and tensor.untyped_storage().data_ptr() == place:
                self.kept[number] = tensor.detach().clone()

    def after(self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """Note what an operator has returned."""
        if self.reason is None:
            try:
                self._note_results(func, args, kwargs, output)
            except NotCovered as unreadable:
                self.give_up(str(unreadable))

    def _note_results(
        self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        given = [self._numbers[id(t)] for t in (*leaves(args), *leaves(tuple(kwargs.values())))]
        if func is torch.ops.aten.detach.default:  # the same numbers; autograd keeps results in this way, too
            self._numbers[id(output)] = given[0]
            self._aliases.append(output)
            return
        origin = self._origin(func, given, output)
        if _name(func) in _ABSOLUTE:
            origin = Origin.ABSOLUTE if origin is Origin.COMPUTED else origin
        into: list[int | None] = []
        for tensor in leaves(output):
            self.num_elements += tensor.numel()
            known = self._numbers.get(id(tensor))
            if not tensor.is_floating_point():
                self._enter(tensor, Origin.CONSTANT)
                into.append(None)
            elif known is not None and origin is Origin.COMPUTED:  # it has written into what it was given
                into.append(known)
            else:  # new, or written by what is not replayed: another value begins here
                into.append(self._enter(tensor, origin))
        if origin is Origin.COMPUTED and any(number is not None for number in into):
            self._replayed(func, args, kwargs, given, tuple(into))

    def _replayed(
        self,
        func: torch._ops.OpOverload,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        given: list[int],
        results: tuple[int | None, ...],
    ) -> None:
        place = len(self.ops)
        into = {number for number in results if number is not None}
        computes = not func.is_view and _name(func) not in _MOVES
        depth = max((self._depth.get(number, 0) for number in given), default=0) + computes
        self._depth.update(dict.fromkeys(into, depth))
        rests = any(number in self._rests_on_input for number in given)
        for number in given:
            if number not in into:
                self._read[number] = place
        for count, number in enumerate(sorted(into)):
            if count == 0 or not _name(func).startswith(_KEEPING):
                self._written[number] = place
            if rests:
                self._rests_on_input.add(number)

        def slot(value: Any) -> Any:
            return Slot(self._numbers[id(value)]) if isinstance(value, Tensor) else value

        self.ops.append(
            RecordedOp(
                func=func,
                args=map_tensors(args, slot),
                kwargs={name: map_tensors(value, slot) for name, value in kwargs.items()},
                results=results,
            )
        )

    def _origin(self, func: torch._ops.OpOverload, given: list[int], output: Any) -> Origin:
        name = _name(func)
        outputs = [tensor for tensor in leaves(output) if tensor.is_floating_point()]
        if not outputs:
            return Origin.CONSTANT
        if (
            not given
            or name in _FACTORIES
            or torch.Tag.nondeterministic_seeded in func.tags
            or name.rstrip("_") in _JUMPS
        ):
            return Origin.CONSTANT
        if name == "_to_copy" and _is_narrower(outputs[0], self.tensors[given[0]]):
            return Origin.INPUT  # the program asked for this rounding: the region begins anew behind it
        if any(number in self._rests_on_input for number in given) or mutated_arguments(func):
            return Origin.COMPUTED
        return Origin.CONSTANT if func.is_view or name in _MOVES else Origin.INPUT

    # -- asking ------------------------------------------------------------------------------------------------

    def value(self, number: int) -> Tensor:
        """Return what a slot held when the region first read it, or what it holds where it was computed."""
        return self.kept.get(number, self.tensors[number])

    def results(self) -> list[int]:
        """Return the slots that the region leaves behind: computed from its inputs, and read by nothing after that.

        What one operator made of the inputs is its own affair, and its check's; a region begins with two in a row.
        """
        return [
            number
            for number, place in self._written.items()
            if number in self._rests_on_input and self._read.get(number, -1) <= place and self._depth[number] > 1
        ]

    def made_by(self, number: int) -> str:
        """Return the name of the operator that last wrote a slot."""
        return _name(self.ops[self._written[number]].func)

    @property
    def computing(self) -> tuple[torch._ops.OpOverload, ...]:
        """Operators that compute, views left out: one alone is the checks' affair."""
        return tuple(op.func for op in self.ops if not op.func.is_view and _name(op.func) not in _MOVES)


def _is_narrower(result: Tensor, source: Tensor) -> bool:
    return source.is_floating_point() and torch.finfo(result.dtype).eps > torch.finfo(source.dtype).eps
