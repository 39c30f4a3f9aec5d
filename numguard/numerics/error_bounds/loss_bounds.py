"""Rounding bounds of losses that compare a prediction with a target element by element, and of their gradients.

Every rule gives an exact value and a bound of its error as functions of a unit roundoff r: that of the accumulator
where only results are rounded, that of a 16-bit format where every operation is. All tensors are float64. Bounds are
sums over the operations of a rule (Higham, ASNA 2nd ed., section 3.1), with 4 r for exp and log (documented: 2 ulp).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import torch
from torch import Tensor

CLAMPED_LOG: Final = -100.0  # the least logarithm that binary_cross_entropy uses
CLAMPED_PRODUCT: Final = 1e-12  # the least divisor of its gradient


class Element(NamedTuple):
    """Operands of one element, and the parameter of the loss: beta, delta, or None."""

    prediction: Tensor
    target: Tensor
    parameter: float = 1.0
    positive_weight: Tensor | None = None


class LossRule(NamedTuple):
    """A loss and its derivative by the prediction.

    Attributes
    ----------
    value, slope
        Exact.
    value_error, slope_error
        Bounds for a unit roundoff; infinite where an intermediate may leave the range given by ``largest``.
    reach
        The largest number that an incoming gradient is multiplied by; None where that is the slope.
    """

    value: Callable[[Element], Tensor]
    value_error: Callable[[Element, float, float], Tensor]
    slope: Callable[[Element], Tensor] | None = None
    slope_error: Callable[[Element, float, float], Tensor] | None = None
    reach: Callable[[Element], Tensor] | None = None


def _gap(x: Element) -> Tensor:
    return x.prediction - x.target


def _square_error(x: Element, r: float, largest: float) -> Tensor:
    return 4.0 * r * _gap(x) ** 2


def _smooth(x: Element) -> Tensor:
    size = _gap(x).abs()
    return torch.where(size < x.parameter, 0.5 * size * size / x.parameter, size - 0.5 * x.parameter)


def _smooth_error(x: Element, r: float, largest: float) -> Tensor:
    """Both branches agree at beta in value and slope, so that a gap on the other side of it costs nothing extra."""
    size = _gap(x).abs()
    return 6.0 * r * torch.where(size < x.parameter, size * size / x.parameter, size + x.parameter)


def _huber(x: Element) -> Tensor:
    size = _gap(x).abs()
    return torch.where(size <= x.parameter, 0.5 * size * size, x.parameter * (size - 0.5 * x.parameter))


def _huber_error(x: Element, r: float, largest: float) -> Tensor:
    size = _gap(x).abs()
    return 6.0 * r * torch.where(size <= x.parameter, size * size, x.parameter * (size + x.parameter))


def _logs(x: Element) -> tuple[Tensor, Tensor]:
    return x.prediction.log().clamp(min=CLAMPED_LOG), (-x.prediction).log1p().clamp(min=CLAMPED_LOG)


def _entropy(x: Element) -> Tensor:
    hit, miss = _logs(x)
    return (x.target - 1.0) * miss - x.target * hit


def _entropy_error(x: Element, r: float, largest: float) -> Tensor:
    hit, miss = _logs(x)
    return 10.0 * r * (((1.0 - x.target) * miss).abs() + (x.target * hit).abs())


def _entropy_slope(x: Element) -> Tensor:
    return _gap(x) / ((1.0 - x.prediction) * x.prediction).clamp(min=CLAMPED_PRODUCT)


def _entropy_slope_error(x: Element, r: float, largest: float) -> Tensor:
    """A format that cannot hold the least divisor divides by zero; the constant itself is a float32 everywhere."""
    product = (1.0 - x.prediction) * x.prediction
    relative = torch.where(product < 2.0 * CLAMPED_PRODUCT, 10.0 * r + 2.0**-24, 10.0 * r)
    return torch.where(product > 8.0 / largest, relative * _entropy_slope(x).abs(), torch.inf)


def _softplus(x: Tensor) -> Tensor:
    return x.clamp(min=0.0) + (-x.abs()).exp().log1p()


def _hit_weight(x: Element) -> Tensor | float:
    return 1.0 if x.positive_weight is None else (x.positive_weight - 1.0) * x.target + 1.0


def _logit_entropy(x: Element) -> Tensor:
    return (1.0 - x.target) * x.prediction + _hit_weight(x) * _softplus(-x.prediction)


def _logit_entropy_error(x: Element, r: float, largest: float) -> Tensor:
    """``(1 - t) x + w softplus(-x)``: two terms that may cancel, each with a relative error."""
    weight = 1.0
    if x.positive_weight is not None:
        weight = 1.0 + ((x.positive_weight.abs() + 1.0) * x.target.abs())  # type: ignore[assignment]
    mass = ((1.0 - x.target) * x.prediction).abs() + weight * (_softplus(-x.prediction) + r)
    return 16.0 * r * mass


def _margin(x: Element) -> Tensor:
    return _softplus(-x.target * x.prediction)


def _margin_error(x: Element, r: float, largest: float) -> Tensor:
    """``log(1 + exp(z))`` for z = -t x, also with the sum rounded: r |z| enters exp, 2 r the logarithm."""
    z = -x.target * x.prediction
    error = r * (z.abs() + 8.0) * z.sigmoid() + 6.0 * r * _softplus(z) + 2.0 * r
    return torch.where(z.exp() < 0.5 * largest, error, torch.inf)


def _margin_slope(x: Element) -> Tensor:
    return -x.target * (-x.target * x.prediction).sigmoid()


def _margin_slope_error(x: Element, r: float, largest: float) -> Tensor:
    z = -x.target * x.prediction
    error = r * (z.abs() + 10.0) * _margin_slope(x).abs()
    return torch.where(z.exp() < 0.5 * largest, error, torch.inf)


def _margin_reach(x: Element) -> Tensor:
    return x.target.abs() * (-x.target * x.prediction).exp()


def _relative(slope: Callable[[Element], Tensor]) -> Callable[[Element, float, float], Tensor]:
    return lambda x, r, largest: 8.0 * r * slope(x).abs()


def _square_slope(x: Element) -> Tensor:
    return 2.0 * _gap(x)


def _smooth_slope(x: Element) -> Tensor:
    return (_gap(x) / x.parameter).clamp(-1.0, 1.0)


def _huber_slope(x: Element) -> Tensor:
    return _gap(x).clamp(-x.parameter, x.parameter)


#: Losses by the names of their operators.
RULES: Final[Mapping[str, LossRule]] = MappingProxyType(
    {
        "mse_loss": LossRule(lambda x: _gap(x) ** 2, _square_error, _square_slope, _relative(_square_slope)),
        "smooth_l1_loss": LossRule(_smooth, _smooth_error, _smooth_slope, _relative(_smooth_slope)),
        "huber_loss": LossRule(_huber, _huber_error, _huber_slope, _relative(_huber_slope)),
        "binary_cross_entropy": LossRule(_entropy, _entropy_error, _entropy_slope, _entropy_slope_error),
        "binary_cross_entropy_with_logits": LossRule(_logit_entropy, _logit_entropy_error),
        "soft_margin_loss": LossRule(_margin, _margin_error, _margin_slope, _margin_slope_error, _margin_reach),
    }
)
