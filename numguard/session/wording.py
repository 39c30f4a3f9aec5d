"""The words of a finding: what happened with the values, why it is wrong, what to do."""

from typing import Any

from numguard.interception.observation import Observation
from numguard.ranks import Rank
from numguard.session.vitals import Nonfinite


def _where(observation: Observation) -> str:
    origin = observation.site.origin
    module = f" in {origin.module}" if origin.module else ""
    location = f" ({origin.location})" if origin.location else ""
    return f"{module}{location}, {origin.phase}"


def _number(value: float) -> str:
    return f"{value:.9g}"


def message_for(observation: Observation) -> str:
    """Return one sentence or two with the figures that prove it."""
    verdict, op = observation.verdict, observation.site.op
    error = abs(verdict.worst_computed - verdict.worst_exact)
    what = op if observation.output == "result" else f"{op} ({observation.output})"
    if observation.kind in ("wrong_result", "corruption"):
        times = "" if observation.kind != "corruption" else " once, and the right one when it was run again"
        exact = _number(verdict.worst_exact)
        right, limit = f"{exact} is right", "that a correct implementation can be off by"
        if observation.proof == "none":  # the user's own reference and bound
            right, limit = f"the reference has {exact}", "that its author allows"
        parts = "blocks" if observation.output.endswith(" of block") else "elements"
        return (
            f"{what} returned {_number(verdict.worst_computed)} where {right}{times}"
            f"{_where(observation)}. The error {_number(error)} is {_number(verdict.worst_ratio)} times the "
            f"{_number(verdict.worst_bound)} {limit}; "
            f"{int(verdict.num_wrong)} of {int(verdict.num_elements)} {parts} are wrong."
        )
    if observation.kind == "inaccurate_accumulation":
        return (
            f"{what} on {observation.site.dtype} loses more than it need: the error {_number(error)} at one element is "
            f"up to {_number(verdict.worst_strict_ratio)} times what the documented accumulation allows, and "
            f"{_excuse(observation)}{_where(observation)}."
        )
    if observation.kind == "overflow":
        return (
            f"{what} is not finite in {int(verdict.num_overflowed)} elements whose exact value fits into "
            f"{observation.site.dtype}: an intermediate left the format{_where(observation)}."
        )
    return (
        f"Two shadows of {what} disagree{_where(observation)}: one says {_number(verdict.worst_exact)}, the other "
        f"{_number(float(observation.evidence.get('second_exact', float('nan'))))}. No verdict was given."
    )


def _excuse(observation: Observation) -> str:
    """Return what speaks for a coarse result: how the build adds, or how this very call was seen to."""
    seen = observation.evidence.get("accumulation")
    if seen == "wide":
        return "this call was seen to add in float32 or wider, which leaves the error without an explanation"
    narrow = " (this call adds in the precision of its result)" if seen == "narrow" else ""
    return f"within what this build of PyTorch does{narrow}"


def advice_for(observation: Observation, rank: Rank) -> str:
    """Return what to do about it."""
    # Of which step is said once, by the report: it knows every place that the fault has reached by then.
    checkpoint = (
        "Restart from a checkpoint of the last clean step or before."
        if observation.site.last_clean_step is not None
        else "This call was never seen to be right: distrust every checkpoint of this run."
    )
    if observation.kind == "corruption":
        return (
            f"The fault did not come back: suspect the hardware. Drain {rank.host} ({rank.device}) and test it. "
            f"{checkpoint}"
        )
    if observation.proof == "none" and observation.kind == "wrong_result":
        return observation.advice
    if observation.kind == "wrong_result":
        software = "It comes back when the operator is run again: suspect the build or the kernel, not the machine. "
        again = software if observation.evidence.get("executions") == "reproduces" else ""
        return f"{again}{observation.advice} {checkpoint}".strip()
    if observation.kind == "inaccurate_accumulation":
        return observation.advice or "Run this operator in float32 if its error matters; the report lists the sites."
    if observation.kind == "overflow":
        return "Scale the input, or run this operator in float32."
    return "Run the same step again on another host; if it comes back, report it with this run's log."


def nonfinite_fields(found: Nonfinite) -> dict[str, Any]:
    """Return the fields of a ``nonfinite`` finding: the operator where it is known, else the block."""
    birth, block = found.birth, found.block
    fields: dict[str, Any] = {
        "first_caught_step": found.step,
        "last_clean_step": found.step - 1 if found.step > 0 else None,
        "op": "",
        "module": block.block if block else "",
        "phase": block.phase if block else "",
        "location": None,
        "advice": _NONFINITE_ADVICE,
        "evidence": {},
    }
    if birth is not None and birth.op != "input":
        value = "NaN" if birth.nan else "Inf"
        fields |= {
            "op": birth.op,
            "module": birth.origin.module or fields["module"],
            "phase": birth.origin.phase,
            "location": birth.origin.location,
            "evidence": {"shape": list(birth.shape), "dtype": birth.dtype, "block": block.block if block else ""},
        }
        where = f" in {fields['module']}" if fields["module"] else ""
        line = f" ({birth.origin.location})" if birth.origin.location else ""
        fields["message"] = (
            f"{birth.op}{where}{line}, {birth.origin.phase}, gave the first {value} of step {found.step} "
            "from inputs that were finite."
        )
        return fields
    if birth is not None:
        fields["message"] = (
            f"An input of step {found.step} was not finite before any operator touched it: a parameter that the step "
            "before wrote, or the data."
        )
        return fields
    if block is None:
        fields["message"] = (
            f"The {found.what} of step {found.step} is not finite. No block boundary saw where it was born: give the "
            "model to numguard.guard(), or look at compiled regions with budget=None in eager mode."
        )
        return fields
    near = "" if block.exact else ", or the one before it, which was changed in place"
    if block.since:
        near += f", or a block between it and {block.since}: the budget pays for the boundaries of these two"
    fields["message"] = (
        f"The first non-finite value of step {found.step} was born in {block.phase} in block {block.block}{near}. "
        "The next steps are searched operator by operator."
    )
    return fields


_NONFINITE_ADVICE = (
    "Restart from the checkpoint before, skip or look at the batch of this step, and run a few steps with "
    "numguard.guard(budget=None) to get the operator and the line."
)
