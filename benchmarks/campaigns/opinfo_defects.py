"""Defects of PyTorch that its own sample inputs show, each with its proof: the errors that are true."""

import re
from dataclasses import dataclass
from typing import Final

from benchmarks.campaigns.opinfo_runs import Alarm


@dataclass(frozen=True, kw_only=True, slots=True)
class Defect:
    """What is wrong with an operator.

    Parameters
    ----------
    kind, op, output, dtype
        Regular expressions that match the whole of what an error says.
    text
        What it does, with a number.
    proof
        How anybody sees it without numguard.
    """

    kind: str = "wrong_result"
    op: str
    output: str = ".*"
    dtype: str
    text: str
    proof: str


DEFECTS: Final[tuple[Defect, ...]] = ()


def defect_of(alarm: Alarm, dtype: str) -> Defect | None:
    """Return the defect behind an error, or None: a false alarm, until somebody has shown otherwise."""
    for defect in DEFECTS:
        pairs = ((defect.kind, alarm.kind), (defect.op, alarm.op), (defect.output, alarm.output), (defect.dtype, dtype))
        if all(re.fullmatch(pattern, value) for pattern, value in pairs):
            return defect
    return None
