"""The operators on lists of tensors that foreach optimizers, gradient clipping and gradient scaling consist of."""

from typing import Any, Final

import torch
from torch import Tensor

from numguard.checks import update_arithmetic
from numguard.checks.check import Check, Example, Probe
from numguard.checks.tensor_lists import Selection, as_arrays, groups_of_one_dtype, reason_against, select
from numguard.checks.update_arithmetic import Terms
from numguard.checks.update_arithmetic_examples import PER_TENSOR, Call, faults, flip_bit, joined
from numguard.numerics.error_bounds.optimizer_bounds import rounding_of
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

_aten = torch.ops.aten

IN_PLACE: Final = (
    *(f"aten::_foreach_add_.{kind}" for kind in ("Scalar", "List", "ScalarList", "Tensor")),
    *(f"aten::_foreach_sub_.{kind}" for kind in ("Scalar", "List", "ScalarList")),
    *(f"aten::_foreach_mul_.{kind}" for kind in ("Scalar", "List", "ScalarList", "Tensor")),
    *(f"aten::_foreach_div_.{kind}" for kind in ("Scalar", "List", "ScalarList", "Tensor")),
    *(f"aten::_foreach_lerp_.{kind}" for kind in ("Scalar", "ScalarList")),
    *(f"aten::_foreach_addcmul_.{kind}" for kind in ("Scalar", "ScalarList", "Tensor")),
    *(f"aten::_foreach_addcdiv_.{kind}" for kind in ("Scalar", "ScalarList", "Tensor")),
    "aten::_foreach_maximum_.List",
    "aten::_foreach_sqrt_",
    "aten::_foreach_neg_",
)
RETURNED: Final = (
    *(f"aten::_foreach_add.{kind}" for kind in ("Scalar", "List", "ScalarList", "Tensor")),
    *(f"aten::_foreach_sub.{kind}" for kind in ("Scalar", "List", "ScalarList")),
    *(f"aten::_foreach_mul.{kind}" for kind in ("Scalar", "List", "ScalarList", "Tensor")),
    *(f"aten::_foreach_div.{kind}" for kind in ("Scalar", "List", "ScalarList", "Tensor")),
    "aten::_foreach_maximum.List",
    "aten::_foreach_sqrt",
    "aten::_foreach_neg",
)


def _capture_scaled(call: OpCall, probe: Probe) -> tuple[tuple[Terms, ...], Tensor, bool] | None:
    """Copy the selected gradients and the flag; the third item tells whether nothing was left out."""
    if call["self"] and reason_against({"self": call["self"]}) is not None:
        return None
    groups = []
    for numbers in groups_of_one_dtype([call["self"]]):
        selection = select(call["self"], numbers, probe, update_arithmetic.ELEMENT_COST)
        groups.append(Terms(selection=selection, values=(selection.of(call["self"]),)))
    read = sum(sum(group.selection.sizes) for group in groups)
    return tuple(groups), call["found_inf"].clone(), read == sum(tensor.numel() for tensor in call["self"])


def _scaled_gradients(call: OpCall, before: Terms, probe: Probe) -> Comparison:
    selection: Selection = before.selection
    computed = selection.of(call["self"])
    _, into, back = as_arrays(probe, computed.device)
    exact = back(into(before.values[0]) * into(call["inv_scale"].reshape(())))
    rounding = rounding_of(computed.dtype)
    return Comparison(
        output=selection.label("grad"),
        computed=computed,
        exact=exact,
        strict=(rounding.unit + rounding.store) * exact.abs() + rounding.tiny,
        propagates_nonfinite=True,
        segments=selection.segments("grad"),
    )


def judge_unscaling(
    call: OpCall, captured: tuple[tuple[Terms, ...], Tensor, bool] | None, probe: Probe
) -> list[Comparison]:
    """Compare unscaled gradients with the products, and ``found_inf`` with what the gradients held.

    Notes
    -----
    The flag is exact. Where not every gradient was read, only a flag that is missing can be wrong: nothing proves
    that the elements left out were finite.
    """
    if captured is None:
        raise NotCovered(reason_against({"self": call["self"]}) or "nothing was captured before the operator wrote")
    groups, flag_before, complete = captured
    comparisons = [_scaled_gradients(call, before, probe) for before in groups]
    flag = call["found_inf"]
    found = flag_before != 0.0
    for before in groups:
        values = before.values[0]
        # x - x is zero exactly where x is finite; a float sum of zeros and NaNs needs no boolean reduction.
        found = found | ((values - values) != 0.0).any()
    if groups:
        expected = torch.where(found, 1.0, 0.0 if complete else flag.double())
        comparisons.append(
            Comparison(
                output="found_inf",
                computed=flag.clone(),
                exact=torch.where(flag_before != 0.0, flag_before.double(), expected),
                strict=0.0,
                rounds_output=False,
            )
        )
    return comparisons


