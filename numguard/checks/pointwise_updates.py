"""The elementwise operators that plain optimizers consist of, one tensor at a time."""

from typing import Final

import torch

from numguard.checks import update_arithmetic
from numguard.checks.check import Check, Example
from numguard.checks.update_arithmetic_examples import faults, single

_aten = torch.ops.aten

IN_PLACE: Final = (
    "aten::lerp_.Scalar",
    "aten::addcmul_",
    "aten::addcdiv_",
    "aten::add_.Tensor",
    "aten::sub_.Tensor",
    "aten::mul_.Tensor",
    "aten::div_.Tensor",
)
#: What a plain step computes on the way. These also occur in forward passes, where they are judged as well.
RETURNED: Final = ("aten::sqrt", "aten::div.Tensor", "aten::add.Tensor")

ADVICE: Final = (
    "Run the step again with foreach=True or fused=True, and go back to a checkpoint from before the first finding."
)
_LERP = single(_aten.lerp_.Scalar, (0, 1), 0.1)
_ADDCMUL = single(_aten.addcmul_.default, (0, 1, 1), value=0.001)
_ADDCDIV = single(_aten.addcdiv_.default, (0, 1, 3), value=-0.5)
_STEP = single(_aten.add_.Tensor, (0, 1), alpha=-0.1)
_ROOT = single(_aten.sqrt.default, (3,))

CHECKS: tuple[Check, ...] = (
    Check(
        name="plain_update",
        family="pointwise",
        ops=IN_PLACE,
        judge=update_arithmetic.judge,
        capture=update_arithmetic.capture,
        cost=update_arithmetic.cost,
        silent=(
            Example(name="lerp", call=_LERP),
            Example(name="addcmul", call=_ADDCMUL),
            Example(name="addcdiv", call=_ADDCDIV),
            Example(name="decay", call=single(_aten.mul_.Tensor, (0,), 0.999)),
            Example(name="eps", call=single(_aten.add_.Tensor, (3,), 1e-8)),
            Example(name="step", call=_STEP),
            Example(name="accumulated_gradient", call=single(_aten.add_.Tensor, (0, 1))),
        ),
        fires=(
            *faults(_LERP, "lerp"),
            *faults(_ADDCMUL, "addcmul"),
            *faults(_ADDCDIV, "addcdiv"),
            *faults(_STEP, "step"),
        ),
        advice=ADVICE,
    ),
    Check(
        name="plain_operand",
        # The same operators run all over the forward pass, where each is one rounding and would crowd out reductions.
        phases=frozenset({"optimizer"}),
        family="pointwise",
        ops=RETURNED,
        judge=update_arithmetic.judge_result,
        cost=update_arithmetic.cost,
        silent=(
            Example(name="sqrt", call=_ROOT),
            Example(name="bias_correction", call=single(_aten.div.Tensor, (3,), 0.3)),
            Example(name="coupled_decay", call=single(_aten.add.Tensor, (0, 1), alpha=0.1)),
            Example(name="quotient", call=single(_aten.div.Tensor, (0, 3))),
        ),
        fires=faults(_ROOT, "sqrt"),
        advice=ADVICE,
    ),
)
