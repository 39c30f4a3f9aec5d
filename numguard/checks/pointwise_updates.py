"""The elementwise operators that plain optimizers consist of, one tensor at a time."""

from typing import Final

from numguard.checks import update_arithmetic
from numguard.checks.check import Check, checks_of
from numguard.checks.pointwise_update_examples import EXAMPLES

IN_PLACE: Final = (
    "lerp_.Scalar",
    "addcmul_",
    "addcdiv_",
    "add_.Tensor",
    "sub_.Tensor",
    "mul_.Tensor",
    "div_.Tensor",
)
#: What a plain step computes on the way.
RETURNED: Final = ("sqrt", "div.Tensor", "add.Tensor")

_ADVICE: Final = (
    "Run the step again with foreach=True or fused=True, and go back to a checkpoint from before the first finding."
)

CHECKS: tuple[Check, ...] = (
    *checks_of(
        "pointwise",
        {"plain_update": (update_arithmetic.judge, IN_PLACE)},
        EXAMPLES,
        capture=update_arithmetic.capture,
        captures_always=True,
        cost=update_arithmetic.cost,
        advice=_ADVICE,
    ),
    *checks_of(
        "pointwise",
        {"plain_operand": (update_arithmetic.judge_result, RETURNED)},
        EXAMPLES,
        # The same operators run all over the forward pass, where each is one rounding and would crowd out reductions.
        phases=frozenset({"optimizer"}),
        cost=update_arithmetic.cost,
        advice=_ADVICE,
    ),
)
