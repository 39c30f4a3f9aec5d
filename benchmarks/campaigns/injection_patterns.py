"""What goes wrong in a kernel: each pattern proposes wrong results of one call, small and large."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from benchmarks.campaigns.injection_sites import BLOCK, Site
from numguard.testing import KernelCall

Results = tuple[Tensor, ...]

MOST_RESULTS: Final = 3  # of a call that a fault in the output is tried in
NUM_PLACES: Final = 28  # tried for each pattern, from the smallest element to the largest

#: Narrower accumulator that a kernel may have been built with; 16-bit dtypes accumulate in themselves.
STORAGE: Final = {
    torch.float64: torch.float32,
    torch.float32: torch.bfloat16,
    torch.bfloat16: torch.bfloat16,
    torch.float16: torch.float16,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What a pattern may use.

    Parameters
    ----------
    call
        The call, with its right result.
    site
        Where it is.
    stale
        Results of the same call one step before; empty where there are none.
    judged
        Positions of the results that some check looks at.
    random
        Seeded by the case alone, so that the same call goes wrong in the same way each time.
    """

    call: KernelCall
    site: Site
    stale: Results
    judged: Sequence[int]
    random: np.random.Generator


Pattern = Callable[[Situation], Iterator[Results]]


def _ranked(values: Tensor, random: np.random.Generator) -> list[int]:
    """Return flat places from the smallest magnitude to the largest, evenly in the rank's logarithm, and others."""
    magnitude = values.detach().double().abs().reshape(-1).numpy()
    order = np.argsort(magnitude, kind="stable")
    order = order[magnitude[order] > 0.0]
    if not order.size:
        return []
    ranks = np.unique(np.geomspace(1, order.size, NUM_PLACES // 2).astype(int)) - 1
    others = random.integers(0, order.size, NUM_PLACES // 2)
    return [int(order[rank]) for rank in (*ranks, *others)]


def _inputs(situation: Situation) -> Iterator[tuple[str, int | None, Tensor]]:
    """Return the tensors whose elements may be lost, with the argument and the position in its list."""
    names = list(situation.site.primary)
    situation.random.shuffle(names)
    for name in names:
        value = situation.call.before[name]
        if isinstance(value, Tensor):
            yield name, None, value
        else:
            yield from ((name, position, tensor) for position, tensor in enumerate(value))


def _with_input(change: Callable[[Tensor, int, Situation], None], block: int = 1) -> Pattern:
    """Return a pattern in which the kernel reads some elements of an input wrongly."""

    def pattern(situation: Situation) -> Iterator[Results]:
        for name, position, tensor in _inputs(situation):
            for place in _ranked(tensor, situation.random):
                wrong = tensor.detach().clone(memory_format=torch.contiguous_format)
                flat = wrong.view(-1)
                first = place - place % BLOCK if block > 1 else place
                for index in range(first, min(first + block, flat.numel())):
                    change(flat, index, situation)
                changed: Tensor | list[Tensor] = wrong
                if position is not None:
                    changed = list(situation.call.before[name])
                    changed[position] = wrong
                yield situation.call.rerun({name: changed})

    return pattern


def _drop(flat: Tensor, place: int, situation: Situation) -> None:
    flat[place] = situation.site.neutral


def _double(flat: Tensor, place: int, situation: Situation) -> None:
    neutral = situation.site.neutral
    if neutral == 1.0:
        flat[place] *= flat[place]
    elif neutral == 0.0:
        flat[place] *= 2.0
    else:  # twice the weight of an exponential
        flat[place] += 0.6931471805599453


def _misread(flat: Tensor, place: int, situation: Situation) -> None:
    """Read the next element of memory, as with a stride of one too many; a block of them moves up in order."""
    flat[place] = flat[(place + 1) % flat.numel()]


def _copies(results: Results) -> list[Tensor]:
    return [result.detach().clone(memory_format=torch.contiguous_format) for result in results]


def _some_results(situation: Situation) -> list[int]:
    """Return a few of the results that are judged: an optimizer has one for every tensor of the model."""
    return [int(position) for position in situation.random.permutation(situation.judged)[:MOST_RESULTS]]


def _stale(situation: Situation) -> Iterator[Results]:
    """An element or a block that was not written: it holds the step before, or its neighbour in memory."""
    right = situation.call.results
    for position in _some_results(situation):
        result = right[position].reshape(-1)
        old = result.roll(1)
        if len(situation.stale) == len(right) and situation.stale[position].shape == right[position].shape:
            old = situation.stale[position].reshape(-1)
        for place in _ranked(old.double() - result.double(), situation.random):
            for block in (1, BLOCK):
                wrong = _copies(right)
                wrong[position].view(-1)[place : place + block] = old[place : place + block]
                yield tuple(wrong)


def _flipped(situation: Situation) -> Iterator[Results]:
    right = situation.call.results
    for position in _some_results(situation):
        bits = torch.finfo(right[position].dtype).bits
        integer = {16: torch.int16, 32: torch.int32, 64: torch.int64}[bits]
        for place in _ranked(right[position], situation.random)[::3]:
            for bit in range(0, bits - 1, max(1, bits // 20)):
                wrong = _copies(right)
                wrong[position].view(-1).view(integer)[place] ^= 1 << bit
                yield tuple(wrong)


def _nan(situation: Situation) -> Iterator[Results]:
    position = int(situation.random.choice(np.array(situation.judged)))
    wrong = _copies(situation.call.results)
    wrong[position].view(-1)[int(situation.random.integers(wrong[position].numel()))] = torch.nan
    yield tuple(wrong)


# accumulation in the storage dtype -------------------------------------------------------------------------------


def _added(terms: Tensor, dim: int, dtype: torch.dtype, storage: torch.dtype) -> Tensor:
    """Add along one dimension, one term after the other, storing every partial sum."""
    total = torch.zeros_like(terms.select(dim, 0), dtype=storage)
    for term in terms.unbind(dim):
        total = (total + term).to(storage)
    return total.to(dtype)


def _narrow_total(call: KernelCall, storage: torch.dtype) -> Tensor:
    x, dims = call.before["self"].detach(), call.before.get("dim") or range(call.before["self"].dim())
    kept = [dim for dim in range(x.dim()) if dim not in {d % x.dim() for d in dims}]
    rows = x.permute(*kept, *(d % x.dim() for d in dims)).reshape(*(x.shape[d] for d in kept), -1)
    total = _added(rows, -1, x.dtype, storage)
    return total.reshape(call.results[0].shape)


def _narrow_mean(call: KernelCall, storage: torch.dtype) -> Tensor:
    count = call.before["self"].numel() // call.results[0].numel()
    mean: Tensor = _narrow_total(call, storage) / count
    return mean


def _narrow_product(call: KernelCall, storage: torch.dtype) -> Tensor:
    left, right = (call.before[name].detach() for name in _factors(call))
    total = torch.zeros(call.results[0].shape, dtype=storage)
    if "beta" in call.before:
        total = (total + call.before["self"].detach()).to(storage)
    for k in range(left.shape[-1]):
        total = (total + left[..., k : k + 1] * right[..., k : k + 1, :]).to(storage)
    product: Tensor = total.to(left.dtype)
    return product


def _factors(call: KernelCall) -> tuple[str, str]:
    return ("mat1", "mat2") if "mat1" in call.before else ("self", "mat2")


def _narrow_norm(call: KernelCall, storage: torch.dtype) -> Tensor:
    x = call.before["self"].detach()
    return _added((x * x).to(storage), -1, storage, storage).sqrt().to(x.dtype)


def _narrow_prefixes(call: KernelCall, storage: torch.dtype) -> Tensor:
    x, total, prefixes = call.before["self"].detach(), None, []
    for term in x.unbind(call.before["dim"]):
        total = term.to(storage) if total is None else (total + term).to(storage)
        prefixes.append(total.to(x.dtype))
    return torch.stack(prefixes, dim=call.before["dim"])


_NARROW: Final[Mapping[str, Callable[[KernelCall, torch.dtype], Tensor]]] = {
    "sum": _narrow_total,
    "mean": _narrow_mean,
    "mm": _narrow_product,
    "bmm": _narrow_product,
    "addmm": _narrow_product,
    "linalg_vector_norm": _narrow_norm,
    "cumsum": _narrow_prefixes,
}


def _operator(op: str) -> str:
    return op.removeprefix("aten::").partition(".")[0]


def _narrow(situation: Situation) -> Iterator[Results]:
    call = situation.call
    yield (_NARROW[_operator(situation.site.op)](call, STORAGE[call.results[0].dtype]),)


#: Every pattern by name.
PATTERNS: Final[Mapping[str, Pattern]] = {
    "dropped element": _with_input(_drop),
    "doubled element": _with_input(_double),
    "dropped block": _with_input(_drop, BLOCK),
    "doubled block": _with_input(_double, BLOCK),
    "wrong stride": _with_input(_misread, BLOCK - 1),
    "stale value": _stale,
    "flipped bit": _flipped,
    "storage accumulation": _narrow,
    "NaN": _nan,
}

#: Where nothing is added, and where the only number added to is one.
_SENSELESS: Final = {
    "embedding": ("dropped element", "doubled element", "dropped block", "doubled block"),
    "nll_loss_backward": ("dropped block", "doubled block", "wrong stride"),
}


def patterns_of(site: Site) -> list[str]:
    """Return the patterns that make sense at a site."""
    names = [name for name in PATTERNS if name != "storage accumulation" or _operator(site.op) in _NARROW]
    return [name for name in names if name not in _SENSELESS.get(_operator(site.op), ())]