def _unscaling_call(dtype: torch.dtype, generator: torch.Generator, bad: float | None = None) -> Call:
    _, (lists,), _ = joined(_aten._foreach_neg.default, (0,))(dtype, generator)
    if bad is not None:
        lists[1][3] = bad
    return _aten._amp_foreach_non_finite_check_and_unscale_.default, (lists, torch.zeros(1), torch.tensor(1 / 48)), {}


def _lost_flag(output: Any, args: tuple[Any, ...]) -> Any:
    args[1].zero_()
    return output


def _false_flag(output: Any, args: tuple[Any, ...]) -> Any:
    args[1].fill_(1.0)
    return output


def _forgotten_tensor(output: Any, args: tuple[Any, ...]) -> Any:
    args[0][4].mul_(48.0)
    return output


ADVICE: Final = (
    "Use foreach=False, and go back to a checkpoint from before the first finding: parameters or moments are wrong "
    "from that step on."
)
_LERP = joined(_aten._foreach_lerp_.Scalar, (0, 1), 0.1)
_ADDCDIV = joined(_aten._foreach_addcdiv_.ScalarList, (0, 1, 3), PER_TENSOR)
_DECAY = joined(_aten._foreach_mul_.Scalar, (0,), 0.999)
_COUPLED = joined(_aten._foreach_add.List, (0, 1), alpha=0.1)

CHECKS: tuple[Check, ...] = (
    Check(
        name="foreach_update",
        family="foreach_updates",
        ops=IN_PLACE,
        judge=update_arithmetic.judge,
        capture=update_arithmetic.capture,
        cost=update_arithmetic.cost,
        silent=(
            Example(name="lerp", call=_LERP),
            Example(name="lerp_mostly_end", call=joined(_aten._foreach_lerp_.Scalar, (0, 1), 0.9)),
            Example(name="decay", call=_DECAY),
            Example(name="clip", call=joined(_aten._foreach_mul_.Tensor, (0,), torch.tensor(0.3))),
            Example(name="addcmul", call=joined(_aten._foreach_addcmul_.Scalar, (0, 1, 1), 0.001)),
            Example(name="addcdiv", call=_ADDCDIV),
            Example(name="denominator", call=joined(_aten._foreach_div_.ScalarList, (3,), (0.3,) * 5)),
            Example(name="eps", call=joined(_aten._foreach_add_.Scalar, (3,), 1e-8)),
            Example(name="step", call=joined(_aten._foreach_add_.List, (0, 1), alpha=-0.1)),
            Example(name="maximum", call=joined(_aten._foreach_maximum_.List, (0, 1))),
        ),
        fires=(*faults(_LERP, "lerp"), *faults(_ADDCDIV, "addcdiv"), *faults(_DECAY, "decay")),
        advice=ADVICE,
    ),
    Check(
        name="foreach_operand",
        family="foreach_updates",
        ops=RETURNED,
        judge=update_arithmetic.judge_result,
        cost=update_arithmetic.cost,
        silent=(
            Example(name="sqrt", call=joined(_aten._foreach_sqrt.default, (3,))),
            Example(name="coupled_decay", call=_COUPLED),
            Example(name="maximize", call=joined(_aten._foreach_neg.default, (0,))),
        ),
        fires=faults(_COUPLED, "coupled_decay"),
        advice=ADVICE,
    ),
    Check(
        name="unscale_gradients",
        family="foreach_updates",
        ops=("aten::_amp_foreach_non_finite_check_and_unscale_",),
        judge=judge_unscaling,
        capture=_capture_scaled,
        cost=update_arithmetic.cost,
        silent=(
            Example(name="finite", call=_unscaling_call),
            Example(name="infinite", call=lambda dtype, g: _unscaling_call(dtype, g, torch.inf)),
            Example(name="nan", call=lambda dtype, g: _unscaling_call(dtype, g, torch.nan)),
        ),
        fires=(
            Example(name="flipped_bit", call=_unscaling_call, corrupt=flip_bit),
            Example(name="lost_flag", call=lambda d, g: _unscaling_call(d, g, torch.inf), corrupt=_lost_flag),
            Example(name="false_flag", call=_unscaling_call, corrupt=_false_flag),
            Example(name="forgotten_tensor", call=_unscaling_call, corrupt=_forgotten_tensor),
        ),
        advice="Set the GradScaler aside (bfloat16 needs none) and compare this rank's device with another one.",
    ),
)
