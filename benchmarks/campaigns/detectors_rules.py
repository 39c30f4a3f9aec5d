"""Rules that others ship, written from their published descriptions, one row at a time."""

import math
from collections import deque
from typing import Protocol


class Rule(Protocol):
    def __call__(self, step: int, loss: float, channels: dict[str, float]) -> bool: ...


class Rolling:
    """Mean and standard deviation of the last values."""

    def __init__(self, size: int) -> None:
        self.values: deque[float] = deque(maxlen=size)

    def outside(self, value: float, sigmas: float, least: int) -> bool:
        values = self.values
        num_values = len(values)
        verdict = False
        if num_values >= least:
            mean = sum(values) / num_values
            variance = sum([(known - mean) ** 2 for known in values]) / (num_values - 1)
            verdict = value > mean + sigmas * math.sqrt(variance)
        values.append(value)
        return verdict


class SkipStep:
    """OLMo-core's ``SkipStepOptimizer``: above the mean of 128 steps by six standard deviations, from 64 on.

    With ``gradients`` the same for the gradient norm, either one counts, as shipped.
    """

    def __init__(self, *, sigmas: float = 6.0, gradients: bool = False) -> None:
        self.sigmas, self.gradients = sigmas, gradients
        self.losses, self.norms = Rolling(128), Rolling(128)

    def __call__(self, step: int, loss: float, channels: dict[str, float]) -> bool:
        outside = self.losses.outside(loss, self.sigmas, 64)
        norm = channels.get("grad_norm")
        if self.gradients and norm is not None:
            outside = self.norms.outside(norm, self.sigmas, 64) or outside
        return outside


class ZClip:
    """ZClip (arXiv 2504.02507): z above 2.5 against running mean and variance, alpha 0.97, 25 warm-up steps.

    ``channel`` is ``"grad_norm"`` as published, or ``"loss"``. An outlier enters the running values clipped.
    """

    def __init__(self, *, channel: str = "grad_norm", limit: float = 2.5) -> None:
        self.channel, self.limit = channel, limit
        self.first: list[float] = []
        self.mean = self.variance = 0.0

    def __call__(self, step: int, loss: float, channels: dict[str, float]) -> bool:
        value = loss if self.channel == "loss" else channels.get("grad_norm")
        if value is None or not math.isfinite(value):
            return False
        if len(self.first) < 25:
            self.first.append(value)
            self.mean = sum(self.first) / len(self.first)
            self.variance = sum([(known - self.mean) ** 2 for known in self.first]) / len(self.first)
            return False
        deviation = math.sqrt(self.variance) + 1e-6
        score = (value - self.mean) / deviation
        if score > self.limit:
            value = self.mean + self.limit**2 / score * deviation
        self.mean = 0.97 * self.mean + 0.03 * value
        self.variance = 0.97 * self.variance + 0.03 * (value - self.mean) ** 2
        return score > self.limit


class KillLossSpike:
    """MosaicML llm-foundry: above twice the mean of the last 100, more than four times in a row; cap of 10."""

    def __init__(self) -> None:
        self.window: deque[float] = deque(maxlen=100)
        self.num_outside = 0

    def __call__(self, step: int, loss: float, channels: dict[str, float]) -> bool:
        full = len(self.window) == 100
        mean = sum(self.window) / 100 if full else 0.0
        self.num_outside = self.num_outside + 1 if full and loss > 2.0 * mean else 0
        self.window.append(loss)
        return self.num_outside > 4 or (full and mean > 10.0)


class SpikyLoss:
    """Megatron-LM's spiky-loss detector: above ten times the largest loss seen so far, the first ones left out."""

    def __init__(self) -> None:
        self.largest, self.num_rows = 0.0, 0

    def __call__(self, step: int, loss: float, channels: dict[str, float]) -> bool:
        self.num_rows += 1
        outside = self.num_rows > 100 and loss > 10.0 * self.largest
        self.largest = max(self.largest, loss)
        return outside


class ExponentialScore:
    """Value against its own running mean and variance, standardised before it enters them."""

    def __init__(self, alpha: float = 0.02) -> None:
        self.alpha, self.mean, self.variance, self.num_rows = alpha, 0.0, 0.0, 0

    def score(self, value: float) -> float:
        self.num_rows += 1
        if self.num_rows == 1:
            self.mean = value
            return 0.0
        change = value - self.mean
        score = change / math.sqrt(self.variance) if self.variance > 0.0 and self.num_rows > 100 else 0.0
        self.mean += self.alpha * change
        self.variance = (1.0 - self.alpha) * (self.variance + self.alpha * change * change)
        return score


class Cusum:
    """Page's cumulative sum on exponentially standardised losses, restarted after an alarm."""

    def __init__(self, limit: float) -> None:
        self.standard, self.limit, self.total = ExponentialScore(), limit, 0.0

    def __call__(self, step: int, loss: float, channels: dict[str, float]) -> bool:
        self.total = max(0.0, self.total + self.standard.score(loss) - 0.5)
        if self.total <= self.limit:
            return False
        self.total = 0.0
        return True


class PageHinkley:
    """Page-Hinkley test with river's defaults: 30 rows, delta 0.005, threshold 50, forgetting 0.9999, upwards.

    Restarted after an alarm.
    """

    def __init__(self, *, delta: float = 0.005, limit: float = 50.0, standardised: bool = False) -> None:
        self.delta, self.limit = delta, limit
        self.standard = ExponentialScore() if standardised else None
        self.restart()

    def restart(self) -> None:
        self.num_rows, self.mean, self.total, self.least = 0, 0.0, 0.0, math.inf

    def __call__(self, step: int, loss: float, channels: dict[str, float]) -> bool:
        value = loss if self.standard is None else self.standard.score(loss)
        self.num_rows += 1
        self.mean += (value - self.mean) / self.num_rows
        self.total = 0.9999 * self.total + value - self.mean - self.delta
        self.least = min(self.least, self.total)
        if self.num_rows < 30 or self.total - self.least <= self.limit:
            return False
        self.restart()
        return True


def rules() -> dict[str, Rule]:
    """Return every rule, fresh."""
    return {
        "OLMo SkipStep 128/6 sigma, loss": SkipStep(),
        "OLMo SkipStep 128/6 sigma, loss or gradient norm": SkipStep(gradients=True),
        "3 sigma, rolling 128": SkipStep(sigmas=3.0),
        "ZClip, gradient norm": ZClip(),
        "ZClip's rule on the loss": ZClip(channel="loss"),
        "MosaicML KillLossSpike": KillLossSpike(),
        "Megatron spiky loss": SpikyLoss(),
        "CUSUM, k 0.5, h 5": Cusum(5.0),
        "CUSUM, k 0.5, h 20": Cusum(20.0),
        "Page-Hinkley, river's defaults": PageHinkley(),
        "Page-Hinkley on standardised loss": PageHinkley(delta=0.5, standardised=True),
    }
