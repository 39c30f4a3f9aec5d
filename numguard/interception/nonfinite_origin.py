"""The first operator of a step whose result is not finite although its inputs are.

Only exhaustive steps look at every operator; the default budget locates the block (``boundaries``). A birth is
reported only when it matters: it reached the loss, or the optimizer wrote it into a parameter. A mask of -inf is no
birth, and neither is the overflow of a scaled gradient in a step that GradScaler then skips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from numguard.interception.attribution import Origin
from numguard.interception.mailbox import Mailbox
from numguard.shadow.call import overload_name, tensors_in

# Operators by which programs write constants: an infinity that one of them writes was asked for.
_CONSTANTS: Final = frozenset(
    {
        "masked_fill", "masked_fill_", "full", "full_like", "new_full", "fill", "fill_", "where", "scalar_tensor",
        "constant_pad_nd", "zero_", "copy_", "index_fill", "index_fill_", "masked_scatter", "_to_copy",
    }
)  # fmt: skip
# Their results are memory that nobody has written yet.
_UNWRITTEN: Final = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_"})
_SCALER: Final = "_amp_foreach_non_finite_check_and_unscale_"


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
    mask
        True where a constant was written on purpose.
    shape, dtype
        Of the result.
    """

    op: str
    origin: Origin
    index: int
    nan: bool
    mask: bool
    shape: tuple[int, ...]
    dtype: str


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _flags(tensor: Tensor) -> Tensor:
    """Return [not all finite, any NaN] as float64, without waiting for the device."""
    return torch.stack([~torch.isfinite(tensor).all(), torch.isnan(tensor).any()]).double()


class OriginSearch:
    """Follows non-finite values through the operators of one step, along the data flow.

    Parameters
    ----------
    mailbox
        Brings the flags to the host; they are interpreted in the order of the operators.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._tags: dict[int, Birth] = {}
        self._known: set[int] = set()
        self._index = 0
        self._births: list[Birth] = []
        self._written: Birth | None = None
        self.scaled = False

    def start_step(self) -> None:
        """Forget the step before."""
        self._tags.clear()
        self._known.clear()
        self._births.clear()
        self._written = None
        self._index = 0
        self.scaled = False

    def note(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any, origin: Origin) -> None:
        """Look at the result of an operator, and at those inputs that no operator of this step has produced."""
        name = func._schema.name.partition("::")[2]
        self.scaled = self.scaled or name == _SCALER
        self._index += 1
        outputs = [t for t in tensors_in(output) if t.is_floating_point() and t.numel()]
        if not outputs or name in _UNWRITTEN:
            self._forget(outputs)
            return
        inputs = [t for value in (*args, *kwargs.values()) for t in tensors_in(value) if t.is_floating_point()]
        produced = {_key(t) for t in outputs}
        for tensor in inputs:
            if tensor.numel() and _key(tensor) not in self._known and _key(tensor) not in produced:
                self._ask(tensor, (), func, origin, outside=True)
        keys = tuple(_key(tensor) for tensor in inputs)
        for tensor in outputs:
            self._ask(tensor, keys, func, origin, outside=False)

    def _forget(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            self._known.add(_key(tensor))
            self._tags.pop(_key(tensor), None)

    def _ask(self, tensor: Tensor, parents: tuple[int, ...], func: Any, origin: Origin, *, outside: bool) -> None:
        key, index, shape, dtype = _key(tensor), self._index, tuple(tensor.shape), str(tensor.dtype)[6:]
        self._known.add(key)
        op = overload_name(func)
        constant = func._schema.name.partition("::")[2] in _CONSTANTS

        def deliver(flags: list[float]) -> None:
            if not flags[0]:
                self._tags.pop(key, None)
                return
            nan = bool(flags[1])
            inherited = next((self._tags[parent] for parent in parents if parent in self._tags), None)
            if inherited is not None and not (inherited.mask and nan):
                birth = inherited
            else:
                birth = Birth(
                    op="input" if outside else op,
                    origin=origin,
                    index=index,
                    nan=nan,
                    mask=constant and not nan and not outside,
                    shape=shape,
                    dtype=dtype,
                )
                self._births.append(birth)
            self._tags[key] = birth
            if origin.phase == "optimizer" and not birth.mask and not outside and self._written is None:
                self._written = birth

        self._mailbox.post(_flags(tensor), deliver)

    def birth(self, loss: Tensor | None, *, loss_is_finite: bool) -> Birth | None:
        """Return the birth that mattered in this step, or None.

        Parameters
        ----------
        loss
            The step's loss, whose data flow leads to the birth; None where it is a plain number.
        loss_is_finite
            Whether the loss is.
        """
        if not loss_is_finite:
            found = self._tags.get(_key(loss)) if loss is not None and loss.numel() else None
            if found is not None and not found.mask:
                return found
            candidates = [birth for birth in self._births if not birth.mask]
            return min(candidates, key=lambda birth: (not birth.nan, birth.index), default=None)
        if self._written is not None and not self.scaled:
            return self._written
        return None
