"""The two exchanges around a collective: every rank takes part in both, whatever it finds."""

import logging
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from numguard.backends.checksum import replica_checksum
from numguard.collectives.conclusion import OP, Afterword, ExaminedCall, compare_headers, conclude
from numguard.inquiry import Inquiry, active_guard
from numguard.interception.sites import Site
from numguard.ranks.reduction_records import HEADER, RECORD, Plan, operation_name, plan_of, record_of
from numguard.ranks.reduction_verdicts import Judged, classes_of, judge_blocks, judge_samples
from numguard.session.run import Run
from numguard.venue import Venue, present_venue

log = logging.getLogger("numguard")

_calls: "weakref.WeakKeyDictionary[Any, int]" = weakref.WeakKeyDictionary()
_sites: "weakref.WeakKeyDictionary[Any, dict[tuple[object, ...], Site]]" = weakref.WeakKeyDictionary()


def is_examinable(tensor: Any, group: Any, async_op: bool) -> bool:
    """Return whether a call can be examined: a function of what is the same on all ranks.

    What torch refuses is left to torch. Inside a coalescing block nothing is reduced when the call returns.
    """
    if async_op or not dist.is_available() or not dist.is_initialized():
        return False
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout is not torch.strided or tensor.is_quantized:
        return False
    if tensor.device.type == "meta":
        return False
    try:
        return dist.get_rank(group) >= 0 and _process_group(group) not in dist.distributed_c10d._world.pg_coalesce_state
    except Exception:  # no group that torch knows: it says so itself
        return False


def _process_group(group: Any) -> Any:
    return dist.group.WORLD if group is None else group


def _present() -> tuple[Run, int] | None:
    guard = active_guard()
    return guard.present() if guard is not None else None


def skip(reason: str) -> None:
    """Count a call that is passed on unexamined where a guard is present."""
    present = _present()
    if present is not None:
        present[0].inspector.uncovered[f"all_reduce: {reason}"] += 1


def examine(
    call: Callable[[], Any], tensor: Tensor, op: Any, group: Any, inquiry: Inquiry, settle: Callable[[], None]
) -> Any:
    """Run an ``all_reduce`` between two exchanges of notes, and enter what is wrong.

    Parameters
    ----------
    call
        The collective itself; what it raises passes through.
    tensor, op, group
        Its arguments.
    inquiry
        Takes the findings where no guard is present.
    settle
        Called after each exchange; may raise what was entered.

    Notes
    -----
    Both exchanges are ``all_gather`` of a fixed length in the same group: every rank takes part in both whatever it
    finds, and one that fails to take its notes says so in them.
    """
    notes = _fenced(lambda: _before(tensor, op, group, inquiry), inquiry)
    settle()
    result = call()
    if notes is not None:
        _fenced(lambda: _after(tensor, group, *notes), inquiry)
    settle()
    return result


def _fenced(function: Callable[[], Any], inquiry: Inquiry) -> Any:
    """Return a result, or None after an error of numguard's own, which is reported and never reaches the caller."""
    try:
        with torch.no_grad(), _disable_current_modes():
            return function()
    except Exception as error:
        try:
            present = _present()
            if present is not None:
                present[0].health.fault("all_reduce", error)
            else:
                what = f"an all_reduce was not examined: {type(error).__name__}: {str(error)[:200]}"
                inquiry.degrade("all_reduce", what, "The collective's own result was used.")
        except Exception:
            log.exception("numguard failed twice; the collective's own result stands")
    return None


def _gathered(own: Tensor, num_ranks: int, group: Any) -> Tensor:
    parts = [torch.empty_like(own) for _ in range(num_ranks)]
    dist.all_gather(parts, own, group=group)
    return torch.stack(parts)


def _before(tensor: Tensor, op: Any, group: Any, inquiry: Inquiry) -> tuple[ExaminedCall, Tensor, Tensor]:
    """Return the call, the notes of this rank, and those of all ranks."""
    process_group = _process_group(group)
    number = _calls[process_group] = _calls.get(process_group, 0) + 1
    plan = plan_of(tensor, operation_name(op), number)
    examined = _opened(tensor, process_group, inquiry, plan)
    with examined.venue.clock():
        try:
            own = record_of(tensor, plan)
        except Exception as error:  # the other ranks wait for our notes
            log.debug("numguard: no notes of a tensor", exc_info=error)
            own = torch.zeros(RECORD, dtype=torch.float64, device=tensor.device)
        records = _gathered(own, len(examined.ranks), group)
        headers = records[:, :HEADER].reshape(-1)
        examined.post(headers, lambda numbers: compare_headers(examined, numbers))
    return examined, own, records


def _opened(tensor: Tensor, process_group: Any, inquiry: Inquiry, plan: Plan) -> ExaminedCall:
    present = present_venue(inquiry)
    venue = Venue(run=None, step=0, inquiry=inquiry) if present is None else present
    origin, dtype = venue.origin(), str(plan.dtype)[6:]
    sites = _sites.setdefault(inquiry if venue.run is None else venue.run, {})
    key = (origin.phase, origin.module, origin.location, dtype)
    site = sites.get(key)
    if site is None:
        func = torch.ops.c10d.allreduce_.default
        site = sites[key] = Site(func=func, op=OP, checks=("all_reduce",), origin=origin, dtype=dtype, shape="")
    return ExaminedCall(
        plan=plan,
        ranks=dist.get_process_group_ranks(process_group),
        venue=venue,
        is_seen=present is not None,
        origin=origin,
        site=site,
        shape=list(tensor.shape),
    )


def _after(tensor: Tensor, group: Any, examined: ExaminedCall, own: Tensor, records: Tensor) -> None:
    with examined.venue.clock():
        judged: list[Judged] = []
        try:
            if examined.plan.is_judged and examined.plan.num_elements:
                judged = [judge(tensor, records, examined.plan) for judge in (judge_samples, judge_blocks)]
            word = _afterword(tensor, own, records, judged, examined.ranks.index(dist.get_rank()))
        except Exception as error:  # the other ranks wait for our word
            log.debug("numguard: no verdict on an all_reduce", exc_info=error)
            word = torch.zeros(len(Afterword._fields), dtype=torch.int64, device=tensor.device)
        said = Afterword(*_gathered(word, len(examined.ranks), group).unbind(1))
        said = said._replace(result=classes_of(said.result), records=classes_of(said.records))
        columns = [column.to(torch.float64) for column in said]
        vectors = [vector for each in judged for vector in each]
        examined.post(torch.cat([*columns, *vectors]), lambda numbers: conclude(examined, numbers))


def _afterword(tensor: Tensor, own: Tensor, records: Tensor, judged: list[Judged], place: int) -> Tensor:
    came_back = (records[place].view(torch.int64) == own.view(torch.int64)).all()
    wrong = torch.zeros_like(came_back)
    for each in judged:
        wrong = wrong | each.is_wrong
    result, notes = (replica_checksum([x.detach()])[0].to(tensor.device) for x in (tensor, records))
    word = Afterword(torch.ones_like(came_back), result, notes, came_back, wrong)
    return torch.stack([number.to(torch.int64) for number in word])
