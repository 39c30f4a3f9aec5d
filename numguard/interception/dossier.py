"""What is kept of a call while it is inspected."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from numguard.checks.check import Check, Probe
from numguard.interception.sites import Site
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import output_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """One call that is being checked, from before the operator runs until it is judged."""

    site: Site
    checks: tuple[Check, ...]
    call: OpCall
    captured: tuple[Any, ...]
    probe: Probe
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The comparisons of one check of one call, and what a jury may ask about them while the inputs are there."""

    inspection: Inspection
    check: Check
    captured: Any
    names: tuple[str, ...]
    segments: tuple[tuple[tuple[str, int], ...], ...]
    models: tuple[str, ...]
    exact: tuple[bool, ...]
    step: int
    order: int

    def output_at(self, comparison: int, index: int) -> str:
        """Return which output an element of a comparison lies in: ``"param[3]"`` where tensors were joined."""
        return output_at(self.names[comparison], self.segments[comparison], index)


def without_inputs(judged: Judged) -> Judged:
    """Return the same record holding no tensor of the user's."""
    inspection = judged.inspection
    bare = replace(
        inspection,
        call=OpCall(overload=inspection.call.overload, arguments={}),
        captured=(),
        args=(),
        kwargs={},
    )
    return replace(judged, inspection=bare, captured=None)
