"""The first operator of a step whose result is not finite although its inputs are.

Only exhaustive steps look at every operator; the default budget locates the block (``boundaries``). A birth is
reported only when it matters: it reached the loss, or the optimizer wrote it into a parameter. A mask of -inf is no
birth, and neither is the overflow of a scaled gradient in a step that is then skipped.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from numguard.interception.attribution import Origin
from numguard.interception.eligibility import FLOAT8, is_readable, is_there, is_tracing
from numguard.interception.mailbox import Mailbox
from numguard.shadow.call import bind, mutated_arguments, overload_name, tensors_in

# Operators by which programs write constants: an infinity that one of them writes was asked for.
_CONSTANTS: Final = frozenset(
    {
        "masked_fill", "masked_fill_", "full", "full_like", "new_full", "fill", "fill_", "where", "scalar_tensor",
        "constant_pad_nd", "index_fill", "index_fill_", "masked_scatter", "masked_scatter_",
    }
)  # fmt: skip
# Their results are memory that nobody has written yet.
_UNWRITTEN: Final = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Birth:
    """Where a NaN or Inf came into the run.

    Parameters
    ----------
    op
        Operator; ``"input"`` where a tensor was not finite before any operator of the step touched it.
    origin
        Where it was called.
    index
        Position among the operators of the step.
    nan
        True for NaN, False for Inf only.
    asked_for
        True for an infinity that the program wrote as a constant or brought along.
    shape, dtype
        Of the result.
    """

    op: str
    origin: Origin
    index: int
    nan: bool
    asked_for: bool
    shape: tuple[int, ...]
    dtype: str


@dataclass(slots=True)
class _Trace:
    """What is known of one step; its flags may arrive while the next steps run."""

    tags: dict[int, Birth] = field(default_factory=dict)
    births: list[Birth] = field(default_factory=list)
    written: Birth | None = None


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _covers_storage(tensor: Tensor) -> bool:
    return tensor.nbytes >= tensor.untyped_storage().nbytes()


def _flags(tensor: Tensor) -> Tensor:
    """Return [not all finite, any NaN] as float64, without waiting for the device."""
    if tensor.dtype in FLOAT8:
        tensor = tensor.float()
    return torch.stack([~torch.isfinite(tensor).all(), torch.isnan(tensor).any()]).double()


def _is_constant(name: str, arguments: Sequence[Any]) -> bool:
    return name in _CONSTANTS or any(isinstance(value, float) and not math.isfinite(value) for value in arguments)


class OriginSearch:
    """Follows non-finite values through the operators of one step, along the data flow.

    Parameters
    ----------
    mailbox
        Brings the flags to the host; they are interpreted in the order of the operators.
    is_parameter
        Tells a parameter of the guarded run: what the optimizer writes into one is there to stay.
    """

    def __init__(self, mailbox: Mailbox, is_parameter: Callable[[Tensor], bool] = lambda tensor: True) -> None:
        self._mailbox, self._is_parameter = mailbox, is_parameter
        self._known: set[int] = set()
        self._index = 0
        self._trace = _Trace()

    def start_step(self) -> None:
        """Forget the step before."""
        self._known.clear()
        self._index = 0
        self._trace = _Trace()

    def note(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any, origin: Origin) -> None:
        """Look at what an operator wrote, and at those inputs that no operator of this step has produced."""
        if is_tracing():
            return
        self._index += 1
        name = func._schema.name.partition("::")[2]
        outputs = _readable([output])
        if name in _UNWRITTEN:
            self._forget(outputs)
            return
        given = (*args, *kwargs.values())
        inputs = _readable(given)
        keys = tuple(_key(tensor) for tensor in inputs)
        mutated = mutated_arguments(func)
        if mutated:
            arguments = bind(func, args, kwargs)
            outputs = _readable([arguments[argument] for argument in mutated])
        else:  # a view of an input holds nothing new, and may show only the finite part of it
            outputs = [tensor for tensor in outputs if _key(tensor) not in keys]
        produced = {_key(tensor) for tensor in outputs}
        for tensor, key in zip(inputs, keys, strict=True):
            if key not in self._known and key not in produced:
                self._ask(tensor, (), "input", origin, asked_for=True)
        for tensor in outputs:
            self._ask(tensor, keys, overload_name(func), origin, asked_for=_is_constant(name, given))

    def _forget(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            self._known.add(_key(tensor))
            self._trace.tags.pop(_key(tensor), None)

    def _ask(self, tensor: Tensor, parents: tuple[int, ...], op: str, origin: Origin, *, asked_for: bool) -> None:
        key, index, shape, dtype = _key(tensor), self._index, tuple(tensor.shape), str(tensor.dtype)[6:]
        stays = origin.phase == "optimizer" and op != "input" and self._is_parameter(tensor)
        whole, trace = _covers_storage(tensor), self._trace
        self._known.add(key)

        def deliver(flags: list[float]) -> None:
            if not flags[0]:
                if whole:
                    trace.tags.pop(key, None)
                return
            nan = bool(flags[1])
            birth = next((trace.tags[parent] for parent in parents if parent in trace.tags), None)
            if birth is None or (birth.asked_for and nan and not birth.nan):
                birth = Birth(
                    op=op,
                    origin=origin,
                    index=index,
                    nan=nan,
                    asked_for=asked_for and not nan,
                    shape=shape,
                    dtype=dtype,
                )
                trace.births.append(birth)
            trace.tags[key] = birth
            if stays and trace.written is None:
                trace.written = birth

        self._mailbox.post(_flags(tensor), deliver)

    def question(self, loss: Tensor | None) -> Callable[[bool], Birth | None]:
        """Return a function that names the birth that mattered in this step, or None.

        Parameters
        ----------
        loss
            The step's loss, whose data flow leads to the birth; None where it is a plain number.

        Returns
        -------
        Callable
            Takes whether the loss is finite; to be asked when the flags of the step have arrived.
        """
        trace = self._trace
        key = _key(loss) if loss is not None and is_readable(loss) else None

        def birth(loss_is_finite: bool) -> Birth | None:
            if loss_is_finite:
                return trace.written
            found = trace.tags.get(key) if key is not None else None
            if found is not None and not found.asked_for:
                return found
            candidates = [birth for birth in trace.births if not birth.asked_for]
            return min(candidates, key=lambda birth: (not birth.nan, birth.index), default=found)

        return birth


def _readable(values: Sequence[Any]) -> list[Tensor]:
    return [tensor for value in values for tensor in tensors_in(value) if _is_followed(tensor) and tensor.numel()]


def _is_followed(tensor: Tensor) -> bool:
    return is_readable(tensor) or (tensor.dtype in FLOAT8 and is_there(tensor))
