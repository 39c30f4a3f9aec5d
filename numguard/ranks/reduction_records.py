"""What every rank notes of a tensor before it is reduced over ranks: a few elements, and sums over blocks.

The notes of all ranks have the same length whatever the tensor, so that exchanging them is the same small collective
everywhere, and ranks that call with different tensors can be told.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

NUM_SAMPLES: Final = 64
NUM_BLOCKS: Final = 64
DTYPES: Final = (
    *(torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
OPERATIONS: Final = ("SUM", "AVG", "MIN", "MAX", "PRODUCT", "BAND", "BOR", "BXOR", "PREMUL_SUM")
#: Elements that are widened to float64 at a time: what a processor's cache holds, what an accelerator is busy with.
_SLAB: Final = 1 << 16
_ACCELERATOR_SLAB: Final = 1 << 22


class Header(NamedTuple):
    """What has to be the same on all ranks; ``intact`` is 0 where a rank could take no notes."""

    intact: float
    call: float
    dtype: float
    num_elements: float
    operation: float


HEADER: Final = len(Header._fields)
RECORD: Final = HEADER + NUM_SAMPLES + 3 * NUM_BLOCKS


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Which elements and blocks of a tensor are looked at: a pure function of its size and the number of the call.

    Parameters
    ----------
    call
        Number of the call within its process group; draws the positions.
    operation
        One of :data:`OPERATIONS`.
    dtype, num_elements
        Of the tensor.
    positions
        Sampled elements, counted row-major; all of them where there are few.
    width
        Elements of a block; the last may be shorter.
    """

    call: int
    operation: str
    dtype: torch.dtype
    num_elements: int
    positions: tuple[int, ...]
    width: int

    @property
    def num_blocks(self) -> int:
        """Number of blocks, at most :data:`NUM_BLOCKS`."""
        return -(-self.num_elements // self.width) if self.num_elements else 0

    @property
    def height(self) -> int:
        """Additions that an element of a block passes through, at most."""
        inner = _inner(self.width)
        return inner + -(-self.width // inner) - 2

    @property
    def is_judged(self) -> bool:
        """Whether the numbers are bounded, and not only compared between ranks."""
        return self.operation in ("SUM", "AVG", "MIN", "MAX") and self.dtype in DTYPES[:4]


def operation_name(op: Any) -> str:
    """Return the name of a ``ReduceOp``, or an empty string for one that is not known."""
    known = torch.distributed.ReduceOp
    return next((name for name in OPERATIONS if op == getattr(known, name, None)), "")


def plan_of(tensor: Tensor, operation: str, call: int) -> Plan:
    """Return the plan of a call; a function of arguments that are equal on all ranks."""
    size = tensor.numel()
    draw = random.Random(call)
    positions = range(size) if size <= NUM_SAMPLES else [draw.randrange(size) for _ in range(NUM_SAMPLES)]
    width = max(1, -(-size // NUM_BLOCKS))
    inner = _inner(width)
    return Plan(
        call=call,
        operation=operation,
        dtype=tensor.dtype,
        num_elements=size,
        positions=tuple(positions),
        width=-(-width // inner) * inner,
    )


def _inner(width: int) -> int:
    return max(1, math.isqrt(width))


class BlockNotes(NamedTuple):
    """Float64 numbers of each block: the sum (or the extremum, where that is reduced), sum|x| and max|x|."""

    value: Tensor
    absolute: Tensor
    largest: Tensor


def sampled_elements(tensor: Tensor, plan: Plan) -> Tensor:
    """Return the sampled elements in their own dtype, by their row-major positions whatever the strides."""
    places = torch.tensor(plan.positions, dtype=torch.int64, device=tensor.device)
    source = tensor.detach() if tensor.dim() else tensor.detach().reshape(1)
    return source[torch.unravel_index(places, source.shape)]


def notes_of_blocks(tensor: Tensor, plan: Plan) -> BlockNotes:
    """Return the notes of every block of row-major elements, of which there is at least one.

    Notes
    -----
    Every sum goes through two levels of at most about ``sqrt(width)`` terms, in float64: its error is at most
    ``height * 2**-53 * sum|x|`` (Higham, ASNA 2nd ed., section 4.2).
    """
    parts = []
    for slab in _slabs(tensor, plan):
        value = _values(slab, plan)
        magnitudes = slab.abs_()
        parts.append((value, _row_sums(magnitudes, plan), magnitudes.amax(1)))
    return BlockNotes(*(torch.cat(column) for column in zip(*parts, strict=True)))


def values_of_blocks(tensor: Tensor, plan: Plan) -> Tensor:
    """Return the first of the notes alone: the sum of every block, or its extremum."""
    return torch.cat([_values(slab, plan) for slab in _slabs(tensor, plan)])


def _slabs(tensor: Tensor, plan: Plan) -> Iterator[Tensor]:
    """Yield copies of some blocks at a time in float64, ``[blocks, width]``; the last may be shorter."""
    flat = tensor.detach().reshape(-1)
    whole = flat.numel() // plan.width * plan.width
    rows = max(1, (_SLAB if tensor.device.type == "cpu" else _ACCELERATOR_SLAB) // plan.width)
    body = flat[:whole].view(-1, plan.width)
    for start in range(0, len(body), rows):
        yield body[start : start + rows].to(torch.float64, copy=True)
    if whole < flat.numel():
        yield flat[whole:].unsqueeze(0).to(torch.float64, copy=True)


def _values(slab: Tensor, plan: Plan) -> Tensor:
    extremum = {"MIN": slab.amin, "MAX": slab.amax}.get(plan.operation)
    return extremum(1) if extremum is not None else _row_sums(slab, plan)


def _row_sums(rows: Tensor, plan: Plan) -> Tensor:
    inner = _inner(plan.width)
    short = -rows.shape[1] % inner
    if short:
        rows = torch.nn.functional.pad(rows, (0, short))
    return rows.reshape(len(rows), -1, inner).sum(2).sum(1)


def record_of(tensor: Tensor, plan: Plan) -> Tensor:
    """Return the notes of this rank as a float64 vector of :data:`RECORD` numbers on the tensor's device."""
    header = Header(
        intact=1.0,
        call=plan.call,
        dtype=DTYPES.index(plan.dtype) if plan.dtype in DTYPES else len(DTYPES),
        num_elements=plan.num_elements,
        operation=OPERATIONS.index(plan.operation) if plan.operation else len(OPERATIONS),
    )
    record = torch.zeros(RECORD, dtype=torch.float64, device=tensor.device)
    record[:HEADER] = torch.tensor(header, dtype=torch.float64, device=tensor.device)
    if plan.is_judged and plan.num_elements:
        record[HEADER : HEADER + len(plan.positions)] = sampled_elements(tensor, plan).to(torch.float64)
        for place, column in enumerate(notes_of_blocks(tensor, plan)):
            start = HEADER + NUM_SAMPLES + place * NUM_BLOCKS
            record[start : start + plan.num_blocks] = column
    return record


def samples_in(records: Tensor, plan: Plan) -> Tensor:
    """Return the sampled elements of all ranks, ``[ranks, samples]``."""
    return records[:, HEADER : HEADER + len(plan.positions)]


def blocks_in(records: Tensor, plan: Plan) -> BlockNotes:
    """Return the notes on blocks of all ranks, each ``[ranks, blocks]``."""
    starts = [HEADER + NUM_SAMPLES + place * NUM_BLOCKS for place in range(3)]
    return BlockNotes(*(records[:, start : start + plan.num_blocks] for start in starts))
