"""Every operator that adds rows to slots, as one sum ``base[s] + scale * sum of source[i] where index[i] == s``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks.check import Probe
from numguard.checks.overwritten_operands import is_overwritten
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import NotCovered

LARGEST_ADVANCED: Final = 1 << 24  # elements of a tensor whose positions are written out for a general index


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotSum:
    """One sum by slots, restricted to the columns that are checked.

    Parameters
    ----------
    num_slots
        S. An index of S means that the row is added nowhere.
    index
        ``[n]`` slot numbers, int64.
    source
        ``[n, C]`` in its own dtype.
    base
        ``[S, C]`` what the slots held before, or None for zero.
    result
        ``[S, C]``, or None before the operator ran.
    scale
        Factor of the source.
    averaged
        True where every slot is divided by its number of hits.
    keeps_base
        False where the base counts only in slots without a hit.
    form
        What decides the order in which an implementation adds; None where that order is not known.
    """

    num_slots: int
    index: Tensor
    source: Tensor
    base: Tensor | None
    result: Tensor | None
    scale: float = 1
    averaged: bool = False
    keeps_base: bool = True
    form: tuple[str, ...] | None = None


def _columns(tensors: Sequence[Tensor | None], rows: int, probe: Probe) -> list[Tensor | None]:
    """Return ``[rows, C]`` views or copies of tensors ``[rows, *rest]``, thinned along the longest of ``rest``."""
    sizes = next(tensor.shape[1:] for tensor in tensors if tensor is not None)
    cut: tuple[Any, ...] = ()
    if sizes:
        dim = max(range(len(sizes)), key=lambda number: sizes[number])
        others = sizes.numel() // max(1, sizes[dim])
        cut = (slice(None),) * (dim + 1) + (probe.rows(sizes[dim], rows * others),)
    return [None if x is None else x[cut].flatten(1) if cut else x.unsqueeze(-1) for x in tensors]


def _along(
    call: OpCall, base: Tensor | None, dim: int, index: Tensor, source: Tensor, probe: Probe, **options: Any
) -> SlotSum:
    """Return the sum of an operator that adds slices ``source[i]`` to slices of ``base`` along one dimension."""
    result = call.output
    if source.dim() == 0:
        source, base = source.reshape(1), None if base is None else base.reshape(1)
        result = None if result is None else result.reshape(1)
    source = source.movedim(dim, 0)
    base = None if base is None else base.movedim(dim, 0)
    result = None if result is None else result.detach().movedim(dim, 0)
    target = result if result is not None else base
    num_slots = options.pop("num_slots", None)
    if num_slots is None:
        num_slots = target.shape[0]  # type: ignore[union-attr]
    tensors = _columns((source.detach(), base, result), source.shape[0] + num_slots, probe)
    source, base, result = tensors  # type: ignore[assignment]
    return SlotSum(
        num_slots=num_slots, index=index.reshape(-1).to(torch.int64), source=source, base=base, result=result, **options
    )


def _index_add(call: OpCall, probe: Probe) -> SlotSum:
    own, dim = call["self"], call["dim"]
    form = ("index_add", str(max(1, own.dim())), str(dim % max(1, own.dim())))
    known = own.is_contiguous() and call["source"].is_contiguous()
    return _along(
        call, own.detach(), dim, call["index"], call["source"], probe, scale=call["alpha"], form=form if known else None
    )


def _embedding_gradient(call: OpCall, probe: Probe) -> SlotSum:
    grad, num_slots, padding = call["grad_output"], call["num_weights"], call["padding_idx"]
    index = call["indices"].reshape(-1)
    columns = probe.rows(grad.shape[-1], index.numel() + num_slots)
    result = None if call.output is None else call.output.detach()[:, columns]
    return SlotSum(
        num_slots=num_slots,
        index=torch.where(index == padding, num_slots, index).to(torch.int64),
        source=grad.detach().unsqueeze(0)[..., columns].flatten(0, -2),
        base=None,
        result=result,
        averaged=call["scale_grad_by_freq"],
        form=None if call["scale_grad_by_freq"] else ("embedding_dense_backward",),
    )


def flat_places(shape: Sequence[int], dim: int, index: Tensor) -> Tensor:
    """Return where ``index`` along ``dim``, and its own places along all others, lie in a contiguous tensor."""
    slots = torch.zeros((), dtype=torch.int64, device=index.device)
    stride = 1
    for number in reversed(range(len(shape))):
        own = [-1 if other == number else 1 for other in range(len(shape))]
        place = torch.arange(index.shape[number], device=index.device).reshape(own)
        slots = slots + (index if number == dim else place) * stride
        stride *= shape[number]
    return slots


def _scatter_add(call: OpCall, probe: Probe) -> SlotSum:
    own, index, source = call["self"].detach(), call["index"], call["src"].detach()
    if call.arguments.get("reduce", "sum") != "sum":
        raise NotCovered(f"scatter_reduce with reduce={call['reduce']!r}")
    result = None if call.output is None else call.output.detach()
    if own.dim() == 0:
        own, index, source = own.reshape(1), index.reshape(-1), source.reshape(-1)
        result = None if result is None else result.reshape(1)
    dim = call["dim"] % own.dim()
    source = source[tuple(slice(size) for size in index.shape)]
    others = [number for number in range(own.dim()) if number != dim]
    if others:
        longest = max(others, key=lambda number: index.shape[number])
        lines = index.numel() + own.shape[dim] * max(1, index.numel() // max(1, index.shape[dim]))
        taken = probe.rows(index.shape[longest], lines / max(1, index.shape[longest]))
        if taken != slice(None):
            cut = (slice(None),) * longest + (slice(taken.start, index.shape[longest], taken.step),)
            own, index, source = own[cut], index[cut], source[cut]
            result = None if result is None else result[cut]
    return SlotSum(
        num_slots=own.numel(),
        index=flat_places(own.shape, dim, index).reshape(-1),
        source=source.reshape(-1, 1),
        base=own.reshape(-1, 1),
        result=None if result is None else result.reshape(-1, 1),
        keeps_base=call.arguments.get("include_self", True),
    )


def _index_put(call: OpCall, probe: Probe) -> SlotSum:
    if not call["accumulate"]:
        raise NotCovered("index_put without accumulation: of several values for one place any may win")
    own, values, indices = call["self"], call["values"], list(call["indices"])
    given = [index for index in indices if index is not None]
    masks = any(index.dtype in (torch.bool, torch.uint8) for index in given)
    if masks and own.device.type != "cpu":
        raise NotCovered("boolean index on an accelerator")
    if len(given) == 1 and indices[0] is not None and not masks:
        index = indices[0]
        rows = values.expand(*index.shape, *own.shape[1:]).flatten(0, index.dim() - 1) if index.dim() else None
        if rows is not None:
            place = index.reshape(-1)
            place = torch.where(place < 0, place + own.shape[0], place)
            known = own.is_contiguous() and index.is_contiguous() and values.is_contiguous()
            known = known and values.numel() == rows.numel()
            form = ("index_put", str(own.dim()), str(index.dim())) if known else None
            return _along(call, own.detach(), 0, place, rows, probe, form=form)
    if own.numel() > LARGEST_ADVANCED:
        raise NotCovered("advanced index into a tensor of more than 2**24 elements")
    positions = torch.arange(own.numel(), device=own.device).reshape(own.shape)
    slots = torch.ops.aten.index(positions, indices)
    return SlotSum(
        num_slots=own.numel(),
        index=slots.reshape(-1),
        source=values.detach().expand(slots.shape).reshape(-1, 1),
        base=own.detach().reshape(-1, 1),
        result=None if call.output is None else call.output.detach().reshape(-1, 1),
    )


_FORMS: Final[dict[str, Callable[[OpCall, Probe], SlotSum]]] = {
    "index_add": _index_add,
    "embedding_dense_backward": _embedding_gradient,
    "scatter_add": _scatter_add,
    "scatter_reduce": _scatter_add,
    "index_put": _index_put,
    "_index_put_impl": _index_put,
    "_unsafe_index_put": _index_put,
}


def slot_sum_of(call: OpCall, probe: Probe) -> SlotSum:
    """Return the sum by slots that a call asks for, restricted to the columns within the probe's limit.

    Raises
    ------
    NotCovered
        For complex, boolean and sparse tensors, other reductions than sums, and overwriting ``index_put``.
    """
    for value in call.arguments.values():
        if isinstance(value, Tensor) and (value.dtype.is_complex or value.layout != torch.strided):
            raise NotCovered("complex or sparse tensors")
    summed = _FORMS[call.op.removeprefix("aten::").partition(".")[0].rstrip("_")](call, probe)
    if summed.source.dtype == torch.bool:
        raise NotCovered("sums of booleans")
    return summed


def overwritten_base(call: OpCall, probe: Probe) -> Tensor | None:
    """Return a copy of the part of ``self`` that is checked, where the operator is about to overwrite it."""
    own = call.arguments.get("self")
    if not isinstance(own, Tensor) or not own.numel() or not is_overwritten(call):
        return None
    try:
        base = slot_sum_of(call, probe).base
    except NotCovered:
        return None  # judge says so again
    return None if base is None else base.clone()
