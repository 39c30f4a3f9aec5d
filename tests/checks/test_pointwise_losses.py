"""The checks of elementwise losses: PyTorch's own samples, hard data, long means, and the rules against mpmath."""

import mpmath
import pytest
import torch
from torch.nn import functional

from numguard.checks.check import Probe
from numguard.checks.examination import examine, perform
from numguard.checks.pointwise_losses import CHECKS
from numguard.numerics.error_bounds.loss_bounds import RULES, Element
from numguard.shadow.call import OpCall
from numguard.shadow.routes import NUMPY
from tests.checks.hard_images import DTYPES, KINDS, LAYOUTS, image
from tests.checks.watched_calls import Watch, run_samples, watches

NAMES = ("mse_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "soft_margin_loss")
LOGITS = "binary_cross_entropy_with_logits"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*NAMES, LOGITS])
def test_silent_on_the_samples_of_pytorch(name: str, dtype: torch.dtype) -> None:
    watch = Watch(CHECKS, Probe(arithmetic=NUMPY))
    assert run_samples(f"nn.functional.{name}", dtype, watch, most=20) > 0
    assert watch.num_judged > 0
    assert watch.wrong == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_silent_on_hard_data_in_every_layout(kind: str, layout: str) -> None:
    for number, (dtype, watch) in enumerate(watches(CHECKS, limits=(1e6, 1e6), offset=0.3)):
        x = image(kind, (4, 6, 9, 10), dtype, number, layout).requires_grad_()
        target = image("normal", (4, 6, 9, 10), dtype, 9).sigmoid()
        with watch:
            for reduction in ("mean", "sum", "none"):
                losses = [getattr(functional, name)(x, target, reduction=reduction) for name in (*NAMES[:3], LOGITS)]
                losses.append(functional.soft_margin_loss(x, target.round() * 2.0 - 1.0, reduction=reduction))
                losses.append(functional.binary_cross_entropy(target, target, reduction=reduction))
                for loss in losses[:-1]:
                    loss.backward(torch.ones_like(loss))
        assert watch.num_judged > 0
        assert watch.wrong == []


def test_one_lost_element_of_a_long_mean_is_found() -> None:
    x, target = image("normal", (50_000,), torch.float32, 1), image("normal", (50_000,), torch.float32, 2)
    target[7] = 30.0
    check, probe = CHECKS[0], Probe(arithmetic=NUMPY)
    call, captured = perform(check, torch.ops.aten.mse_loss.default, (x, target, 1), {}, probe)
    lost = call.output - (x[7] - target[7]) ** 2 / 50_000
    wrong = OpCall(overload=call.overload, arguments=call.arguments, output=lost)
    assert not any(verdict.wrong for _, verdict in examine(check, call, captured, probe))
    assert all(verdict.wrong for _, verdict in examine(check, wrong, captured, probe))


DEFINITIONS = {
    "mse_loss": lambda x, t: (x - t) ** 2,
    "huber_loss": lambda x, t: (x - t) ** 2 / 2 if abs(x - t) <= 1 else abs(x - t) - mpmath.mpf(1) / 2,
    "smooth_l1_loss": lambda x, t: (x - t) ** 2 / 2 if abs(x - t) < 1 else abs(x - t) - mpmath.mpf(1) / 2,
    "binary_cross_entropy": lambda x, t: -(t * mpmath.log(x) + (1 - t) * mpmath.log(1 - x)),
    LOGITS: lambda x, t: (1 - t) * x + mpmath.log(1 + mpmath.exp(-x)),
    "soft_margin_loss": lambda x, t: mpmath.log(1 + mpmath.exp(-t * x)),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_are_their_definitions_and_slopes_their_derivatives(name: str) -> None:
    rule, define = RULES[name], DEFINITIONS[name]
    for prediction, target in ((0.3, 0.9), (0.77, 0.1), (0.5, 0.25)):
        with mpmath.workdps(40):
            x, t = mpmath.mpf(prediction), mpmath.mpf(target)
            value, slope = define(x, t), mpmath.diff(lambda point, t=t: define(point, t), x)
        element = Element(torch.tensor([prediction], dtype=torch.float64), torch.tensor([target], dtype=torch.float64))
        assert abs(float(rule.value(element)) - float(value)) <= float(rule.value_error(element, 2.0**-53, 1e300))
        if rule.slope is not None and rule.slope_error is not None:
            assert abs(float(rule.slope(element)) - float(slope)) <= float(rule.slope_error(element, 2.0**-53, 1e300))
