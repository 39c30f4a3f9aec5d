"""Whether one call of a sum by slot adds in more than the 16 bits of its result: the same call, on numbers that tell.

What a kernel does may depend on shapes, strides, indices and the number of threads. So the very call is run again,
with the caller's indices and private numbers of the caller's shapes and strides.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from numguard.checks.check import Probe
from numguard.checks.slot_sums import SlotSum, slot_sum_of
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import NotCovered
from numguard.shadow.routes import NUMPY

SMALL: Final = 2.0**-20  # beside one it needs 21 digits, and is a number of every format of 16 bits
LARGEST: Final = 1 << 22  # elements of a call that is run again
_SOURCES: Final = ("source", "src", "values", "grad_output")
_EVERYTHING: Final = Probe(arithmetic=NUMPY)
_seen: dict[tuple[Any, ...], bool | None] = {}


def adds_widely(call: OpCall) -> bool | None:
    """Return whether sums in 16 bits cannot explain what this call returns; None where that cannot be told.

    Parameters
    ----------
    call
        Of an operator of :mod:`numguard.checks.slot_sums`, on the CPU, with its inputs still there. It is run four
        times on private tensors, once for each combination of operator, dtypes, shapes, strides and threads.

    Notes
    -----
    Among the hits of one slot stand 1, ``2**-20`` and -1, all others are zero: where any partial sum on the way is
    rounded to 16 bits, the result is less than ``2**-20``. The three stand in four different orders, so that neighbours
    and distant terms meet (the swamping test of FPRev, arXiv 2411.00442). Whatever the precision and the order, the
    result lies between 0 and ``2**-20``: a call that returns anything else loses terms, which no rounding excuses.
    """
    key = _key(call)
    if key not in _seen:
        try:
            _seen[key] = _observed(call)
        except (NotCovered, RuntimeError):  # torch refuses what it was never asked: nothing was seen
            _seen[key] = None
    return _seen[key]


def _key(call: OpCall) -> tuple[Any, ...]:
    facts: list[Any] = [call.op, torch.get_num_threads()]
    for name, value in call.arguments.items():
        tensors = value if isinstance(value, list | tuple) else (value,)
        for part in tensors:
            whole = isinstance(part, Tensor)
            facts.append((name, part.dtype, tuple(part.shape), part.stride()) if whole else (name, repr(part)))
    return tuple(facts)


def _source_of(call: OpCall) -> str | None:
    return next((name for name in _SOURCES if name in call.arguments), None)


def _observed(call: OpCall) -> bool | None:
    name = _source_of(call)
    if name is None or call.arguments[name].device.type != "cpu" or call.arguments[name].numel() > LARGEST:
        return None
    given = slot_sum_of(call, _EVERYTHING)
    if given.scale != 1 or given.averaged or given.source.dtype not in (torch.bfloat16, torch.float16):
        return None
    index = given.index.numpy()
    counts = np.bincount(index[index < given.num_slots], minlength=1)
    slot = int(counts.argmax())
    hits = np.flatnonzero(index == slot)
    if len(hits) < 3:
        return None
    last, middle = len(hits) - 1, len(hits) // 2
    orders = ((0, 1, last), (1, 0, last), (0, last, middle), (last, last - 1, 0))
    places = _places(call, name)
    answers = [_total(call, name, slot, places[torch.from_numpy(hits[list(order)])]) for order in orders]
    if any(answer is None for answer in answers):
        return None
    held = torch.cat([answer for answer in answers if answer is not None])
    lost = ~((held >= 0.0) & (held <= SMALL))
    return bool(lost.any()) or bool((held == SMALL).all())


def _places(call: OpCall, name: str) -> Tensor:
    """Return the flat places in the source that the rows and columns of a sum by slot are taken from, ``[n, C]``."""
    source = call.arguments[name]
    numbered = torch.arange(source.numel()).reshape(source.shape)
    return _sum_of(call, {**call.arguments, name: numbered}).source


def _total(call: OpCall, name: str, slot: int, places: Tensor) -> Tensor | None:
    """Return what a slot holds, ``[C]``, where three of its hits ``[3, C]`` are 1, :data:`SMALL` and -1."""
    source = call.arguments[name]
    if any(size > 1 and stride == 0 for size, stride in zip(source.shape, source.stride(), strict=True)):
        return None  # the same number stands in several places
    if len(set(places.reshape(-1).tolist())) != places.numel():
        return None
    numbers = torch.zeros(source.numel(), dtype=source.dtype)
    for row, value in zip(places, (1.0, SMALL, -1.0), strict=True):
        numbers[row] = value
    private = {
        key: torch.zeros_like(value) if key in ("self", "out") and isinstance(value, Tensor) else value
        for key, value in call.arguments.items()
    }
    private[name] = torch.empty_strided(source.shape, source.stride(), dtype=source.dtype)
    private[name].copy_(numbers.reshape(source.shape))
    result = _sum_of(call, private, call.overload(**private)).result
    assert result is not None
    return result[slot].double()


def _sum_of(call: OpCall, arguments: Mapping[str, Any], output: Any = None) -> SlotSum:
    return slot_sum_of(OpCall(overload=call.overload, arguments=arguments, output=output), _EVERYTHING)
