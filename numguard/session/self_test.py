"""The planted fault: a wrong sum on private tensors that must come out as a finding at the other end.

Checkers fail silently. So every guard calls an operator of its own, whose kernel is wrong on purpose, under its own
mode, and follows it through interception, verdict, confirmation, finding and log. The stage at which it is lost is
named in a ``degraded`` finding.
"""

from typing import Any, Final

import torch
from torch import Tensor

from numguard.interception.observation import Observation

NAMESPACE: Final = "numguard_selftest"
OP: Final = f"{NAMESPACE}::planted_sum"
STAGES: Final = ("interception", "check", "verdict", "confirmation", "finding", "log")
_NUM_ADDENDS: Final = 48

_library: torch.library.Library | None = None


def _planted_sum(x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return a sum that is wrong on purpose: it says one where the addends make 48."""
    return x.new_ones(())


def planted_overload() -> torch._ops.OpOverload:
    """Return the planted operator, registered once per process. It has the signature of a full ``aten::sum``."""
    global _library
    if _library is None:
        library = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]
        library.define(  # type: ignore[no-untyped-call]
            "planted_sum(Tensor self, int[1]? dim=None, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor"
        )
        library.impl("planted_sum", _planted_sum, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
        _library = library
    overload: torch._ops.OpOverload = torch.ops.numguard_selftest.planted_sum.default
    return overload


def call_planted(device: torch.device) -> None:
    """Call the planted operator on private tensors; the mode must be entered."""
    torch.ops.numguard_selftest.planted_sum(torch.ones(_NUM_ADDENDS, device=device))


def is_planted(observation: Observation) -> bool:
    """Return whether an observation is the planted fault's."""
    return observation.site.op == OP


class SelfTest:
    """Follows one planted fault."""

    def __init__(self) -> None:
        self._passed: set[str] = set()
        self.detail = ""

    def reach(self, stage: str) -> None:
        """Note that the fault came through a stage."""
        self._passed.add(stage)

    @property
    def lost_at(self) -> str:
        """First stage that it did not come through; empty if it came through all."""
        return next((stage for stage in STAGES if stage not in self._passed), "")
