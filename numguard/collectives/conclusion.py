"""What is said of one examined collective, on the host, once the notes of all ranks are there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from torch import Tensor

from numguard.interception.attribution import Origin
from numguard.interception.observation import Observation
from numguard.interception.sites import Site
from numguard.ranks.reduction_records import DTYPES, HEADER, OPERATIONS, Header, Plan
from numguard.ranks.reduction_verdicts import exact_again, named_ranks, who_differs
from numguard.shadow.verdict import WIDTH, Verdict
from numguard.venue import Venue

OP: Final = "c10d::all_reduce"
_WRONG_SUM: Final = (
    "Reduce a contiguous copy in float32 and compare: if that is right, give the collective contiguous tensors, of the "
    "same layout on all ranks; if not, test the network and the hosts of this group."
)
_NOT_ALIKE: Final = (
    "The replicas are apart from here on: restart from a checkpoint before this step, look for ranks that call with "
    "other strides, and test the network and the hosts that are named."
)
_OTHER_CALL: Final = "Look for code that depends on the rank before this call: all ranks must reduce the same tensor."
_TRANSPORT: Final = "Nothing was said about the user's tensor. Test the network and the hosts of this group."


class Afterword(NamedTuple):
    """What a rank says after the collective; the columns of what all ranks said.

    Attributes
    ----------
    intact
        1 unless the rank could not look at its result.
    result, records
        Checksums of the reduced tensor and of the notes of all ranks; once gathered, the first rank with the same.
    own_came_back
        1 where the rank's own notes came back to it with the bits that it had sent.
    is_wrong
        1 where the result of the rank lies outside the bound.
    """

    intact: Any
    result: Any
    records: Any
    own_came_back: Any
    is_wrong: Any


@dataclass(kw_only=True, slots=True)
class ExaminedCall:
    """One call that is being examined, from before the collective until it is judged.

    Parameters
    ----------
    plan
        What is looked at.
    ranks
        Global numbers of the ranks of the group.
    venue
        Where what is found goes.
    is_seen
        False under a guard that looks away: the ranks keep in step, and nothing is said.
    origin, site, shape
        Of the call.
    is_comparable
        True once all ranks were seen to call with the same arguments and to have taken notes.
    """

    plan: Plan
    ranks: list[int]
    venue: Venue
    is_seen: bool
    origin: Origin
    site: Site
    shape: list[int]
    is_comparable: bool = False

    def post(self, vector: Tensor, deliver: Callable[[list[float]], None]) -> None:
        """Hand over numbers that are read when they have arrived, where anything is to be said."""
        if self.is_seen:
            self.venue.post(vector, deliver)

    def uncovered(self, reason: str) -> None:
        """Count a call of which nothing, or not everything, could be said."""
        if self.venue.run is not None:
            self.venue.run.inspector.uncovered[f"all_reduce: {reason}"] += 1

    def enter(self, what: str, message: str, advice: str, op: str = OP, **evidence: Any) -> None:
        """Enter ranks that do not agree."""
        origin, in_run = self.origin, self.venue.run is not None
        place = f" in {origin.module}" if origin.module else ""
        line = f" ({origin.location})" if origin.location else ""
        facts = {"dtype": self.site.dtype, "shape": self.shape, "operation": self.plan.operation, "ranks": self.ranks}
        self.venue.enter(
            "collective_mismatch",
            (op, what, origin.module, origin.location),
            proof="exact",
            model="proved",
            confirmed="exact",
            first_caught_step=self.venue.step if in_run else None,
            last_clean_step=self.site.last_clean_step if in_run else None,
            phase=origin.phase,
            op=op,
            module=origin.module,
            location=origin.location,
            message=f"{message}{place}{line}, {origin.phase}.",
            advice=advice,
            evidence=facts | {"what": what} | evidence,
        )


def compare_headers(examined: ExaminedCall, numbers: Sequence[float]) -> None:
    """Enter ranks whose calls are not the same; nothing more can be said of such a call."""
    headers = [Header(*numbers[start : start + HEADER]) for start in range(0, len(numbers), HEADER)]
    told = [header for header in headers if header.intact]
    examined.is_comparable = len(set(headers)) == 1 and len(told) == len(headers)
    if len({header._replace(call=0.0) for header in told}) > 1:
        calls = [_described(header) for header in headers]
        who = who_differs([float(calls.index(each)) for each in calls], examined.ranks)
        examined.enter(
            "arguments",
            f"{OP} was called with different arguments ({'; '.join(sorted(set(calls)))}): {who}",
            _OTHER_CALL,
            arguments=dict(zip(map(str, examined.ranks), calls, strict=True)),
        )
    elif not examined.is_comparable:
        all_told = len(told) == len(headers)
        examined.uncovered("ranks count their calls differently" if all_told else "a rank could take no notes")


def _described(header: Header) -> str:
    if not header.intact:
        return "not known"
    dtype = str(DTYPES[int(header.dtype)])[6:] if header.dtype < len(DTYPES) else "another dtype"
    operation = OPERATIONS[int(header.operation)] if header.operation < len(OPERATIONS) else "another operation"
    return f"{operation} of {int(header.num_elements)} elements of {dtype}"


def conclude(examined: ExaminedCall, numbers: Sequence[float]) -> None:
    """Enter what is wrong with one call, given the columns of an :class:`Afterword` and the two verdicts."""
    if not examined.is_comparable:
        return
    num_ranks, width = len(examined.ranks), len(Afterword._fields)
    said = Afterword(*(numbers[place * num_ranks : (place + 1) * num_ranks] for place in range(width)))
    if not all(said.intact):
        examined.uncovered("a rank could not look at its result")
        return
    if len(set(said.records)) > 1 or not all(said.own_came_back):
        _enter_transport(examined, said)
        return
    alike = len(set(said.result)) == 1
    if not alike:
        _enter_difference(examined, said)
    wrong = _judge(examined, numbers[width * num_ranks :])
    if wrong is None:
        what = f"{examined.plan.operation or 'an operation'} of {examined.site.dtype}"
        examined.uncovered(f"{what} is only compared between ranks")
    elif alike and not wrong:
        examined.site.last_clean_step = examined.venue.step
    examined.site.num_checked += 1


def _enter_transport(examined: ExaminedCall, said: Afterword) -> None:
    changed = [rank for rank, same in zip(examined.ranks, said.own_came_back, strict=True) if not same]
    who = f"what it had sent came back changed to {named_ranks(changed)}"
    if len(set(said.records)) > 1:
        who = who_differs(said.records, examined.ranks)
    message = f"c10d::all_gather of numguard's own notes did not bring all ranks what was sent: {who}"
    examined.enter("notes", message, _TRANSPORT, op="c10d::all_gather")


def _enter_difference(examined: ExaminedCall, said: Afterword) -> None:
    outside = [rank for rank, wrong in zip(examined.ranks, said.is_wrong, strict=True) if wrong]
    proved = f"; the result is outside the bound on {named_ranks(outside)}" if outside else ""
    examined.enter(
        "result",
        f"{OP} left different bits on the ranks: {who_differs(said.result, examined.ranks)}{proved}",
        _NOT_ALIKE,
        ranks_outside_the_bound=outside,
    )


def _judge(examined: ExaminedCall, numbers: Sequence[float]) -> bool | None:
    """Enter wrong elements, else wrong blocks; return whether there are any, or None where they were not judged."""
    plan, size = examined.plan, WIDTH + len(examined.ranks)
    if not plan.is_judged:
        return None
    of_block = "sum of block" if plan.operation in ("SUM", "AVG") else "extremum of block"
    for start, output in zip(range(0, len(numbers), size), ("result", of_block), strict=False):
        verdict = Verdict(*numbers[start : start + WIDTH])
        inputs = numbers[start + WIDTH : start + size]
        if verdict.wrong and _is_wrong_again(verdict, inputs, plan):
            _observe(examined, verdict, inputs, output)
            return True
    return False


def _is_wrong_again(verdict: Verdict, inputs: Sequence[float], plan: Plan) -> bool:
    exact = exact_again(inputs, plan.operation)
    return not abs(verdict.worst_computed - exact) <= verdict.worst_bound


def _observe(examined: ExaminedCall, verdict: Verdict, inputs: Sequence[float], output: str) -> None:
    plan, index = examined.plan, int(verdict.worst_index)
    extent = (
        {"element": plan.positions[index]} if output == "result" else {"block": index, "block_elements": plan.width}
    )
    observation = Observation(
        kind="wrong_result",
        site=examined.site,
        check="all_reduce",
        output=output,
        step=examined.venue.step,
        order=plan.call,
        proof="exact" if plan.operation in ("MIN", "MAX") else "bound",
        model="proved",
        confirmed="second-shadow",
        verdict=verdict,
        advice=_WRONG_SUM,
        evidence={
            "shape": examined.shape,
            "operation": plan.operation,
            "ranks": examined.ranks,
            "by_rank": [repr(value) for value in inputs[:16]],
            **extent,
        },
    )
    examined.venue.observe(observation)
