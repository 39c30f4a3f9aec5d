"""Calls of the operators on lists that their checks must be silent about, and faults they must find."""

from typing import Any, Final

import torch

from numguard.checks.check import Example, Examples
from numguard.checks.update_arithmetic_examples import PER_TENSOR, Call, faults, flip_bit, joined

_aten = torch.ops.aten


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


_LERP = joined(_aten._foreach_lerp_.Scalar, (0, 1), 0.1)
_ADDCDIV = joined(_aten._foreach_addcdiv_.ScalarList, (0, 1, 3), PER_TENSOR)
_DECAY = joined(_aten._foreach_mul_.Scalar, (0,), 0.999)
_COUPLED = joined(_aten._foreach_add.List, (0, 1), alpha=0.1)

EXAMPLES: Final = {
    "foreach_update": Examples(
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
    ),
    "foreach_operand": Examples(
        silent=(
            Example(name="sqrt", call=joined(_aten._foreach_sqrt.default, (3,))),
            Example(name="coupled_decay", call=_COUPLED),
            Example(name="maximize", call=joined(_aten._foreach_neg.default, (0,))),
        ),
        fires=faults(_COUPLED, "coupled_decay"),
    ),
    "unscale_gradients": Examples(
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
    ),
}
