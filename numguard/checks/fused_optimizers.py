"""One step of Adam, AdamW or SGD in a single kernel over lists of tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from numguard.checks.check import Check, Probe, checks_of
from numguard.checks.fused_optimizer_examples import EXAMPLES
from numguard.checks.tensor_lists import Selection, as_arrays, groups_of_one_dtype, reason_against, select
from numguard.numerics.error_bounds.optimizer_bounds import (
    AdamSettings,
    AdamState,
    SgdSettings,
    SgdState,
    adam_errors,
    adam_values,
    rounding_of,
    sgd_step,
)
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

#: Name of an output by the argument that the kernel overwrites with it.
OUTPUTS: Final[Mapping[str, str]] = {
    "self": "param",
    "grads": "grad",
    "exp_avgs": "exp_avg",
    "exp_avg_sqs": "exp_avg_sq",
    "max_exp_avg_sqs": "max_exp_avg_sq",
    "momentum_buffer_list": "momentum_buffer",
}
ELEMENT_COST: Final = 50.0  # float64 operations of value, bound and judgement per parameter


@dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """Selected elements of the tensors of one dtype as they were before the operator wrote.

    Parameters
    ----------
    selection
        Which elements.
    values
        Argument name to the joined elements in their own dtype.
    """

    selection: Selection
    values: Mapping[str, Tensor]


def _lists(call: OpCall) -> dict[str, Sequence[Tensor]]:
    return {name: call[name] for name in OUTPUTS if call.arguments.get(name)}


def _reason(call: OpCall) -> str | None:
    return reason_against(_lists(call)) if call["self"] else None


def capture(call: OpCall, probe: Probe) -> tuple[Before, ...] | None:
    """Copy the selected elements of parameters, gradients and moments; None where they cannot be judged."""
    lists = _lists(call)
    if _reason(call) is not None:
        return None
    groups = []
    for numbers in groups_of_one_dtype(list(lists.values())):
        selection = select(call["self"], numbers, probe, ELEMENT_COST)
        groups.append(Before(selection=selection, values={name: selection.of(lists[name]) for name in lists}))
    return tuple(groups)


def _cost(call: OpCall) -> float:
    return float(ELEMENT_COST * sum(tensor.numel() for tensor in call["self"]))


def _scalar(value: Any, into: Any) -> Any:
    return into(value.reshape(())) if isinstance(value, Tensor) else value


def _steps(call: OpCall, selection: Selection, xp: Any, into: Any) -> Any:
    """Return the step number of every selected element; one number where all tensors have made equally many."""
    steps = torch.stack([call["state_steps"][number].reshape(()) for number in selection.numbers])
    if xp is np:
        values = into(steps)
        if bool((values == values[0]).all()):
            return values[0]
    return into(selection.spread(steps))


def _comparison(
    call: OpCall, before: Before, name: str, exact: Tensor, strict: Tensor, found: Tensor | None
) -> Comparison:
    if found is not None:
        skipped = found.reshape(()) == 1.0
        exact = torch.where(skipped, before.values[name].double(), exact)
        strict = torch.where(skipped, 0.0, strict)
    computed = before.selection.of(call[name])
    return Comparison(
        output=before.selection.label(OUTPUTS[name]),
        computed=computed,
        exact=exact,
        strict=strict,
        # float64 shadows overflow where the operator, in another order, may not; and kernels take the larger second
        # moment by std::max, which drops a NaN that their vectorised part keeps.
        propagates_nonfinite=computed.dtype != torch.float64
        and not (call.arguments.get("amsgrad") and name in ("self", "max_exp_avg_sqs")),
        segments=before.selection.segments(OUTPUTS[name]),
    )


def _compare(
    call: OpCall, before: Before, back: Any, exact: dict[str, Any], strict: dict[str, Any]
) -> list[Comparison]:
    return [_comparison(call, before, name, back(exact[name]), back(strict[name]), call["found_inf"]) for name in exact]


def _judge_adam_group(call: OpCall, before: Before, probe: Probe) -> list[Comparison]:
    dtype = before.values["self"].dtype
    xp, into, back = as_arrays(probe, before.values["self"].device)
    settings = AdamSettings(
        lr=_scalar(call["lr"], into),
        **{name: call[name] for name in ("beta1", "beta2", "weight_decay", "eps", "amsgrad", "maximize")},
        decoupled="adamw" in call.overload._schema.name,
    )
    values = {name: into(tensor) for name, tensor in before.values.items()}
    state = AdamState(
        values["self"],
        values["grads"],
        values["exp_avgs"],
        values["exp_avg_sqs"],
        values.get("max_exp_avg_sqs"),
        _steps(call, before.selection, xp, into),
        None if call["grad_scale"] is None else _scalar(call["grad_scale"], into),
    )
    exact = adam_values(xp, state, settings)
    bound = adam_errors(xp, state, exact, settings, rounding_of(dtype))
    values = {"self": exact.param, "exp_avgs": exact.exp_avg, "exp_avg_sqs": exact.exp_avg_sq}
    errors = {"self": bound.param, "exp_avgs": bound.exp_avg, "exp_avg_sqs": bound.exp_avg_sq}
    if settings.amsgrad:
        values["max_exp_avg_sqs"], errors["max_exp_avg_sqs"] = exact.max_exp_avg_sq, bound.exp_avg_sq
    if state.scale is not None:
        values["grads"], errors["grads"] = exact.grad, bound.grad
    return _compare(call, before, back, values, errors)


def _judge_sgd_group(call: OpCall, before: Before, probe: Probe) -> list[Comparison]:
    dtype = before.values["self"].dtype
    xp, into, back = as_arrays(probe, before.values["self"].device)
    names = ("momentum", "dampening", "weight_decay", "nesterov", "maximize", "is_first_step")
    settings = SgdSettings(lr=_scalar(call["lr"], into), **{name: call[name] for name in names})
    values = {name: into(tensor) for name, tensor in before.values.items()}
    scale = None if call["grad_scale"] is None else _scalar(call["grad_scale"], into)
    state = SgdState(values["self"], values["grads"], values.get("momentum_buffer_list"), scale)
    exact, bound = sgd_step(state, settings, rounding_of(dtype), xp)
    results, errors = {"self": exact.param}, {"self": bound.param}
    if settings.momentum != 0.0 and state.buffer is not None:
        results["momentum_buffer_list"], errors["momentum_buffer_list"] = exact.buffer, bound.buffer
    if scale is not None:
        results["grads"], errors["grads"] = exact.grad, bound.grad
    return _compare(call, before, back, results, errors)


def _judge(call: OpCall, captured: tuple[Before, ...] | None, probe: Probe, group: Any) -> list[Comparison]:
    if captured is None:
        raise NotCovered(_reason(call) or "nothing was captured before the operator wrote")
    with np.errstate(all="ignore"):
        return [comparison for before in captured for comparison in group(call, before, probe)]


def judge_adam(call: OpCall, captured: tuple[Before, ...] | None, probe: Probe) -> list[Comparison]:
    """Compare parameters, moments and unscaled gradients of a fused Adam or AdamW step with their shadows."""
    return _judge(call, captured, probe, _judge_adam_group)


def judge_sgd(call: OpCall, captured: tuple[Before, ...] | None, probe: Probe) -> list[Comparison]:
    """Compare parameters, momentum buffers and unscaled gradients of a fused SGD step with their shadows."""
    return _judge(call, captured, probe, _judge_sgd_group)


CHECKS: tuple[Check, ...] = checks_of(
    "fused_optimizers",
    {
        "fused_adam": (
            judge_adam,
            ("_fused_adam_", "_fused_adam_.tensor_lr", "_fused_adamw_", "_fused_adamw_.tensor_lr"),
        ),
        "fused_sgd": (judge_sgd, ("_fused_sgd_", "_fused_sgd_.tensor_lr")),
    },
    EXAMPLES,
    capture=capture,
    captures_always=True,
    cost=_cost,
    advice="Use foreach=True instead of fused=True, and go back to a checkpoint from before the first finding: "
    "parameters and moments are wrong from that step on.",
)
