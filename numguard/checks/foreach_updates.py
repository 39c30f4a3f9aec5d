"""The operators on lists of tensors that foreach optimizers, gradient clipping and gradient scaling consist of."""

from typing import Final

import torch
from torch import Tensor

from numguard.checks import update_arithmetic
from numguard.checks.check import Check, Probe, checks_of
from numguard.checks.foreach_examples import EXAMPLES
from numguard.checks.tensor_lists import Selection, as_arrays, groups_of_one_dtype, reason_against, select
from numguard.checks.update_arithmetic import Terms
from numguard.numerics.error_bounds.optimizer_bounds import rounding_of
from numguard.shadow.call import OpCall
from numguard.shadow.comparison import Comparison, NotCovered

IN_PLACE: Final = (
    *(f"_foreach_add_.{kind}" for kind in ("Scalar", "List", "ScalarList", "Tensor")),
    *(f"_foreach_sub_.{kind}" for kind in ("Scalar", "List", "ScalarList")),
    *(f"_foreach_mul_.{kind}" for kind in ("Scalar", "List", "ScalarList", "Tensor")),
    *(f"_foreach_div_.{kind}" for kind in ("Scalar", "List", "ScalarList", "Tensor")),
    *(f"_foreach_lerp_.{kind}" for kind in ("Scalar", "ScalarList")),
    *(f"_foreach_addcmul_.{kind}" for kind in ("Scalar", "ScalarList", "Tensor")),
    *(f"_foreach_addcdiv_.{kind}" for kind in ("Scalar", "ScalarList", "Tensor")),
    "_foreach_maximum_.List",
    "_foreach_sqrt_",
    "_foreach_neg_",
)
RETURNED: Final = (
    *(f"_foreach_add.{kind}" for kind in ("Scalar", "List", "ScalarList", "Tensor")),
    *(f"_foreach_sub.{kind}" for kind in ("Scalar", "List", "ScalarList")),
    *(f"_foreach_mul.{kind}" for kind in ("Scalar", "List", "ScalarList", "Tensor")),
    *(f"_foreach_div.{kind}" for kind in ("Scalar", "List", "ScalarList", "Tensor")),
    "_foreach_maximum.List",
    "_foreach_sqrt",
    "_foreach_neg",
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


_ADVICE: Final = (
    "Use foreach=False, and go back to a checkpoint from before the first finding: parameters or moments are wrong "
    "from that step on."
)

CHECKS: tuple[Check, ...] = (
    *checks_of(
        "foreach_updates",
        {"foreach_update": (update_arithmetic.judge, IN_PLACE)},
        EXAMPLES,
        capture=update_arithmetic.capture,
        captures_always=True,
        cost=update_arithmetic.cost,
        advice=_ADVICE,
    ),
    *checks_of(
        "foreach_updates",
        {"foreach_operand": (update_arithmetic.judge_result, RETURNED)},
        EXAMPLES,
        cost=update_arithmetic.cost,
        advice=_ADVICE,
    ),
    *checks_of(
        "foreach_updates",
        {"unscale_gradients": (judge_unscaling, ("_amp_foreach_non_finite_check_and_unscale_",))},
        EXAMPLES,
        capture=_capture_scaled,
        captures_always=True,
        cost=update_arithmetic.cost,
        advice="Set the GradScaler aside (bfloat16 needs none) and compare this rank's device with another one.",
    ),
)
