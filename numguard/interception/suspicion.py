"""From a failed comparison to an observation: the suspicion is confirmed before anybody hears of it.

A second shadow, evaluated along a route that shares nothing with the first, must find the result wrong too. Where
the operator can be run again it is: a result that does not come back is a transient fault of the machine, one that
does is a fault of the program.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, cast

import torch
from torch import Tensor

from numguard.checks.check import Probe
from numguard.finding import Confirmation, Model
from numguard.interception.dossier import Judged
from numguard.interception.observation import Observation, describe_call, environment_facts
from numguard.shadow.call import OpCall, is_repeatable, mutated_arguments, tensors_in
from numguard.shadow.comparison import Compared
from numguard.shadow.routes import routes_for
from numguard.shadow.verdict import Verdict, evaluate, evaluate_on_host, read

_MAX_EXECUTIONS: Final = 3  # of a suspicious operator at one site; later ones are confirmed by the second shadow
_MAX_OBSERVATIONS: Final = 16  # of how calls of an operator add, by dtype
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_ADDS: Final = {False: {"accumulation": "narrow"}, True: {"accumulation": "wide"}}  # as this very call was seen to


class Jury:
    """Confirms suspicions and reports what stands.

    Parameters
    ----------
    report
        Takes the observations.
    """

    def __init__(self, report: Callable[[Observation], None]) -> None:
        self._report = report
        self._heard: Counter[tuple[str, str, str]] = Counter()
        self._observed: Counter[tuple[str, str]] = Counter()
        self._executed: Counter[int] = Counter()

    def hear(
        self, judged: Judged, verdicts: Sequence[Verdict], second: Sequence[Verdict] | None, call: OpCall | None
    ) -> None:
        """Confirm each failed comparison and report it.

        Parameters
        ----------
        judged
            The call; its inputs are only there when ``call`` is given.
        verdicts, second
            Along the first route, and along the second where that has been evaluated already.
        call
            The call with inputs and output, where both are still what they were.
        """
        for index, verdict in enumerate(verdicts):
            if verdict.wrong:
                if second is None and call is not None:
                    second = _second_opinion(judged, call)
                self._wrong(judged, index, verdict, second[index] if second else None, call)
            elif verdict.inaccurate:
                self._coarse(judged, index, verdict, call)
            elif verdict.num_overflowed:
                self._milder("overflow", judged, index, verdict, call)

    def _wrong(self, judged: Judged, index: int, verdict: Verdict, second: Verdict | None, call: OpCall | None) -> None:
        evidence = self._evidence(judged, call)
        if second is not None and not second.wrong:
            evidence["second_exact"] = second.worst_exact
            self._send("degraded", judged, index, verdict, confirmed="no", evidence=evidence)
            return
        confirmed: Confirmation = "no" if second is None else "second-shadow"
        if judged.exact[index] and second is not None:
            confirmed = "exact"
        kind = "wrong_result"
        if call is not None and second is not None:
            outcome = self._execute_again(judged, index, call)
            if outcome is not None:
                evidence["executions"] = outcome
                kind = "corruption" if outcome == "transient" else kind
                confirmed = "re-executed" if outcome in ("transient", "reproduces") else confirmed
        self._send(kind, judged, index, verdict, confirmed=confirmed, evidence=evidence, call=call)

    def _coarse(self, judged: Judged, index: int, verdict: Verdict, call: OpCall | None) -> None:
        """Report a result outside the strict bound, with how this very call was seen to add.

        Where it was seen to add widely the finding says so and stays a warning: an observation is no proof.
        """
        site, seen = judged.inspection.site, None
        if call is not None and judged.check.adds_widely is not None:
            self._observed[site.op, site.dtype] += 1
            if self._observed[site.op, site.dtype] <= _MAX_OBSERVATIONS:
                seen = judged.check.adds_widely(call)
        self._milder("inaccurate_accumulation", judged, index, verdict, call, {} if seen is None else _ADDS[seen])

    def _milder(
        self,
        kind: str,
        judged: Judged,
        index: int,
        verdict: Verdict,
        call: OpCall | None,
        more: Mapping[str, Any] = _NOTHING,
    ) -> None:
        site = judged.inspection.site
        name = (kind, site.op, site.dtype)
        self._heard[name] += 1
        # These come with every call of a class: only the first carries what is dear to collect.
        evidence = self._evidence(judged, call) | dict(more) if self._heard[name] == 1 else dict(more)
        self._send(kind, judged, index, verdict, confirmed="no", evidence=evidence, call=call)

    def _execute_again(self, judged: Judged, index: int, call: OpCall) -> str | None:
        """Run the operator twice more and say whether the result comes back; None where it cannot be run again."""
        site = id(judged.inspection.site)
        if not is_repeatable(call.overload) or self._executed[site] >= _MAX_EXECUTIONS:
            return None
        self._executed[site] += 1
        inspection = judged.inspection
        with torch.no_grad():
            again = inspection.call.overload(*inspection.args, **inspection.kwargs)
            if _same_bits(again, call.output):
                return "reproduces"
            once_more = inspection.call.overload(*inspection.args, **inspection.kwargs)
            repeated = replace(call, output=again)
            verdicts = [_weighed(c) for c in judged.check.judge(repeated, judged.captured, inspection.probe)]
        if _same_bits(again, once_more) and not verdicts[index].wrong:
            return "transient"
        return "differs each time"

    @staticmethod
    def _evidence(judged: Judged, call: OpCall | None) -> dict[str, Any]:
        facts = describe_call(call) if call is not None else {}
        return facts | {"environment": environment_facts()}

    def _send(
        self,
        kind: str,
        judged: Judged,
        index: int,
        verdict: Verdict,
        *,
        confirmed: Confirmation,
        evidence: dict[str, Any],
        call: OpCall | None = None,
    ) -> None:
        grave = kind in ("wrong_result", "corruption")
        self._report(
            Observation(
                kind=kind,
                site=judged.inspection.site,
                check=judged.check.name,
                output=judged.output_at(index, int(verdict.worst_index)),
                step=judged.step,
                order=judged.order,
                proof=("exact" if judged.exact[index] else "bound") if grave else "none",
                model=cast("Model", judged.models[index]),
                confirmed=confirmed,
                verdict=verdict,
                advice=judged.check.advice,
                evidence=evidence,
                call=call if call is not None and not mutated_arguments(call.overload) else None,
            )
        )


def _second_opinion(judged: Judged, call: OpCall) -> list[Verdict]:
    """Judge along the second route."""
    probe = judged.inspection.probe
    device = next((t.device.type for value in call.arguments.values() for t in tensors_in(value)), "cpu")
    route = routes_for(judged.check.family, device)[1]
    second = Probe(arithmetic=route, limit=probe.limit, offset=probe.offset)
    with torch.no_grad():
        return [_weighed(comparison) for comparison in judged.check.judge(call, judged.captured, second)]


def _weighed(comparison: Compared) -> Verdict:
    """Return the verdict; in host memory without torch's own maxima, which are judged, too."""
    return evaluate_on_host(comparison) if comparison.computed.is_cpu else read(evaluate(comparison))


def _same_bits(first: Any, second: Any) -> bool:
    """Return whether two results are equal bit for bit, NaN included."""
    left, right = tensors_in(first), tensors_in(second)
    return len(left) == len(right) and all(_equal(a, b) for a, b in zip(left, right, strict=True))


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.layout is torch.sparse_coo:
        return _equal(a._indices(), b._indices()) and _equal(a._values(), b._values())
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return bool(torch.equal(a.detach().contiguous().view(width), b.detach().contiguous().view(width)))
