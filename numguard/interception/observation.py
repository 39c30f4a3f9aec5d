"""What the inspection of one call found: handed to the session, which turns it into findings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from numguard.finding import Confirmation, Model, Proof
from numguard.interception.sites import Site
from numguard.shadow.call import OpCall, tensors_in
from numguard.shadow.verdict import Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """One failed comparison of one call, after confirmation.

    Parameters
    ----------
    kind
        Finding kind.
    check
        Name of the check.
    output
        Which output of the operator.
    order
        Position of the call among the observed calls of the run: what comes first is the cause.
    advice
        From the check.
    call
        The call with its inputs, where both are still what they were; held no longer than it takes to report it.
    """

    kind: str
    site: Site
    check: str
    output: str
    step: int
    order: int
    proof: Proof
    model: Model
    confirmed: Confirmation
    verdict: Verdict
    advice: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    call: OpCall | None = None


def _describe(tensor: Tensor) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "shape": list(tensor.shape),
        "stride": list(tensor.stride()) if tensor.layout is torch.strided else [],
        "dtype": str(tensor.dtype)[6:],
    }
    if tensor.layout is torch.sparse_coo:
        tensor = tensor._values()
    if tensor.is_floating_point() and 0 < tensor.numel() <= 1 << 24 and tensor.device.type == "cpu":
        wide = tensor.detach().double()
        finite = torch.nan_to_num(wide, nan=0.0, posinf=0.0, neginf=0.0).abs().numpy()
        facts["max_abs"] = float(finite.max())
        facts["mean_abs"] = float(finite.mean())
        facts["num_nonfinite"] = int(tensor.numel() - int(torch.count_nonzero(torch.isfinite(wide))))
    return facts


def describe_call(call: OpCall) -> dict[str, Any]:
    """Return the shapes, strides, dtypes and magnitudes of a call's tensors: never their values."""
    facts: dict[str, Any] = {}
    for name, value in call.arguments.items():
        tensors = tensors_in(value)
        if tensors:
            facts[name] = _describe(tensors[0]) | ({"of": len(tensors)} if len(tensors) > 1 else {})
        elif isinstance(value, bool | int | float | str) or value is None:
            facts[name] = value if not isinstance(value, float) else repr(value)
        elif isinstance(value, list | tuple) and len(value) <= 8 and all(isinstance(v, int | bool) for v in value):
            facts[name] = list(value)
    return {"arguments": facts}


def environment_facts() -> dict[str, Any]:
    """Return the settings of the backend that bear on the verdict, read now."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": bool(torch.backends.cuda.matmul.allow_tf32),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
