"""Calls of the operators of plain optimizers that their checks must be silent about, and faults they must find."""

from typing import Final

import torch

from numguard.checks.check import Example, Examples
from numguard.checks.update_arithmetic_examples import faults, single

_aten = torch.ops.aten

_LERP = single(_aten.lerp_.Scalar, (0, 1), 0.1)
_ADDCMUL = single(_aten.addcmul_.default, (0, 1, 1), value=0.001)
_ADDCDIV = single(_aten.addcdiv_.default, (0, 1, 3), value=-0.5)
_STEP = single(_aten.add_.Tensor, (0, 1), alpha=-0.1)
_ROOT = single(_aten.sqrt.default, (3,))

EXAMPLES: Final = {
    "plain_update": Examples(
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
    ),
    "plain_operand": Examples(
        silent=(
            Example(name="sqrt", call=_ROOT),
            Example(name="bias_correction", call=single(_aten.div.Tensor, (3,), 0.3)),
            Example(name="coupled_decay", call=single(_aten.add.Tensor, (0, 1), alpha=0.1)),
            Example(name="quotient", call=single(_aten.div.Tensor, (0, 3))),
        ),
        fires=faults(_ROOT, "sqrt"),
    ),
}
