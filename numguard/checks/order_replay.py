"""Sums by slot repeated in the order of the rows, in the dtype of the result, to be compared bit for bit.

Where this build stores a 16-bit result after every addition, no bound is of use: ``k`` hits may lose ``k`` roundings
of the output dtype. Repeating the same additions shows every lost or doubled row. The replay is trusted only for the
forms of operators on which it has reproduced this build bit for bit, on private data, once per process.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

MOST_HITS: Final = 4096  # additions in sequence that are worth repeating
STEP_COST: Final = 1024  # elements that could be read in the time of one step

aten = torch.ops.aten


class Replay(NamedTuple):
    """Slot numbers ``[m]`` and what they hold after the replay ``[m, C]``."""

    slots: Tensor
    value: Tensor


def replay(num_slots: int, index: Tensor, source: Tensor, base: Tensor | None, limit: float) -> Replay | None:
    """Add the rows of ``source`` to their slots one after the other, in their own dtype.

    Parameters
    ----------
    num_slots, index, source, base
        As in :class:`numguard.checks.slot_sums.SlotSum`, on the CPU.
    limit
        Elements that may be read. Slots with the most hits that it allows are replayed.

    Returns
    -------
    Replay or None
        None where no slot with two hits is within the limit.
    """
    numbers = index.numpy()
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(num_slots + 1))
    hits = np.diff(starts)
    most = min(float(MOST_HITS), limit / STEP_COST)
    chosen = np.flatnonzero((hits >= 2) & (hits <= most))
    chosen = chosen[np.argsort(-hits[chosen], kind="stable")]
    chosen = chosen[: int(np.searchsorted(np.cumsum(hits[chosen]) * source.shape[1], limit, side="right"))]
    if not chosen.size:
        return None
    slots = torch.from_numpy(chosen)
    shape = (len(chosen), source.shape[1])
    value = torch.zeros(shape, dtype=source.dtype) if base is None else base[slots].clone()
    counts, first = hits[chosen], starts[:-1][chosen]
    for step in range(int(counts[0])):
        active = int(np.searchsorted(-counts, -step, side="left"))
        value[:active] += source[torch.from_numpy(order[first[:active] + step])]
    return Replay(slots, value)


def _private(dtype: torch.dtype, *shape: int) -> Tensor:
    generator = np.random.default_rng(20010)
    return torch.from_numpy(generator.standard_normal(shape)).to(dtype)


def _slots(count: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(7).integers(0, count, shape))


def _try_embedding(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    index, source = _slots(5, 400), _private(dtype, 400, 9)
    zero = torch.zeros(5, 9, dtype=dtype)
    return index, source, zero, aten.embedding_dense_backward(source, index, 5, -1, False)


def _try_index_add(dtype: torch.dtype, rank: str, dim: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    place = int(dim)
    shape = [3] * int(rank)
    shape[place] = 5
    base = _private(dtype, *shape)
    shape[place] = 400
    index, source = _slots(5, 400), _private(dtype, *shape)
    result = aten.index_add(base, place, index, source)
    flat = (x.movedim(place, 0).reshape(x.shape[place], -1) for x in (source, base, result))
    return index, *flat  # type: ignore[return-value]


def _try_index_put(dtype: torch.dtype, rank: str, index_rank: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rest = (3,) * (int(rank) - 1)
    leading = (2,) * (int(index_rank) - 1) + (200,)
    index, base, values = _slots(5, *leading), _private(dtype, 5, *rest), _private(dtype, *leading, *rest)
    result = aten.index_put(base, [index], values, True)
    return index.reshape(-1), values.reshape(index.numel(), -1), base.reshape(5, -1), result.reshape(5, -1)


def _try_segments(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    source, lengths = _private(dtype, 400), torch.tensor([150, 1, 249])
    index = torch.repeat_interleave(torch.arange(3), lengths)
    result = aten.segment_reduce(source, "sum", lengths=lengths)
    return index, source.unsqueeze(1), torch.zeros(3, 1, dtype=dtype), result.unsqueeze(1)


_TRIALS: Final[dict[str, Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]]] = {
    "embedding_dense_backward": _try_embedding,
    "index_add": _try_index_add,
    "index_put": _try_index_put,
    "segment_reduce": _try_segments,
}


@cache
def reproduces(form: tuple[str, ...], dtype: torch.dtype) -> bool:
    """Tell whether the replay gives the bits of this build for a form of operator and a dtype, on private data.

    Parameters
    ----------
    form
        Name of the operator and what else decides its order: ranks and dimension.
    dtype
        Dtype of source and result.
    """
    details: tuple[Any, ...] = form[1:]
    index, source, base, result = _TRIALS[form[0]](dtype, *details)
    again = replay(base.shape[0], index, source, base, float("inf"))
    return again is not None and bool(torch.equal(again.value, result[again.slots]))
